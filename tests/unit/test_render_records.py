"""Datasets of the text engine: bytes that depend on no worker, a certificate that counts, formats that others read."""

import json
import tarfile
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from legible.config.render import Recipe
from legible.config.scripts import known
from legible.errors import UserError
from legible.render import records
from legible.render.compose import draw
from legible.render.exporters import EXPORTERS, PAGE, corners, export
from legible.render.records import decoded, draw_rows, encoded, preview, read_rows, write_records

RECIPE = Recipe(height=96, width=224, size=(14, 26), texts=(1, 2), hidden=0.3)
COUNT = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "signs.parquet"
    certificate = write_records(path, RECIPE, 7, COUNT, workers=1)
    return path, certificate


def test_bytes_do_not_depend_on_the_workers(monkeypatch):
    monkeypatch.setattr(records, "CHUNK", 1)
    one, two, seven = (
        [row for rows, _ in draw_rows(RECIPE, 7, 7, workers=workers) for row in rows] for workers in (1, 2, 7)
    )
    assert one == two == seven
    assert [row["index"] for row in one] == list(range(7))


def test_rows_hold_what_was_drawn(dataset):
    path, _ = dataset
    for row in read_rows(path):
        sample = draw(RECIPE, 7, row["index"])
        assert row["caption"] == sample.caption
        np.testing.assert_array_equal(decoded(row["ids"]["bytes"]), sample.ids)
        np.testing.assert_array_equal(decoded(row["mask"]["bytes"]), sample.coverage)
        assert np.abs(decoded(row["image"]["bytes"]).astype(int) - sample.image).mean() < 8  # noisy ones are JPEGs, too
        assert [cluster["box"] for cluster in row["clusters"]] == [
            list(cluster.ink_box) if cluster.ink_box else None for cluster in sample.clusters
        ]
        for cluster, own in zip(row["clusters"], sample.clusters, strict=True):
            np.testing.assert_allclose(np.reshape(cluster["quad"], (4, 2)), own.quad, atol=0.006)


def test_png_keeps_every_bit():
    sample = draw(RECIPE, 0, 0)
    np.testing.assert_array_equal(decoded(encoded(sample.image, "png")), sample.image)
    assert decoded(encoded(sample.ids, "png")).dtype == np.uint16


def test_datasets_opens_it(dataset):
    rows = load_dataset("parquet", data_files=str(dataset[0]), split="train")
    assert rows.num_rows == COUNT
    assert isinstance(rows[0]["image"], Image.Image)
    assert rows[0]["image"].size == (224, 96)
    assert rows[0]["ids"].mode in ("I;16", "I")
    assert {"text", "quad", "box", "shown"} <= set(rows[0]["clusters"][0])


def test_the_certificate_counts_what_was_drawn(dataset):
    path, certificate = dataset
    assert json.loads(path.with_name("signs.certificate.json").read_text()) == certificate
    counted: dict[str, Counter] = {}
    for row in read_rows(path):
        for cluster in row["clusters"]:
            if cluster["box"]:
                counted.setdefault(row["lines"][cluster["line"]]["script"], Counter()).update(cluster["text"])
    assert set(counted) == set(certificate["scripts"])
    for name, found in certificate["scripts"].items():
        totals = {character: sum(fonts.values()) for character, fonts in found["characters"].items()}
        assert totals == dict(counted[name])
        assert not set(found["never_drawn"]) & set(totals)
        repertoire = known().scripts[name].repertoire
        assert found["share"] == pytest.approx(1 - len(found["never_drawn"]) / len(repertoire))
    assert sum(found["lines"] for found in certificate["scripts"].values()) == sum(
        len(row["lines"]) for row in read_rows(path)
    )


