"""Files and folders that a configuration names: found, or refused in one sentence that names the key."""

import os
from pathlib import Path

import pytest
import yaml
from snakemake.common.configfile import load_configfile

from legible.admit import admitted, weights_of
from legible.config import Config, Reader, in_usual_order, validate
from legible.config.inputs import FILES, FOLDERS, is_hub_id, located, places
from legible.corpus.benchmarks import BENCHMARKS
from legible.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FETCHED = {f"results/prompts/{name}.jsonl" for name in BENCHMARKS}


def config(**changes) -> Config:
    return validate(changes, "test")


def test_the_default_configuration_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert located(Config(), ROOT) == Config()  # as they are written
    monkeypatch.chdir(tmp_path)
    found = located(Config(), ROOT)
    assert found.model.path == str(ROOT / "resources/nano/zimage")
    assert found.prompt_sets["held_out"].path == str(ROOT / "resources/prompts/held_out.jsonl")


def test_the_working_directory_comes_before_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resources/prompts").mkdir(parents=True)
    (tmp_path / "resources/prompts/held_out.jsonl").touch()
    assert located(Config(), ROOT).prompt_sets["held_out"].path == "resources/prompts/held_out.jsonl"


def test_a_path_is_never_taken_for_an_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "--limit").touch()
    changed = config(prompt_sets={"x": {"path": "--limit"}})
    assert located(changed, ROOT).prompt_sets["x"].path == "./--limit"


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("prompt_sets.x.path", {"prompt_sets": {"x": {"path": "nowhere.jsonl"}}}),
        ("prompt_sets.x.path", {"prompt_sets": {"x": {"path": "results/prompts/unknown.jsonl"}}}),
        ("anchor.prompts", {"anchor": {"prompts": "nowhere.jsonl"}}),
        ("drift.prompts", {"drift": {"prompts": "nowhere.jsonl"}}),
        ("fonts.folders, entry 2", {"fonts": {"folders": ["resources", "nowhere"]}}),
        ("model.path", {"model": {"path": "resources/nano/nowhere"}}),
        ("model.path", {"model": {"path": "resources/nowhere"}}),  # like a hub id, but there is such a folder
        ("model.path", {"model": {"path": "nowhere"}}),
        ("clip.path", {"clip": {"path": "./nowhere"}}),
        ("reader.network", {"reader": {"network": "nowhere"}}),
        ("reader.models", {"reader": {"models": "nowhere"}}),
        ("ocr.easyocr.network", {"ocr": {"easyocr": {"network": "nowhere"}}}),
        ("ocr.tesseract.data", {"ocr": {"tesseract": {"data": "nowhere"}}}),
        ("glyph_judge.path", {"glyph_judge": {"path": "nowhere"}}),
        ("training.assistant_lora", {"training": {"assistant_lora": "nowhere.safetensors"}}),
        ("arms.x.assistant_lora", {"arms": {"diffusion_only": {}, "x": {"assistant_lora": "nowhere.safetensors"}}}),
        ("benchmarks", {"benchmarks": "nowhere"}),
    ],
)
def test_what_is_not_there_is_named_with_its_key(monkeypatch, key, changes):
    monkeypatch.chdir(ROOT)
    kind = "file" if any(part in key for part in ("prompt", "lora")) else "folder"
    with pytest.raises(UserError, match=rf"^regimes\.y\.{key}: there is no {kind} '") as caught:
        located(config(**changes), ROOT, FETCHED, "regimes.y.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "why"), [("resources", "'resources' is a folder, a file is needed"), ("", "it is empty")]
)
def test_what_is_no_file_at_all(monkeypatch, path, why):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=rf"^prompt_sets\.x\.path: {why}"):
        located(config(prompt_sets={"x": {"path": path}}), ROOT)


@pytest.mark.parametrize("path", ["a{.jsonl", "a}.jsonl"])
def test_a_path_that_snakemake_would_misread_is_refused(path):
    with pytest.raises(UserError, match=r"prompt_sets\.x\.path: .* holds a brace or a line break"):
        located(config(prompt_sets={"x": {"path": path}}), ROOT)


