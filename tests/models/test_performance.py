"""The benchmarks' plumbing on tiny models: no time is asserted anywhere, only that what is timed is the right thing."""

import argparse
import copy
import json
import sys
import weakref
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_z_image import (
    RopeEmbedder,
    ZImageTransformerBlock,
    ZSingleStreamAttnProcessor,
)
from tiny_models import ROOT, ModelFolders

sys.path.insert(0, str(ROOT / "benchmarks"))
import measure
import numpy as np
import reference
import sample
import setting
import subjects
import train_step
import write_performance

from legible.config import Model
from legible.errors import UserError
from legible.models.family import empty_model
from legible.models.zimage.compiled import use_real_rotary
from legible.train.preflight import count

CPU = torch.device("cpu")


@pytest.fixture
def tiny(folders: ModelFolders) -> setting.Setting:
    """The tiny models as a subject of measurement."""
    return tiny_setting(folders)


def tiny_setting(folders: ModelFolders) -> setting.Setting:
    """The tiny models, two samples a micro-step."""
    model = Model(path=str(folders.zimage), device="cpu")
    return setting.Setting("nano", model, folders.clip, (32, 64), 2, 1, {"accumulation": 1}, {})


@pytest.fixture(scope="module")
def training_cases(folders: ModelFolders) -> dict[str, dict]:
    """What train_step measures on the tiny models."""
    tiny = tiny_setting(folders)
    return {case: train_step.try_case(tiny, case, 1, 2, CPU) for case in ("lora", "full", "lora+checkpointing")}


def test_both_sides_compute_the_same_losses(tiny):
    training = train_step.training_of(tiny, "lora")
    subject = setting.subject_of(tiny, 4)
    torch.manual_seed(0)
    assert train_step.disagreement(subject, training) < 1e-5


@pytest.mark.parametrize("wrong", ["sign", "time", "picture"])
def test_a_wrong_reference_is_not_compared_with(tiny, monkeypatch, wrong):
    recipe = reference.recipe_of("zimage")
    predicted = recipe.predicted

    def twisted(model, latents, noise, places, captions):
        loss, clean = predicted(model, latents, noise, (places + 500 * (wrong == "time")) % 1000, captions)
        return (-loss if wrong == "sign" else loss), clean + (wrong == "picture")

    monkeypatch.setattr(recipe, "predicted", twisted)
    with pytest.raises(RuntimeError, match="the losses of both sides differ"):
        train_step.try_case(tiny, "lora", 1, 1, CPU)


def test_flop_of_a_linear_layer():
    layer, rows = torch.nn.Linear(48, 80, bias=False), 10
    product = 2 * rows * 48 * 80
    seen = torch.randn(rows, 48, requires_grad=True)
    assert measure.flop(lambda: layer(seen)) == product
    assert measure.flop(lambda: layer(seen).sum().backward()) == 3 * product  # output, input's and weight's gradient
    layer.requires_grad_(False)
    assert measure.flop(lambda: layer(seen).sum().backward()) == 2 * product


def test_flop_of_a_transformer_block():
    tokens, dim, heads = 96, 64, 2
    block = ZImageTransformerBlock(0, dim, heads, heads, 1e-5, True)
    stream = torch.randn(1, tokens, dim, requires_grad=True)
    rotation, time = torch.ones(1, tokens, dim // heads // 2, dtype=torch.complex64), torch.zeros(1, dim)
    matrices = sum(p.numel() for n, p in block.named_parameters() if p.ndim == 2 and "adaLN" not in n)
    scores = 2 * tokens * tokens * dim  # query · key, and the same again for the weighted sum of the values
    forward = 2 * tokens * matrices + 2 * scores
    assert measure.flop(lambda: block(stream, None, rotation, time)) == pytest.approx(forward, rel=0.02)
    # Backward: two products for each of the forward pass, and the scores once more (flash attention keeps none).
    both = 3 * forward + scores
    assert measure.flop(lambda: block(stream, None, rotation, time).sum().backward()) == pytest.approx(both, rel=0.02)


def test_runs_are_interleaved_and_warm_up_does_not_count():
    order = []
    times = measure.interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 1, 3, CPU)
    assert order == list("ab" * 4)
    assert all(took.runs == 3 and took.low <= took.median <= took.high for took in times.values())


