"""Drawn input, the same in every run: it is accepted, or refused in one sentence that helps."""

import json
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus import ROOT, Entry, as_snakemake_merges, default, faults, in_a_place_of_its_own, limited
from hypothesis import given, settings
from hypothesis import strategies as st

from legible.admit import admitted
from legible.config import Config
from legible.corpus.prompt_files import check_prompt_file
from legible.errors import UserError, file_trouble
from legible.io import read_jsonl
from legible.manifests import damage
from legible.ocr.manifests import listed_images
from legible.render.fonts import read_manifest

ANY = Entry("fuzz", 0, (), {})
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", " ", "-x", "--help", "$(touch HACKED)", "a b", "../..", "~", "\u202e", "\ud800", "\0", "{}", "{x}", "9" * 400]
)
NUMBERS = (
    st.integers(-3, 3)
    | st.integers(-(10**25), 10**25)
    | st.floats()
    | st.sampled_from([10**21, 2**31, 1e308, -0.0, 0.5])
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2))


def places(node: object, where: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of the default configuration, as a way down."""
    if not isinstance(node, dict):
        return [where]
    return [where, *(place for key, value in node.items() for place in places(value, (*where, key)))]


NAMED = ("arms", "prompt_sets", "regimes", "training", "ocr")
PLACES = [place for place in places(default()) if place and (place[0] != "figures" or place[1:2] == ("dataset",))]
PLACES += [("regimes", "shift", *place) for place in PLACES[::4]]
PLACES += [("arms", "x", *place[1:]) for place in PLACES if place[0] == "training"]
PLACES += [(key, name) for key in NAMED for name in ("", "x", "A b", "3", "\u200b")]


@pytest.fixture(autouse=True, scope="module")
def place() -> Iterator[Path]:
    """The working directory of all examples."""
    with in_a_place_of_its_own() as folder:
        yield folder


def said(sentence: str) -> None:
    assert faults(ANY, sentence) == [], sentence


@settings(max_examples=250)
@given(st.sampled_from(PLACES), VALUES)
def test_configurations(place, value):
    overlay: dict = {place[-1]: value}
    for key in reversed(place[:-1]):
        overlay = {key: overlay}
    with limited(10):
        Path("mine.json").write_text(json.dumps(overlay))
        try:
            config, _ = admitted(as_snakemake_merges(Path("mine.json")), ROOT, [Path("mine.json")])
        except UserError as error:
            said(str(error))
        else:
            assert isinstance(config, Config)
            json.dumps(config.model_dump(mode="json", by_alias=True)).encode()


ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": VALUES | st.text(string.ascii_letters, min_size=1, max_size=4),
        "prompt": VALUES | st.just("a sign that says GO"),
        "targets": VALUES | st.just(["GO"]) | st.just([]),
        "kind": VALUES,
        "font": VALUES,
        "color": VALUES | st.just("red"),
        "count": VALUES,
        "shape": VALUES,
        "other": VALUES,
    },
)


@settings(max_examples=300)
@given(st.lists(ROWS | VALUES, max_size=3), st.booleans())
def test_prompts(rows, text):
    with limited(10):
        Path("x.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        try:
            check_prompt_file("x.jsonl", text=text, characters="GO")
        except UserError as error:
            said(str(error))


@settings(max_examples=200)
@given(st.binary(max_size=40) | st.text('[]{}:," \n\\u0dabc1e', max_size=60).map(str.encode), st.booleans())
def test_prompt_files_of_any_bytes(content, text):
    with limited(10):
        Path("x.jsonl").write_bytes(content)
        with pytest.raises(UserError) as caught:
            check_prompt_file("x.jsonl", text=text)
        said(str(caught.value))
        assert str(caught.value).startswith("x.jsonl")


FONT_ROWS = st.fixed_dictionaries(
    {}, optional={key: VALUES for key in ("path", "name", "family", "style", "characters", "usable", "reason", "words")}
)
IMAGE_ROWS = st.fixed_dictionaries({}, optional={key: VALUES for key in ("file", "prompt_id", "image_seed", "sha256")})


@settings(max_examples=300)
@given(st.lists(IMAGE_ROWS | VALUES, max_size=3), st.lists(FONT_ROWS | VALUES, max_size=2) | VALUES)
def test_manifests(rows, fonts):
    with limited(10):
        manifest = Path("images/base/x/manifest.jsonl")
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text("\n".join(json.dumps(row) for row in rows))
        Path("fonts.json").write_text(json.dumps(fonts))
        damage(manifest.parent)  # the workflow puts such a folder aside: never an exception
        for read, path in ((listed_images, manifest), (read_manifest, Path("fonts.json")), (read_jsonl, manifest)):
            try:
                read(path)
            except (UserError, OSError, UnicodeDecodeError, RecursionError) as error:
                said(str(error) if isinstance(error, UserError) else file_trouble(error))
