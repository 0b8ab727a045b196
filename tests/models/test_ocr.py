"""OCR engines: what they read, where, in which order, and what they say about unusable networks."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file

from legible.config import EasyOcr, RapidOcr, Tesseract
from legible.errors import UserError
from legible.io import read_jsonl, sha256_file, write_jsonl
from legible.ocr import Reading, in_reading_order, open_engine, to_reading, whole_image
from legible.ocr.tesseract import language_data

ROOT = Path(__file__).resolve().parents[2]
FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

NETWORK = '''
import torch.nn as nn

class Model(nn.Module):
    """A linear reader of columns: logits [B, W, num_class]."""

    def __init__(self, num_class, height):
        super().__init__()
        self.linear = nn.Linear(height, num_class)

    def forward(self, image, text=None):
        return self.linear(image[:, 0].transpose(1, 2))
'''


def sign(text: str, size: tuple[int, int] = (64, 32), at: tuple[int, int] = (4, 5)) -> Image.Image:
    image = Image.new("RGB", size, "navy")
    ImageDraw.Draw(image).text(at, text, font=ImageFont.truetype(FONT, 18), fill="white")
    return image


def write_network(folder: Path, seed: int = 0, height: int = 32, **overrides) -> Path:
    """A user network with random weights, as the project ships its own."""
    folder.mkdir(parents=True)
    settings = {
        "network_params": {"height": height},
        "imgH": height,
        "lang_list": ["en"],
        "character_list": ALPHABET,
    } | overrides
    (folder / f"{folder.name}.py").write_text(NETWORK)
    (folder / f"{folder.name}.yaml").write_text(yaml.safe_dump(settings))
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "linear.weight": torch.randn(len(ALPHABET) + 1, height, generator=generator),
        "linear.bias": torch.randn(len(ALPHABET) + 1, generator=generator),
    }
    save_file(weights, folder / f"{folder.name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def rapid():
    return open_engine("rapidocr", RapidOcr(), "unused")


def test_rapidocr_reads_the_whole_sign_as_one_line(rapid):
    image = sign("OPEN")
    (reading,) = rapid.read(image)
    assert reading.text == "OPEN"
    assert reading.polygon == whole_image(image)
    assert 0.9 < reading.confidence <= 1
    assert "rec" in rapid.version
    assert "det" not in rapid.version
    assert not Path("unused").exists()


def test_rapidocr_returns_nothing_for_an_empty_sign(rapid):
    assert rapid.read(Image.new("RGB", (64, 32), "gray")) == []


def test_rapidocr_takes_images_of_any_mode(rapid):
    expected = rapid.read(sign("OPEN").convert("L").convert("RGB"))
    assert rapid.read(sign("OPEN").convert("L")) == expected


def test_rapidocr_with_detection_finds_the_lines_in_original_pixels():
    engine = open_engine("rapidocr", RapidOcr(detect=True, scale=2), "unused")
    image = Image.new("RGB", (200, 96), "white")
    image.paste(sign("LATE", (80, 32)), (110, 56))
    image.paste(sign("OPEN", (80, 32)), (8, 8))
    readings = in_reading_order(engine.read(image))
    assert [reading.text for reading in readings] == ["OPEN", "LATE"]
    (left, top), (right, bottom) = readings[1].polygon[0], readings[1].polygon[2]
    assert 100 <= left < 125
    assert 45 <= top < 66
    assert 165 <= right <= 200
    assert 76 <= bottom <= 96
    assert engine.read(Image.new("RGB", (64, 32), "gray")) == []
    assert "det" in engine.version


def test_easyocr_reads_exactly_what_the_user_network_says(tmp_path):
    """A greedy CTC reading computed here from the same weights equals the engine's."""
    folder = write_network(tmp_path / "tiny")
    engine = open_engine("easyocr", EasyOcr(network=str(folder), scale=1), tmp_path / "cache")
    image = sign("OPEN")
    (reading,) = engine.read(image)
    weights = load_file(folder / "tiny.safetensors")
    grey = np.asarray(image.convert("RGB").convert("L"), dtype=np.float32)
    logits = torch.tensor((grey / 255 - 0.5) / 0.5).T @ weights["linear.weight"].T + weights["linear.bias"]
    path = logits.argmax(1).tolist()
    kept = [c for c, before in zip(path, [None, *path[:-1]], strict=True) if c and c != before]
    assert reading.text == "".join(ALPHABET[c - 1] for c in kept)
    assert reading.text
    assert reading.polygon == whole_image(image)
    assert 0 <= reading.confidence <= 1