def test_a_case_holds_all_kinds(training_cases):
    case = training_cases["lora"]
    assert case["status"] == "measured"
    assert case["loss_difference"] < 1e-4
    assert set(case["kinds"]) == {
        "ours", "reference", "ours, aux crop", "ours, aux image", "reference, aux", "reference, denoiser",
        "optimiser step",
    }  # fmt: skip
    assert all(kind["median"] > 0 and kind["runs"] == 2 for kind in case["kinds"].values())
    flop = {name: kind["flop"] for name, kind in case["kinds"].items()}
    assert flop["ours"] == flop["reference, denoiser"] < flop["reference"]  # which encodes its pictures again
    # … and that is all by which they differ: the same decoder, the same CLIP.
    assert flop["reference, aux"] - flop["ours, aux image"] == flop["reference"] - flop["ours"]
    assert flop["ours"] < flop["ours, aux crop"] <= flop["ours, aux image"]


def test_cases_are_what_their_names_say(training_cases):
    lora, full, again = (training_cases[name] for name in ("lora", "full", "lora+checkpointing"))
    assert lora["trained"] < full["trained"] <= full["parameters"]
    assert again["trained"] == lora["trained"]
    assert again["kinds"]["ours"]["flop"] > lora["kinds"]["ours"]["flop"]
    assert again["kinds"]["ours"]["memory"]["saved"] < lora["kinds"]["ours"]["memory"]["saved"]
    assert again["planned"] < lora["planned"]


def test_micro_steps_train_the_parameters(tiny):
    training = train_step.training_of(tiny, "full")
    subject = setting.subject_of(tiny, 4)
    trained = train_step.select_parameters(subject.model, training, 0)
    for name, loss in train_step.micro_steps(subject, training).items():
        loss(0).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values()), name
        assert any(p.grad.abs().sum() > 0 for p in trained.values()), name
        subject.model.transformer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in subject.model.vae.parameters())


@pytest.mark.parametrize("case", ["lora+compile", "lora+checkpointing+compile"])
def test_ours_is_compiled_and_the_reference_is_not(tiny, case):
    calls = []

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        def compiled(*arguments):
            calls.append(graph)
            return graph.forward(*arguments)

        return compiled

    training = train_step.training_of(tiny, case)
    assert training.compile
    subject = setting.subject_of(tiny, 4)
    model = subject.model
    train_step.select_parameters(model, training, 0)
    model.save_memory(training.gradient_checkpointing)
    use_real_rotary(model.transformer)
    model.transformer.compile_repeated_blocks(backend=counting)
    ours = [block.attention.processor for block in model.blocks()]
    losses = train_step.micro_steps(subject, training)

    def run_kind(kind: str, step: int) -> int:
        before = len(calls)
        with train_step.side(subject, kind):
            losses[kind](step).backward()
        return len(calls) - before

    blocks = run_kind("ours", 0)
    assert blocks >= 3
    assert run_kind("reference, aux", 0) == run_kind("reference, denoiser", 0) == 0
    assert [block.attention.processor for block in model.blocks()] == ours
    with train_step.side(subject, "reference"):
        assert {type(block.attention.processor) for block in model.blocks()} == {ZSingleStreamAttnProcessor}
        assert isinstance(model.transformer.rope_embedder, RopeEmbedder)
    before = len(calls)
    assert measure.flop(lambda: losses["ours"](0).backward()) > 0
    assert len(calls) == before
    assert run_kind("ours", 1) == blocks
    measure.free_everything()


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate")],
)
def test_out_of_memory_ends_one_case_only(folders, tmp_path, monkeypatch, error):
    text = str(error)
    if "Allocator" in text:
        error = RuntimeError(f"{text} memory: you tried to allocate 1 bytes")
    original, result = train_step.measure_case, tmp_path / "result.json"

    def measured(given, case, *rest):
        if case == "full":
            raise error
        return original(given, case, *rest)

    monkeypatch.setattr(train_step, "setting_of", lambda arguments, folder: tiny_setting(folders))
    monkeypatch.setattr(train_step, "measure_case", measured)
    monkeypatch.setattr(setting, "matmul_peak", lambda dtype, device, side: 1e9)
    run(monkeypatch, train_step, "--model nano --cases full,lora --steps 1 --warmup 1 --output", result)
    written = json.loads(result.read_text())
    assert [case["status"] for case in written["cases"]] == ["out of memory", "measured"]
    assert "| `full` | out of memory |" in write_performance.page([written])