@pytest.mark.parametrize("form", EXPORTERS)
def test_nothing_is_overwritten(dataset, form, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty; nothing is overwritten"):
        export(dataset[0], form, tmp_path)


def test_coco_text(dataset, tmp_path):
    export(dataset[0], "coco-text", tmp_path)
    content = json.loads((tmp_path / "annotations.json").read_text(encoding="utf-8"))
    rows = {row["index"]: row for row in read_rows(dataset[0])}
    assert [entry["utf8_string"] for entry in content["annotations"]] == [
        word["text"] for row in rows.values() for word in row["words"]
    ]
    assert len({entry["id"] for entry in content["annotations"]}) == len(content["annotations"])
    for image in content["images"]:
        assert Image.open(tmp_path / "images" / image["file_name"]).size == (image["width"], image["height"])
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        xs, ys = entry["segmentation"][0][::2], entry["segmentation"][0][1::2]
        assert (x, y) == pytest.approx((min(xs), min(ys)), abs=0.01)
        assert 0 < entry["area"] <= width * height + 0.1
        assert entry["legibility"] in ("legible", "illegible")


def test_icdar(dataset, tmp_path):
    export(dataset[0], "icdar", tmp_path)
    for row in read_rows(dataset[0]):
        text = (tmp_path / f"gt_img_{row['index'] + 1}.txt").read_text(encoding="utf-8-sig")
        lines = text.removesuffix("\n").split("\n")
        assert len(lines) == len(row["words"])
        for line, word in zip(lines, row["words"], strict=True):
            *places, said = line.split(",", 8)
            assert [int(value) for value in places] == [round(v) for corner in corners(word["polygon"]) for v in corner]
            assert said in (word["text"], "###")


def test_page(dataset, tmp_path):
    export(dataset[0], "page", tmp_path)
    for row in read_rows(dataset[0]):
        root = ElementTree.parse(tmp_path / f"{row['index']:07d}.xml").getroot()
        names = {"p": PAGE}
        glyphs = [g.find("p:TextEquiv/p:Unicode", names).text for g in root.iterfind(".//p:Glyph", names)]
        assert glyphs == [cluster["text"] for cluster in row["clusters"] if cluster["word"] >= 0]
        lines = [line.find("p:TextEquiv/p:Unicode", names).text for line in root.iterfind(".//p:TextLine", names)]
        assert lines == [line["text"] for line in row["lines"]]
        assert root.find("p:Page", names).get("imageWidth") == "224"
        assert all("," in element.get("points") for element in root.iterfind(".//p:Coords", names))


def test_webdataset(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("legible.render.exporters.SHARD", 5)
    export(dataset[0], "webdataset", tmp_path)
    names: list[str] = []
    for shard in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names += tar.getnames()
    keys = [name.split(".", 1)[0] for name in names]
    assert keys == [f"{index:07d}" for index in range(COUNT) for _ in range(5)]
    assert {name.split(".", 1)[1] for name in names} == {"jpg", "mask.png", "ids.png", "txt", "json"}
    assert len(list(tmp_path.glob("*.tar"))) == 3


@pytest.mark.parametrize(("form", "mask"), [("captioned", "../masks/{}.png"), ("onetrainer", "{}-masklabel.png")])
def test_folders_for_trainers_of_pictures(dataset, form, mask, tmp_path):
    export(dataset[0], form, tmp_path)
    pictures = tmp_path / "images" if form == "captioned" else tmp_path
    for row in read_rows(dataset[0]):
        stem = f"{row['index']:07d}"
        assert (pictures / f"{stem}.jpg").read_bytes() == row["image"]["bytes"]
        assert (pictures / f"{stem}.txt").read_text(encoding="utf-8") == row["caption"] + "\n"
        assert (pictures / mask.format(stem)).read_bytes() == row["mask"]["bytes"]


def test_a_preview_draws_the_labels_in(dataset):
    row = next(read_rows(dataset[0]))
    drawn, plain = decoded(preview(row)), decoded(row["image"]["bytes"])
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "draw", lambda *_: (_ for _ in ()).throw(UserError("no")))
    with pytest.raises(UserError, match="no"):
        write_records(tmp_path / "x.parquet", RECIPE, 0, 2, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_the_parquet_has_the_columns_it_says(dataset):
    assert pq.read_schema(dataset[0]).names == list(records.COLUMNS)
