"""Readings that were made before are taken from the store: other engines, settings and pictures are read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legible.ocr.store import Store


class Reader:
    """Counts what it is asked to read."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def of(self, sha256: str):
        def read() -> list[dict]:
            self.asked.append(sha256)
            return [{"text": sha256.upper()}]

        return read


def ask(path, identity: str, pictures: list[str]) -> list[str]:
    """The pictures that had to be read."""
    reader = Reader()
    with Store.at(path, identity) as store:
        for picture in pictures:
            assert store.get(picture, reader.of(picture)) == [{"text": picture.upper()}]
    return reader.asked


def test_only_new_pictures_are_read(tmp_path):
    path = tmp_path / "store.jsonl"
    assert ask(path, "one", ["a", "b", "a"]) == ["a", "b"]
    assert ask(path, "one", ["b", "c"]) == ["c"]
    assert ask(path, "one", ["a", "b", "c"]) == ["a"]  # was dropped when nobody asked for it
    assert ask(path, "two", ["a", "b", "c"]) == ["a", "b", "c"]  # another engine, version, setting or code


def test_a_kill_loses_no_picture_but_the_one_being_read(tmp_path):
    path, reader = tmp_path / "store.jsonl", Reader()

    class Killed(BaseException):
        pass

    def die() -> list[dict]:
        raise Killed

    def work() -> None:
        with Store.at(path, "one") as store:
            for picture in ("a", "b"):
                store.get(picture, reader.of(picture))
            store.get("c", die)

    with pytest.raises(Killed):
        work()
    with open(path, "a") as file:
        file.write(json.dumps({"identity": "one", "sha256": "d"})[:-4])  # cut short
    assert ask(path, "one", ["a", "b", "c"]) == ["c"]


@given(st.data())
def test_one_flipped_bit_in_the_store_costs_a_reading_and_no_more(tmp_path, data):
    path = tmp_path / "store.jsonl"
    path.unlink(missing_ok=True)
    ask(path, "one", ["a", "b", "c"])
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) * 8 - 1))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    assert len(ask(path, "one", ["a", "b", "c"])) <= 2  # what is damaged is read anew: `ask` has seen to its text


def test_rows_of_a_store_without_sums_are_taken(tmp_path):
    row = {"identity": "one", "sha256": "a", "readings": [{"text": "A"}]}
    (tmp_path / "store.jsonl").write_text(json.dumps(row) + "\n")
    assert ask(tmp_path / "store.jsonl", "one", ["a"]) == []


def test_a_picture_without_a_hash_is_read_every_time(tmp_path):
    reader = Reader()
    with Store.at(tmp_path / "store.jsonl", "one") as store:
        for _ in range(2):
            store.get(None, reader.of("x"))
    assert reader.asked == ["x", "x"]