def test_what_a_failed_case_held_is_given_back_before_the_next(monkeypatch):
    held, alive = [], []

    def measured():
        model = torch.nn.Linear(2, 2)
        held.append(weakref.ref(model))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measure.gc, "collect", lambda: alive.append(held[0]()))  # emptying the cache comes after it
    assert measure.attempt("full", measured) == {"case": "full", "status": "out of memory"}
    assert alive == [None]


def test_another_error_is_not_taken_for_it(tiny, monkeypatch):
    def measured(*arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(train_step, "measure_case", measured)
    with pytest.raises(RuntimeError, match="shapes"):
        train_step.try_case(tiny, "lora", 1, 1, CPU)


def test_what_cannot_fit_is_skipped(tiny, monkeypatch):
    monkeypatch.setattr(train_step, "free_bytes", lambda: 1)
    found = train_step.try_case(tiny, "lora", 1, 1, CPU)
    assert found["status"].startswith("skipped: ")
    assert "kinds" not in found


def run(monkeypatch: pytest.MonkeyPatch, script, options: str, output: Path | None = None) -> None:
    """A script's main with a command line."""
    monkeypatch.setattr(sys, "argv", [script.__name__, *options.split(), *([str(output)] if output else [])])
    script.main()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--model nano --cases lora+compiled", "--cases: there is no case 'lora+compiled'; allowed are lora, "),
        ("--model nano --size 512", "--size: nano is measured as it is shipped"),
        ("--model slice --size 500", "--size: 500 is not allowed; it must be a multiple of 64"),
        ("--model slice --size 0", "--size: 0 is not allowed"),
        ("--model slice --batch 0", "--batch: 0 is not allowed; it must be 1 or more"),
        ("--model nano --steps 0", "--steps: 0 is not allowed"),
        ("--model nano --threads -1", "--threads: -1 is not allowed"),
    ],
)
def test_bad_options_of_train_step(tmp_path, monkeypatch, options, named):
    with pytest.raises(UserError) as refused:
        run(monkeypatch, train_step, f"{options} --output", tmp_path / "result.json")
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", ["0", "four", "4+fast", "compile", ""])
def test_bad_cases_of_sample(tmp_path, monkeypatch, case):
    with pytest.raises(UserError, match=r"--cases: .* is no case; allowed is a number of images"):
        run(monkeypatch, sample, f"--model nano --cases 1,{case} --output", tmp_path / "result.json")


def test_sampling_is_measured_on_the_same_pictures(tiny):
    found = measure.attempt("2", lambda: sample.measure_case(tiny, "2", 1, 1, CPU))
    assert found["status"] == "measured"
    kinds = found["kinds"]
    assert (
        kinds["ours"]["flop"] == kinds["reference"]["flop"] == 8 * kinds["one step"]["flop"] + kinds["decode"]["flop"]
    )
    subject = setting.subject_of(tiny, 2)
    noise = torch.randn(subject.data.latents.shape)
    runs = sample.kinds_of(subject, subject.data.conditioning, noise)
    theirs = np.stack([np.asarray(image) for image in runs["reference"]()])
    assert np.abs(runs["ours"]().numpy().astype(int) - theirs.astype(int)).max() <= 1


def options(line: str) -> argparse.Namespace:
    """The options that all scripts share."""
    parser = argparse.ArgumentParser()
    setting.add_options(parser)
    return parser.parse_args(f"{line} --output unused.json".split())


def test_the_full_model_is_the_real_one(tmp_path):
    full = empty_model(setting.setting_of(options("--model full"), tmp_path).model)
    assert count(full.module("denoiser")) == 6_154_908_736
    assert count(full.module("vae")) == 83_819_683
    assert count(full.module("text_encoder")) > 3.9e9


def test_a_slice_is_scaled_by_its_layers(tmp_path):
    part = setting.setting_of(options("--model slice"), tmp_path)
    assert [len(empty_model(model).blocks()) for model in (part.model, part.whole[1])] == [6, 34]
    scale = setting.scale_of(part)
    tokens = {"layers": 1088, "noise": 1024, "captions": 64}
    full, few = (n * tokens["layers"] + r * (tokens["noise"] + tokens["captions"]) for n, r in ((30, 2), (4, 1)))
    assert scale == {"to": "full", "denoiser": pytest.approx(full / few, rel=0.01)}
    assert setting.scale_of(setting.setting_of(options("--model nano"), tmp_path)) is None


