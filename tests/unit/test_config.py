"""The configuration: every mistake is one sentence, and `config.yaml` documents what the code does."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import update_config

from legible import config
from legible.config import Config, Section, merge, sections, validate
from legible.config.allowed import OF_NO_REGIME, rule_names
from legible.document import document, schema
from legible.errors import UserError
from legible.render.fonts import find_fonts, select_fonts

ROOT = Path(__file__).resolve().parents[2]
LEAVES = st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
TREES = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner | LEAVES, max_size=3),
    max_leaves=6,
)


def test_config_yaml_is_the_documented_default():
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    assert text == document()
    assert config.load(ROOT / "config.yaml") == Config()
    assert yaml.safe_load(text) == Config().model_dump(mode="json", by_alias=True)


def test_the_module_writes_config_yaml():
    done = subprocess.run([sys.executable, "-m", "legible.document"], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == (ROOT / "config.yaml").read_bytes()


def test_every_key_has_a_default_and_the_default_is_valid():
    assert Config() == validate({}, "x")
    assert Config.model_validate(Config().model_dump(mode="json", by_alias=True)) == Config()


def test_null_takes_a_default_arm_out():
    arms = Config().model_dump(by_alias=True)["arms"]
    assert set(validate({"arms": arms | {"clip_region": None}}, "x").arms) == set(arms) - {"clip_region"}
    with pytest.raises(UserError, match="must be there"):
        validate({"arms": arms | {"diffusion_only": None}}, "x")


def test_an_arms_own_reader_cannot_be_the_only_judge():
    config = {"ocr": {"rapidocr": None, "easyocr": {"network": Config().reader.network}}}
    with pytest.raises(
        UserError, match=r"arms\.ctc: its own reader \(resources/nano/recognizer_conv\) is the only judge"
    ):
        validate(config, "x")
    assert validate({"ocr": {"easyocr": {"network": Config().reader.network}}}, "x").engines().keys() == {
        "rapidocr",
        "easyocr",
    }
    assert validate(config | {"arms": {"diffusion_only": {}}}, "x").arms.keys() == {"diffusion_only"}


def test_the_control_is_the_default_arm_with_lambda_zero():
    default = Config()
    assert default.arm("diffusion_only").aux.lambda_aux == 0
    aux = default.arm("clip_region").aux
    assert (aux.loss, aux.lambda_aux, aux.every) == ("clip_region", 0.2, 8)
    assert default.arm("diffusion_only").model_dump(exclude={"aux"}) == default.arm("clip_region").model_dump(
        exclude={"aux"}
    )
    assert len(default.seeds) == 2


def test_an_arm_overrides_key_by_key():
    raw = {
        "training": {"steps": 9, "aux": {"margin": 5}},
        "arms": {
            "diffusion_only": {},
            "wide": {"aux": {"loss": "clip_region", "lambda": 1.5}, "method": "lora", "lora": {"rank": 2}},
        },
    }
    arm = validate(raw, "x").arm("wide")
    assert (arm.steps, arm.aux.margin, arm.aux.lambda_aux, arm.aux.every) == (9, 5, 1.5, 8)
    assert (arm.lora.rank, arm.lora.alpha) == (2, 8.0)


CONTROL = {"diffusion_only": {}}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"trainign": {}}, r"^c\.yaml: trainign: unknown key; did you mean `training`\?$"),
        (
            {"training": {"learning_rat": 1.0e-4}},
            r"^c\.yaml: training\.learning_rat: unknown key; did you mean `learning_rate`\?$",
        ),
        ({"training": {"aux": {"lamda": 0.1}}}, r"training\.aux\.lamda: unknown key"),
        ({"arms": CONTROL | {"x": {"step": 3}}}, r"arms\.x\.step: unknown key"),
        ({"arms": CONTROL | {"x": {"aux": {"lambda_aux": 0.5, "loss": "clip_region"}}}}, r"arms\.x\.aux\.lambda_aux"),
        ({"training": {"learning_rate": "1e-4"}}, r"'1e-4' is text, a number is needed; .* write 1\.0e-04"),
        (
            {"generation": {"batch_size": "32"}},
            r"'32' is text, a whole number is needed; take its quotation marks away",
        ),
        ({"training": {"steps": "many"}}, r"training\.steps: 'many' is text, a whole number is needed$"),
        ({"training": {"aux": {"loss": "clip_region", "lambda": -0.1}}}, r"aux\.lambda: it must be 0 or more"),
        ({"arms": CONTROL | {"x": {"aux": {"loss": "clip_region", "lambda": -1}}}}, r"arms\.x\.aux\.lambda: .*got -1"),
        (
            {"training": {"aux": {"lambda": 0.2}}},
            r"training\.aux\.lambda: above 0 it needs a loss; set `loss: clip_region`, `loss: ctc` or `lambda: 0`",
        ),
        ({"training": {"aux": {"loss": "ctcc"}}}, r"aux\.loss: .*'ctcc' is no loss; allowed are none, clip_region"),
        (
            {"training": {"aux": {"sigma_window": [0.5, 0.5]}}},
            "sigma_window: the first number must be below",
        ),
        ({"training": {"learning_rate": float("inf")}}, r"learning_rate: .*finite"),
        ({"training": {"learning_rate": float("nan")}}, r"learning_rate: "),
        ({"training": {"steps": 1.5}}, r"training\.steps: a whole number is needed, got 1\.5"),
        ({"training": {"steps": True}}, r"training\.steps: .*got true"),
        ({"training": {"ema": 1.0}}, r"training\.ema: .*below 1"),
        ({"training": {"modules": []}}, r"training\.modules: .*at least 1"),
        ({"training": {"method": "dora"}}, r"training\.method: .*'full' or 'lora'"),
        ({"arms": {"only": {}}}, "`diffusion_only` with lambda 0 must be there"),
        (
            {"arms": {"diffusion_only": {"aux": {"loss": "clip_region", "lambda": 0.1}}}},
            "`diffusion_only` with lambda 0",
        ),
        ({"arms": CONTROL | {"Bad-Name": {}}}, "Bad-Name"),
        ({"arms": {"diffusion_only": None}}, "`diffusion_only` with lambda 0 must be there"),
        ({"experiment": "../elsewhere"}, r"experiment: a name has small letters .* got '\.\./elsewhere'"),
        ({"data": {"length": [6, 2]}}, r"length: the first number must not exceed the second, got \[6, 2\]"),
        ({"data": {"kinds": {"word": 0, "rare": 0, "nonword": 0, "digits": 0}}}, "at least one kind needs a weight"),
        ({"data": None}, r"data: "),
        ({"seeds": []}, r"seeds: .*at least 1"),
        ({"seeds": [0, 0]}, r"seeds: every value may be given once only, got \[0, 0\]"),
        ({"generation": {"seeds": [1, 1]}}, r"generation\.seeds: every value may be given once only"),
        ({"generation": {"guidance_scale": -1}}, r"guidance_scale"),
        ({"prompt_sets": {}}, r"prompt_sets: .*at least 1"),
        (
            {"prompt_sets": {"late": {"path": "p.jsonl", "tuned_steps": 9}}},
            r"prompt_sets\.late\.tuned_steps: 9 is more than steps \(8\)",
        ),
        (
            {"prompt_sets": {"other": {"path": "p.jsonl", "scheduler": "pndm"}}},
            r"prompt_sets\.other\.scheduler: zimage has its own scheduler only; choose null",
        ),
        ({"prompt_sets": {"none": {}}}, r"prompt_sets\.none: .*either a path or split: test"),
        ({"prompt_sets": {"two": {"path": "p.jsonl", "split": "test"}}}, r"prompt_sets\.two: .*either a path or"),
        (
            {"prompt_sets": {"unseen": {"split": "test"}}, "data": {"test": 0}},
            r"prompt_sets\.unseen\.split: it needs plain signs \(render: null\) and data\.test above 0",
        ),
        ({"calibration": {"color": "mauve"}}, r"calibration\.color: .*'mauve' is no colour"),
        ({"calibration": {"severities": [1.5]}}, r"calibration\.severities, entry 1: "),
        ({"glyph_judge": {}}, r"glyph_judge\.path: "),
        ({"ocr": {"rapidocr": None, "easyocr": None}}, "ocr: at least one engine is needed"),
        (
            {"figures": {"cer_by_arm": {"colors": ["red", "#000000", "#ffffff"]}}},
            r"colors, entry 1: a colour is written as #0072B2",
        ),
        ({"model": {"dtype": "float16"}}, r"model\.dtype: .*'float32' or 'bfloat16'"),
        ({"training": {"weights": "bfloat16"}}, r"arms\..*weights: bfloat16 needs model\.dtype bfloat16, got float32"),
        (
            {"training": {"gradient_checkpointing": ["vae"]}},
            r"gradient_checkpointing.*'auto', 'denoiser' or 'decoder'",
        ),
        ({"arms": CONTROL | {"a": {"aux": {"loss": "ctc"}}}}, r"arms\.a\.aux\.lambda: 0, so its loss is never heard"),
        (
            {"arms": CONTROL | {"a": {"steps": 4, "aux": {"loss": "ctc", "lambda": 1.0, "every": 8}}}},
            r"arms\.a\.aux\.every: 8, but there are 4 steps",
        ),
        ({"arms": CONTROL | {"a": {"lora": {"rank": 4}}}}, r"arms\.a\.lora: method is full; set method: lora"),
        (
            {"training": {"aux": {"loss": "ctc", "lambda": 300.0, "balance": "gradient_norm"}}},
            r"training\.aux.*lambda: 300\.0 is not within lambda_bounds",
        ),
        ({"training": {"snapshots": [1, 1]}}, r"training\.snapshots: every value may be given once only, got \[1, 1\]"),
        ({"anchor": {"seeds": [0, 0]}}, r"anchor\.seeds: every value may be given once only"),
        ({"training": {"parts": ["denoiser", "denoiser"]}}, r"training\.parts: every value may be given once only"),
        ({"scoring": {"confidence": 1.0}}, r"scoring\.confidence: .*below 1"),
    ],
)
def test_every_mistake_is_one_sentence_that_names_the_key(raw, message):
    with pytest.raises(UserError, match=message) as caught:
        validate(raw, "c.yaml")
    assert str(caught.value).startswith("c.yaml: ")
    assert "\n" not in str(caught.value)


def test_yaml_itself_reads_1e_4_as_text(tmp_path):
    (tmp_path / "c.yaml").write_text("training:\n  learning_rate: 1e-4\n")
    with pytest.raises(UserError, match=r"c\.yaml: training\.learning_rate: '1e-4' is text"):
        config.load(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("training:\n  learning_rate: 1.0e-4\n")
    assert config.load(tmp_path / "c.yaml").training.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "sections are needed, each with keys and values"),
        ("a: [1, 2", "not valid YAML"),
        ("!!python/object/apply:os.system ['echo unsafe']", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        config.load(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: no such configuration file"):
        config.load(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert config.load(tmp_path / "empty.yaml") == Config()


def test_sections_are_immutable():
    for section in (Config(), Config().training, Config().training.aux):
        name = next(iter(type(section).model_fields))
        with pytest.raises(ValueError, match="frozen"):
            setattr(section, name, 1)


def test_a_stage_gets_only_what_it_asks_for_validated():
    found = sections(json.dumps({"training": {"steps": 3}, "seeds": [4]}), "training")
    assert found["training"].steps == 3
    assert found["seeds"] == (4,)
    assert isinstance(found["training"], Section)
    for text, message in (
        ('{"training": {"steps": 0}}', r"training\.steps: .*above 0"),
        ('{"seeds": [], "training": {}}', r"seeds: at least 1"),
        ('{"models": {}}', "models: unknown key; did you mean `model`"),
        ("{}", "the section training is missing"),
        ("[]", "no such configuration file"),
        ('{"training": ', "not valid JSON"),
    ):
        with pytest.raises(UserError, match=message):
            sections(text, "training")


@given(TREES)
def test_merging_nothing_changes_nothing(tree):
    assert merge(tree, {}) == tree
    assert merge({}, tree) == tree
    assert merge(tree, tree) == tree


@given(TREES, TREES, TREES)
def test_merging_is_associative(a, b, c):
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) or clash(a, b, c)


def clash(a: object, b: object, c: object) -> bool:
    """Whether a leaf lies between two mappings somewhere: then (and only then) the order of merging may count."""
    if not (isinstance(a, dict) and isinstance(c, dict) and isinstance(b, dict)):
        return isinstance(a, dict) and isinstance(c, dict) and not isinstance(b, dict)
    return any(clash(a[key], b[key], c[key]) for key in a.keys() & b.keys() & c.keys())


@given(TREES, TREES)
def test_the_override_wins_and_nothing_else_is_lost(base, override):
    before = json.dumps([base, override])
    merged = merge(base, override)
    assert json.dumps([base, override]) == before  # neither is changed
    assert merged.keys() == base.keys() | override.keys()
    for key, value in merged.items():
        if key not in override:
            assert value == base[key]
        elif not isinstance(override[key], dict) or not isinstance(base.get(key), dict):
            assert value == override[key]
        else:
            assert value == merge(base[key], override[key])


@pytest.mark.parametrize("overlay", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_overlay_is_valid_as_snakemake_merges_it(overlay):
    merged = yaml.safe_load((ROOT / "config.yaml").read_text())
    below = {"zimage_turbo_full": ["zimage_turbo.yaml"]}  # laid over another overlay
    for name in [*below.get(overlay.stem, []), overlay.name]:
        update_config(merged, yaml.safe_load((ROOT / "configs" / name).read_text()))
    merged = validate(merged, overlay.name)
    assert merged != Config()
    bundled = merged.fonts.model_copy(update={"system": False})  # what every machine has must do
    assert select_fonts(find_fonts(bundled), merged.fonts.train, merged.fonts.held_out)
    assert overlay.stem != "tesseract" or set(merged.engines()) == {"rapidocr", "easyocr", "tesseract"}


def test_the_schema_is_that_of_the_code():
    command = [sys.executable, "-m", "legible.document", "--schema"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == (ROOT / "config.schema.json").read_bytes()


@pytest.mark.parametrize("path", [ROOT / "config.yaml", *sorted((ROOT / "configs").glob("*.yaml"))], ids=str)
def test_editors_accept_every_shipped_configuration(path):
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {"trainign": {}},
        {"training": {"stepz": 3}},
        {"training": {"steps": "many"}},
        {"arms": {"ctc": {"aux": {"lambda": -1}}}},
        {"regimes": {"shift": {"seeds": "all"}}},
        {"model": {"family": "none"}},
    ],
)
def test_editors_mark_what_is_wrong(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema())


def test_a_results_page_overwrites_no_other_file(monkeypatch):
    monkeypatch.chdir(ROOT)
    for page in ("docs/RESULTS.md", "pages/new.md", None):
        config.check_page(validate({"results_page": page}, "x"))
    with pytest.raises(UserError, match=r"results_page: README\.md is another file"):
        config.check_page(validate({"results_page": "README.md"}, "x"))


def test_a_prompt_set_may_sample_in_its_own_way():
    own = {"path": "p.jsonl", "limit": 4, "steps": 5, "tuned_steps": 2, "guidance_scale": 1.5, "scheduler": "euler"}
    sets = {"usual": {"path": "p.jsonl"}, "own": own}
    config = validate({"prompt_sets": sets, "model": {"family": "stable_diffusion"}}, "c.yaml")
    assert config.generation_of("usual") == config.generation
    assert config.generation_of("own") == config.generation.model_copy(
        update={"steps": 5, "tuned_steps": 2, "guidance_scale": 1.5, "scheduler": "euler"}
    )


def test_rule_names_are_the_workflows_and_regimes_share_none():
    regimes = {name: {"title": name} for name in ("score", "x", "x_score", "install", "x_install")}
    assert list(validate({"regimes": regimes}, "c.yaml").regimes) == list(regimes)
    assert {"all", "generate_baseline", "generate_snapshot", *OF_NO_REGIME} <= set(rule_names())
    assert f"exclude {', '.join(OF_NO_REGIME)} as regime*" in (ROOT / "Snakefile").read_text()