def test_what_is_fetched_or_known_by_name_need_not_be_there(monkeypatch):
    monkeypatch.chdir(ROOT)
    changes = {
        "prompt_sets": {"x": {"path": min(FETCHED)}},
        "model": {"path": "Tongyi-MAI/Z-Image-Turbo"},
        "clip": {"path": "laion/CLIP-ViT-B-32"},
        "reader": {"network": "standard"},
    }
    assert located(config(**changes), ROOT, FETCHED) == config(**changes)


def test_hub_ids_and_folders():
    assert is_hub_id("owner/name-1.5", ROOT)
    for path in ("a/b/c", "/a/b", "./a", "../a", "~/a", "a", "", "resources/x", "a/", "a/.b"):
        assert not is_hub_id(path, ROOT), path


def test_every_pattern_names_something():
    """A renamed key would drop out of the check silently."""
    full = {
        "fonts": {"folders": ["x"]}, "drift": {}, "benchmarks": "x", "protocol": "x", "reader": {"models": "x"},
        **{reward: {"path": "x"} for reward in ("caption_clip", "aesthetic", "pickscore", "hps", "imagereward")},
        "training": {"assistant_lora": "x"}, "arms": {"diffusion_only": {"assistant_lora": "x"}},
        "ocr": {"easyocr": {"models": "x"}, "tesseract": {"data": "x"}},
        "glyph_judge": {"path": "x"},
    }  # fmt: skip
    plain = config(**full).model_dump(mode="json", by_alias=True) | {
        "validation": {"prompts": "x"}
    }  # refused with LoRA
    assert [pattern for pattern in (*FILES, *FOLDERS) if not list(places(plain, pattern.split(".")))] == []


def test_arms_keep_the_order_of_the_file_and_new_ones_come_last(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"arms": {"b": {}, "a": {}, "c": None}}, sort_keys=False))
    ordered = in_usual_order({"arms": {"new": {}, "a": {}, "c": None, "b": {}}, "seeds": [1]}, path)
    assert list(ordered["arms"]) == ["b", "a", "c", "new"]
    assert ordered["seeds"] == [1]
    assert in_usual_order({"arms": 3}, path) == {"arms": 3}  # for the validation to refuse


@pytest.mark.parametrize("page", ["docs/RESULTS.md", "pages/RESULTS.md", "my-pages/a/b_1.md", None])
def test_what_a_results_page_may_be_called(page):
    assert config(results_page=page).results_page == page


@pytest.mark.parametrize(
    "page",
    [
        "/tmp/x.md", "../x/y.md", "a/../docs/x.md", "", "a/b.txt", "a b/c.md", "a/$(touch X).md", "a;touch X;/x.md",
        "-a/x.md", "a/'x'.md", "a/x.md\n", "a/{x}.md", ".git/x.md",
    ],
)  # fmt: skip
def test_what_a_results_page_may_not_be_called(page):
    with pytest.raises(UserError, match="results_page: "):
        config(results_page=page)


def test_what_is_called_like_weights_and_is_no_file_is_never_opened(tmp_path):
    """A pipe in the reader's folder would be waited for without end."""
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    alone = weights_of(Reader(network=str(tmp_path)))
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name, target in (
        ("gone", "nowhere"),
        ("loop", "loop.safetensors"),
        ("log", "/proc/kmsg"),
        ("zero", "/dev/zero"),
    ):
        (tmp_path / f"{name}.safetensors").symlink_to(target)
    assert weights_of(Reader(network=str(tmp_path))) == alone
    assert len(alone) == 1


@pytest.mark.parametrize(
    "make", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path.name)]
)
@pytest.mark.parametrize("name", ["results", "results/nano"])
def test_where_results_are_written_must_be_a_folder(tmp_path, monkeypatch, make, name):
    """A disk that is not mounted is no reason to compute everything anew."""
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    make(Path(name))
    with pytest.raises(UserError, match=f"{name}: it is .*no folder"):
        admitted(load_configfile(ROOT / "config.yaml"), ROOT)


def test_results_may_lie_on_another_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("elsewhere").mkdir()
    Path("results").symlink_to("elsewhere")
    assert admitted(load_configfile(ROOT / "config.yaml"), ROOT)[0].experiment == "nano"