def test_a_family_without_a_recipe_is_named():
    with pytest.raises(UserError, match=r"--model: there is nothing to compare stable_diffusion with; .*reference is"):
        reference.recipe_of("stable_diffusion")


def test_random_weights_are_all_set_in_their_own_type(tmp_path):
    components = copy.deepcopy(setting.models()["full"]["components"])
    components["transformer"] |= {"dim": 64, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32, "n_layers": 1}
    components["transformer"] |= {"axes_dims": [8, 12, 12], "axes_lens": [128, 32, 32]}
    components["vae"] |= {"block_out_channels": [32, 32, 32, 32]}
    components["text_encoder"] |= {"num_hidden_layers": 1}
    folder = subjects.write_configs(tmp_path, components)
    model = Model(path=str(folder), dtype="bfloat16", device="cpu")
    subject, again = (subjects.open_subject(model, None, 2, (64, 64)) for _ in range(2))
    for name, parameter in subject.model.transformer.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert parameter.device == CPU
        assert parameter.isfinite().all(), name
        assert parameter.abs().sum() > 0 or name.endswith("bias"), name
        assert torch.equal(parameter, again.model.transformer.get_parameter(name))
    assert subject.model.scheduler.config.shift == 3.0
    assert subject.data.latents.shape == (2, 16, 8, 8)
    assert torch.equal(subject.data.latents, again.data.latents)


def result(model: str, device: str, cases: list[dict]) -> dict:
    """A result file of train_step."""
    about = {"machine": "a machine", "versions": {"torch": "9"}, "command": "python x", "date": "2030-01-01"}
    shape = {"benchmark": "train_step", "model": model, "size": [512, 512], "dtype": "bfloat16", "batch": 1}
    return {**about, **shape, "device": device, "threads": 2, "matmul_peak": 800e12, "cases": cases}


def case(name: str, ours: float, theirs: float, peak: float | None, quantization: str = "none") -> dict:
    """A measured case: seconds of our and the reference's micro-step, GiB at the peak."""
    memory = peak and {"allocated": peak * 2**30, "reserved": (peak + 1) * 2**30}
    seconds = {
        "ours": ours, "reference": theirs, "ours, aux crop": 1.4 * ours, "ours, aux image": 2 * ours,
        "reference, aux": 2 * theirs, "optimiser step": 0.016,
    }  # fmt: skip
    kinds = {
        kind: {
            "median": took,
            "low": took,
            "high": took,
            "runs": 5,
            "flop": 27e12,
            "memory": memory or {"saved": 2**30},
        }
        for kind, took in seconds.items()
    }
    training = {"accumulation": 8, "quantization": quantization}
    return {"case": name, "status": "measured", "training": training, "kinds": kinds}


def sliced(cases: list[dict], layers: float) -> dict:
    """A result of the slice on a CPU, whose whole model computes `layers` times as much."""
    return result("slice", "cpu", cases) | {"scale": {"to": "full", "denoiser": layers}}


def verdicts(results: list[dict]) -> dict[str, str]:
    """Goal → met, not met or not measured."""
    return {goal.text: goal.verdict for goal in write_performance.goals(results)}


def test_goals_met_not_met_and_not_measured():
    assert set(verdicts([]).values()) == {"not measured"}
    gpu = [case("lora", 0.090, 0.1, 20.0), case("lora+compile", 0.055, 0.1, 17.0), case("full", 0.086, 0.2, 60.0)]
    found = verdicts([result("full", "NVIDIA H200", gpu), result("nano", "cpu", [case("lora", 0.1, 0.21, None)])])
    assert found == {
        "H200: LoRA, ≤ 60 ms per micro-step at 512²": "met",
        "H200: LoRA, peak ≤ 18 GiB": "met",
        "H200: LoRA, auxiliary loss every 8 steps ≤ 5 % on top": "met",  # 40 % of every eighth: exactly 5 %
        "H200: full fine-tuning, ≤ 85 ms per micro-step at 512²": "not met",
        "H200: full fine-tuning, peak ≤ 56 GiB": "not met",
        "H200: full fine-tuning, auxiliary loss every 8 steps ≤ 5 % on top": "met",
        "H200: LoRA on a quantised base, peak ≤ 12 GiB": "not measured",
        "CPU: nano, auxiliary loss every 8 steps: ≥ 2 × the reference": "met",
        "CPU: nano, auxiliary loss at every step: ≥ 2 × the reference": "met",
        "CPU: slice, auxiliary loss every 8 steps: ≥ 2 × the reference": "not measured",
        "CPU: slice, auxiliary loss at every step: ≥ 2 × the reference": "not measured",
    }


