"""What decides a stage besides its inputs: its own code and the versions of the packages that it uses."""

import subprocess
import sys
from pathlib import Path

import pytest

from legible import provenance
from legible.config import CRITICS, JUDGES, LOSSES, Config, Model, Training, validate
from legible.models.spec import spec_of
from legible.provenance import decides, decides_drawing, decides_reading, decides_sampling, decides_training, state_of

ROOT = Path(__file__).resolve().parents[2]


def arm(loss: str, **changes) -> Training:
    return Training(aux={"loss": loss, "lambda": 0.0 if loss == "none" else 1.0}, **changes)


def test_code_and_versions(monkeypatch):
    found = decides("train_arm", [LOSSES["ctc"].module], ["torch", "numpy"])
    assert list(found) == ["code", "numpy", "torch"]
    assert found == decides(str(ROOT / "scripts" / "train_arm.py"), [LOSSES["ctc"].module], ["numpy", "torch", "torch"])
    assert found["code"] != decides("train_arm")["code"]
    monkeypatch.setattr(provenance, "version", lambda package: "1.2.3")
    assert decides("train_arm", packages=["torch"])["torch"] == "1.2.3"


def test_a_package_that_is_not_there_has_no_version():
    assert provenance.versions("no-such-package", "numpy")["no-such-package"] is None


def test_every_registered_module_is_there():
    modules = [entry.module for registry in (LOSSES, CRITICS, JUDGES) for entry in registry.values()]
    assert decides("train_arm", [*modules, *(spec_of(family).module for family in ("zimage",))])["code"]


def test_an_arm_depends_on_its_own_losses_and_their_critics_only():
    found = {loss: decides_training(Model(), arm(loss)) for loss in ("none", *LOSSES)}
    assert len({value["code"] for value in found.values()}) == len(found)
    for loss, value in found.items():
        critics = LOSSES[loss].opens if loss in LOSSES else ()
        needed = {package for critic in critics for package in CRITICS[critic].packages}
        assert set(value) & {"open_clip_torch", "easyocr", "rapidocr"} == needed


@pytest.mark.parametrize(
    ("changes", "package"),
    [
        ({"method": "lora"}, "peft"),
        ({"optimizer": "adamw_8bit"}, "torchao"),
        ({"weights": "bfloat16"}, "torchao"),
        ({"method": "lora", "quantization": "int8"}, "torchao"),
        ({"method": "lora", "quantization": "nf4"}, "bitsandbytes"),
    ],
)
def test_what_an_arm_needs_in_addition(changes, package):
    assert package not in decides_training(Model(), arm("none"))
    assert package in decides_training(Model(), arm("none", **changes))


def test_a_judge_depends_on_its_own_engine():
    for name, judge in JUDGES.items():
        found = decides_reading(name)
        assert set(judge.packages) <= set(found)
        assert not {"rapidocr", "easyocr", "tesserocr"} & set(found) - set(judge.packages)
    assert len({decides_reading(name)["code"] for name in JUDGES}) == len(JUDGES)


def test_images_of_adapters_depend_on_peft():
    model = Config().model
    assert set(decides_sampling(model, adapters=True)) - set(decides_sampling(model, adapters=False)) == {"peft"}


@pytest.mark.parametrize("script", ["inspect_fonts.py", "render_dataset.py", "score_readings.py", "write_config.py"])
def test_light_stages_do_not_import_torch(script):
    code = f"import sys; sys.path.insert(0, 'scripts'); import {script[:-3]}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_environment_names_versions_and_hardware():
    found = provenance.environment()
    assert {"python", "torch", "diffusers", "numpy"} <= found["versions"].keys()
    assert found["machine"]
    assert found["cores"] >= 1
    assert 10 << 20 < provenance.peak_memory_bytes() < 1 << 42


def test_a_users_own_fonts_and_photographs_decide_what_is_drawn(tmp_path):
    (tmp_path / "more").mkdir()
    font = tmp_path / "more" / "A.ttf"
    font.write_bytes(b"one")
    plain = validate({"fonts": {"folders": [str(tmp_path)]}}, "x")
    engine = validate({"render": {"recipe": {"fonts": [str(font)]}}}, "x")
    before = [decides_drawing("render_dataset", config) for config in (plain, engine)]
    assert [decides_drawing("render_dataset", config) for config in (plain, engine)] == before
    font.write_bytes(b"three")
    assert all(
        decides_drawing("render_dataset", each) != old for each, old in zip((plain, engine), before, strict=True)
    )
    (tmp_path / "B.ttf").touch()
    assert state_of([str(tmp_path)]) != {"files": before[0]["files"]}
    assert "files" not in decides_drawing("render_dataset", validate({}, "x"))