def test_two_easyocr_networks_of_one_name_do_not_disturb_each_other(tmp_path):
    image, cache = sign("OPEN"), tmp_path / "cache"
    small, large = write_network(tmp_path / "a" / "net"), write_network(tmp_path / "b" / "net", seed=1, height=48)
    first = open_engine("easyocr", EasyOcr(network=str(small)), cache)
    alone = first.read(image)
    second = open_engine("easyocr", EasyOcr(network=str(large)), cache)
    other = second.read(image)
    assert first.read(image) == alone
    assert [r.text for r in other] != [r.text for r in alone]
    assert first.version != second.version
    assert second.read(image) == other
    assert str(cache) not in sys.path


def test_easyocr_leaves_the_number_of_threads_alone(tmp_path):
    before = torch.get_num_threads()
    open_engine("easyocr", EasyOcr(network=str(write_network(tmp_path / "tiny"))), tmp_path).read(sign("A"))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("ending", ["py", "yaml", "safetensors"])
def test_a_missing_file_of_a_user_network_is_named(tmp_path, ending):
    folder = write_network(tmp_path / "tiny")
    (folder / f"tiny.{ending}").unlink()
    with pytest.raises(UserError, match=rf"tiny\.{ending}: no such file"):
        open_engine("easyocr", EasyOcr(network=str(folder)), tmp_path / "cache")


def test_corrupt_weights_of_a_user_network_are_named(tmp_path):
    folder = write_network(tmp_path / "tiny")
    weights = folder / "tiny.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"tiny\.safetensors: corrupt weights"):
        open_engine("easyocr", EasyOcr(network=str(folder)), tmp_path / "cache")


def test_settings_that_do_not_fit_the_weights_are_refused(tmp_path):
    folder = write_network(tmp_path / "tiny", network_params={"height": 16})
    with pytest.raises(UserError, match="do not fit together"):
        open_engine("easyocr", EasyOcr(network=str(folder)), tmp_path / "cache")
    folder = write_network(tmp_path / "other", character_list="")
    with pytest.raises(UserError, match="character_list"):
        open_engine("easyocr", EasyOcr(network=str(folder)), tmp_path / "cache")


def test_easyocr_standard_networks_are_never_downloaded(tmp_path):
    with pytest.raises(UserError, match=r"^ocr\.easyocr\.models: not set"):
        open_engine("easyocr", EasyOcr(network="standard"), tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match=r"english_g2\.pth"):
        open_engine("easyocr", EasyOcr(network="standard", models=str(tmp_path / "models")), tmp_path)
    folder = write_network(tmp_path / "tiny")
    with pytest.raises(UserError, match="craft"):
        open_engine("easyocr", EasyOcr(network=str(folder), detect=True, models=str(tmp_path / "models")), tmp_path)


def test_an_unknown_engine_or_a_foreign_section_is_refused(tmp_path):
    for name, section in (("tesseract", RapidOcr()), ("easyocr", RapidOcr()), ("kraken", RapidOcr())):
        with pytest.raises(UserError, match="allowed are rapidocr, easyocr, tesseract"):
            open_engine(name, section, tmp_path)


@pytest.fixture(scope="module")
def tesseract():
    pytest.importorskip("tesserocr")
    try:
        return open_engine("tesseract", Tesseract(), "unused")
    except UserError as error:  # the language data are the system's
        pytest.skip(str(error))


def test_tesseract_reads_the_whole_sign_as_one_line(tesseract):
    for text in ("OPEN", "LATTE", "4829"):
        (reading,) = tesseract.read(sign(text, size=(80, 32)))
        assert reading.text == text
        assert reading.polygon == whole_image(sign(text, size=(80, 32)))
        assert 0.5 < reading.confidence <= 1
    assert "eng.traineddata" in tesseract.version


def test_tesseract_remembers_nothing_between_images(tesseract):
    images = [sign(text, size=(80, 32)) for text in ("OPEN", "QJH", "LATTE")]
    forwards = [tesseract.read(image) for image in images]
    assert [tesseract.read(image) for image in reversed(images)] == forwards[::-1]