def test_of_a_slice_all_layers_count():
    one = case("lora", 0.1, 0.18, None)
    one["kinds"]["reference, denoiser"] = one["kinds"]["reference"] | {"median": 0.12}
    step = 0.016 / 8
    assert write_performance.ratio(one, 1) == pytest.approx((0.36 + step) / (0.14 + step))
    ours, theirs = 0.14 + 9 * 0.1 + step, 0.36 + 9 * 0.12 + step
    assert write_performance.ratio(one, 1, 10.0) == pytest.approx(theirs / ours)
    assert write_performance.ratio(one, None, 10.0) == pytest.approx((0.18 + 9 * 0.12 + step) / (10 * 0.1 + step))
    assert write_performance.surcharge(one, 10.0) == pytest.approx(0.4 / 8 / 10)
    page = write_performance.page([sliced([one], 10.0)])
    assert f"| {(0.36 + step) / (0.14 + step):.2f} × | {theirs / ours:.2f} × | 5.0 % | 0.5 % |" in page
    assert "| scaled to full |" in page
    goal = "CPU: slice, auxiliary loss at every step: ≥ 2 × the reference"
    assert verdicts([result("slice", "cpu", [one])])[goal] == "met"  # as measured …
    assert verdicts([sliced([one], 10.0)])[goal] == "not met"


def test_where_the_references_denoiser_was_not_timed_apart_its_operations_divide_its_time():
    one = case("lora", 0.1, 0.18, None)
    one["kinds"]["reference"]["flop"] = 1.5 * one["kinds"]["ours"]["flop"]
    assert write_performance.denoiser_seconds(one, "reference") == pytest.approx(0.12)
    assert "| ≈ " in write_performance.page([sliced([one], 10.0)])


def test_the_page_says_which_command_made_a_table():
    makefile = "PYTHON ?= python3\nbench: environment\n\t$(MEASURE) benchmarks/x.py --steps 3 \\\n\t  --output a.json\n"
    commands = write_performance.makefile_commands(makefile)
    assert commands == {"a.json": ("bench", "python benchmarks/x.py --steps 3 --output a.json")}
    said = write_performance.made_by("python benchmarks/x.py --steps 3 --output a.json", commands)
    assert said == "Made by `make bench`: `python benchmarks/x.py --steps 3 --output a.json`"
    said = write_performance.made_by("python benchmarks/x.py --steps 2 --output a.json", commands)
    assert said.startswith("**Not made by a command of the Makefile**, but by `python benchmarks/x.py --steps 2 ")
    assert said.endswith("`make bench` now runs `python benchmarks/x.py --steps 3 --output a.json`.")
    assert write_performance.made_by("python y.py", commands).endswith("but by `python y.py`.")
    real = write_performance.makefile_commands((ROOT / "Makefile").read_text())
    assert {target for target, _ in real.values()} == {"benchmarks", "benchmarks-gpu"}
    assert len(real) == 7


def test_the_shipped_page_is_that_of_the_shipped_results():
    page = write_performance.page(write_performance.read_results(ROOT / "docs" / "performance"))
    assert (ROOT / "docs" / "PERFORMANCE.md").read_text(encoding="utf-8") == page


def test_goals_of_an_h200_need_an_h200_and_quantised_cases_stand_apart():
    quick, small = case("lora", 0.05, 0.1, 17.0), case("lora+nf4", 0.01, 0.1, 11.0, "nf4")
    assert verdicts([result("full", "NVIDIA A100", [quick])])["H200: LoRA, peak ≤ 18 GiB"] == "not measured"
    goals = {goal.text: goal for goal in write_performance.goals([result("full", "NVIDIA H200", [quick, small])])}
    assert goals["H200: LoRA on a quantised base, peak ≤ 12 GiB"].verdict == "met"
    assert goals["H200: LoRA, peak ≤ 18 GiB"].found == "17 GiB (`lora`, the fastest)"


def test_the_page_shows_what_was_found():
    page = write_performance.page([result("slice", "cpu", [case("full", 0.1, 0.21, None)])])
    assert "| `full` | 102 ms | 2.08 × | 107 ms | 2.23 × | 142 ms | 2.97 × | 5.0 % |" in page
    assert "| `full` | without aux | 100 ms | 27 | 270 | 34 % | 1.00 GiB |" in page
    assert "Not measured yet: this one command fills it, on a machine with an H200: `make benchmarks-gpu`." in page
    assert "a machine; 2 threads" in page
    page = write_performance.page([result("full", "NVIDIA H200", [case("full", 0.1, 0.21, 40.0)])])
    assert "| `full` | optimiser step | 16 ms |  |  |  | 40.0 / 41.0 GiB |" in page
    assert "Not measured yet" not in page


def test_result_files_to_page(tmp_path, monkeypatch):
    folder, output = tmp_path / "performance", tmp_path / "PERFORMANCE.md"
    with pytest.raises(UserError, match=r"--results: .* is no folder"):
        run(monkeypatch, write_performance, f"--results {folder} --output", output)
    folder.mkdir()
    good = result("nano", "cpu", [case("lora", 0.1, 0.2, None)])
    (folder / "b.json").write_text(json.dumps(good))
    (folder / "a.json").write_text(json.dumps(good | {"model": "full", "device": "NVIDIA H200"}))
    run(monkeypatch, write_performance, f"--results {folder} --output", output)
    page = output.read_text()
    assert page.index("## full: training step") < page.index("## nano: training step")
    assert max(len(line) for line in page.splitlines()) < 400
    for broken, message in (
        ("{", "not valid JSON"),
        (json.dumps({"cases": []}), "not a result of train_step.py"),
        (json.dumps(good | {"model": "tiny"}), "benchmarks/models.yaml has no model 'tiny'"),
    ):
        (folder / "c.json").write_text(broken)
        with pytest.raises(UserError, match=rf"c\.json: {message}"):
            run(monkeypatch, write_performance, f"--results {folder} --output", output)
        assert output.read_text() == page


def test_sampling_table():
    memory = {"allocated": 2**34, "reserved": 2**34}
    seconds = {"ours": 0.8, "reference": 1.6, "one step": 0.08, "decode": 0.1}
    kinds = {
        kind: {"median": took, "low": took, "high": took, "runs": 5, "flop": 80e12, "memory": memory}
        for kind, took in seconds.items()
    }
    one = result("full", "NVIDIA H200", []) | {"benchmark": "sample"}
    failed = {"case": "64", "status": "out of memory"}
    page = write_performance.page(
        [one | {"cases": [{"case": "4", "status": "measured", "batch": 4, "kinds": kinds}, failed]}]
    )
    assert "| `4` | 200 ms | 2.00 × | 80 ms | 100 ms | 100 | 12 % | 16.0 / 16.0 GiB |" in page
    assert "| `64` | out of memory |" in page


def test_surcharge_counts_one_step_in_eight():
    one = copy.deepcopy(case("lora", 0.1, 0.2, None))
    assert write_performance.surcharge(one) == pytest.approx(0.05)
    assert write_performance.per_micro_step(one, "ours", None) == pytest.approx(0.1 + 0.016 / 8)
    assert write_performance.per_micro_step(one, "ours", 8) == pytest.approx(0.1 * (7 + 1.4) / 8 + 0.016 / 8)
    assert write_performance.per_micro_step(one, "reference", 1) == pytest.approx(0.4 + 0.016 / 8)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_base_is_measured_with_lora_on_both_sides(tiny, kind):
    pytest.importorskip({"int8": "torchao", "nf4": "bitsandbytes"}[kind])
    training = train_step.training_of(tiny, f"lora+{kind}")
    assert (training.method, training.quantization) == ("lora", kind)
    found = train_step.measure_case(tiny, f"lora+{kind}", 0, 1, CPU)
    assert found["loss_difference"] < 1e-4
    whole = train_step.measure_case(tiny, "lora", 0, 1, CPU)
    assert found["trained"] == whole["trained"]
    assert found["weight_bytes"] < whole["weight_bytes"]