def test_tesseract_with_detection_finds_the_lines_in_original_pixels(tesseract):
    engine = open_engine("tesseract", Tesseract(detect=True, scale=3), "unused")
    image = Image.new("RGB", (160, 100), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.truetype(FONT, 20)
    draw.text((20, 10), "MAIN", font=font, fill="black")
    draw.text((20, 60), "STREET", font=font, fill="black")
    upper, lower = engine.read(image)
    assert (upper.text, lower.text) == ("MAIN", "STREET")
    assert upper.polygon[0][1] < upper.polygon[2][1] < 40 < lower.polygon[0][1] < lower.polygon[2][1] < 100
    assert engine.read(Image.new("RGB", (160, 100), "white")) == []


def test_missing_language_data_are_named(tmp_path, monkeypatch):
    pytest.importorskip("tesserocr")
    with pytest.raises(UserError, match=r"^ocr\.tesseract: eng\.traineddata is not in .*tesseract-ocr-eng"):
        open_engine("tesseract", Tesseract(data=str(tmp_path)), tmp_path)
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))
    (tmp_path / "eng.traineddata").write_bytes(b"")
    assert language_data(Tesseract()) == tmp_path / "eng.traineddata"


def test_a_missing_engine_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tesserocr", None)
    with pytest.raises(UserError, match=r"pip install .legible\[tesseract\]"):
        open_engine("tesseract", Tesseract(), tmp_path)


def box(text: str, left: float, top: float, height: float = 10) -> Reading:
    corners = ((left, top), (left + 20, top), (left + 20, top + height), (left, top + height))
    return Reading(corners, text, 1.0)


def test_reading_order_is_by_line_then_by_column():
    readings = [box("d", 30, 22), box("b", 40, 3), box("a", 0, 0), box("c", 0, 20), box("e", 0, 40, height=4)]
    assert [reading.text for reading in in_reading_order(readings)] == list("abcde")


@given(st.permutations([box(str(i), 25 * (i % 3), 15 * (i // 3) + i % 3) for i in range(9)]))
def test_reading_order_does_not_depend_on_the_order_of_the_engine(readings):
    assert [reading.text for reading in in_reading_order(readings)] == list("012345678")


def test_a_confidence_that_is_not_a_number_fails():
    with pytest.raises(ValueError, match="confidence"):
        to_reading(whole_image(sign("A")), "A", float("nan"))
    assert to_reading(whole_image(sign("A")), "A", 1.0000001).confidence == 1.0


def read_images(*arguments: str) -> subprocess.CompletedProcess:
    script = [sys.executable, "scripts/read_images.py"]
    return subprocess.run([*script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_script_keeps_every_reading_and_names_broken_images(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for number, text in enumerate(["OPEN", "LATE", ""]):
        sign(text).save(images / f"{number}.png")
        digest = sha256_file(images / f"{number}.png")
        rows.append({"file": f"{number}.png", "prompt_id": f"p{number}", "image_seed": 0, "sha256": digest})
    write_jsonl(images / "manifest.jsonl", rows)
    output = tmp_path / "rapidocr.jsonl"
    config = json.dumps({"detect": False, "scale": 2})
    arguments = [
        "--engine",
        "rapidocr",
        "--config",
        config,
        "--images",
        str(images),
        "--cache",
        str(tmp_path / "cache"),
    ]
    done = read_images(*arguments, "--output", str(output))
    assert done.returncode == 0, done.stderr
    written = read_jsonl(output)
    assert [[r["text"] for r in row["readings"]] for row in written] == [["OPEN"], ["LATE"], []]
    assert written[0]["engine"] == "rapidocr"
    assert written[0]["prompt_id"] == "p0"
    assert len(written[0]["readings"][0]["polygon"]) == 4
    assert "3/3" in done.stderr

    nested = [json.dumps({"ocr": {"rapidocr": {"scale": 0}}}) if a == config else a for a in arguments]
    done = read_images(*nested, "--output", str(output))
    assert (done.returncode, "ocr.rapidocr.scale" in done.stderr) == (2, True)

    output.unlink()
    data = (images / "1.png").read_bytes()
    (images / "1.png").write_bytes(data[: len(data) // 2])
    done = read_images(*arguments, "--output", str(output))
    assert (done.returncode, output.exists()) == (2, False)
    assert "1.png" in done.stderr
    assert "Traceback" not in done.stderr

    (images / "1.png").unlink()
    done = read_images(*arguments, "--output", str(output))
    assert (done.returncode, output.exists()) == (2, False)
    assert "1.png: no such image" in done.stderr
