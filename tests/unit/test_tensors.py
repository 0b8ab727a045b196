"""Tensor files come back as they were, and a file in which one bit has turned over is refused."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from legible.errors import UserError
from legible.tensors import digest, load_tensors, save_tensors, sort_header

TENSORS = {
    "weights": torch.arange(12, dtype=torch.float32).view(3, 4).t(),  # not contiguous
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "classes": torch.tensor([[1, 2], [3, 255]], dtype=torch.uint8),
    "empty": torch.zeros((0, 3)),
    "scalar": torch.tensor(7),
}


def test_they_come_back_as_they_were(tmp_path):
    save_tensors(tmp_path / "t.safetensors", TENSORS, {"texts": ["ä", "b"]})
    found, about = load_tensors(tmp_path / "t.safetensors", "the file")
    assert about == {"texts": ["ä", "b"]}
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in TENSORS.items())


def test_equal_tensors_make_equal_files(tmp_path):
    for name in ("a", "b"):
        save_tensors(tmp_path / name, TENSORS, {"x": 1, "y": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(st.data())
def test_one_flipped_bit_is_noticed(tmp_path, data):
    path = tmp_path / "t.safetensors"
    save_tensors(path, TENSORS, {"texts": ["OPEN"]})
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) * 8 - 1))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.safetensors: the file is missing or damaged"):
        load_tensors(path, "the file")


def test_the_digest_depends_on_names_types_shapes_and_bytes():
    base = {"a": torch.zeros(4), "b": torch.ones(2)}
    assert digest(base, {"x": 1, "y": 2}) == digest({"b": torch.ones(2), "a": torch.zeros(4)}, {"y": 2, "x": 1})
    assert digest(base, {"x": 1}) != digest(base, {"x": 2})
    others = [
        {"c": torch.zeros(4), "b": torch.ones(2)},
        {"a": torch.zeros(4, dtype=torch.int32), "b": torch.ones(2)},
        {"a": torch.zeros(2, 2), "b": torch.ones(2)},
        {"a": torch.zeros(4), "b": torch.tensor([1.0, -1.0])},
    ]
    assert len({digest(tensors, {}) for tensors in (base, *others)}) == 5


def test_a_missing_or_foreign_file_is_one_sentence(tmp_path):
    (tmp_path / "foreign.safetensors").write_bytes(b"hello")
    for name in ("missing.safetensors", "foreign.safetensors"):
        with pytest.raises(UserError, match=r"the cache is missing or damaged .*; delete it") as caught:
            load_tensors(tmp_path / name, "the cache")
        assert "\n" not in str(caught.value)


def test_the_same_content_with_a_sorted_header_is_the_same_bytes(tmp_path):
    plain = {"b.weight": torch.randn(3, 2), "a.weight": torch.arange(5, dtype=torch.bfloat16)}
    for name, targets in (("one", ["to_q", "to_k"]), ("two", ["to_k", "to_q"])):
        settings = json.dumps({"r": 4, "target_modules": targets, "sizes": [3, 1]})
        path = tmp_path / f"{name}.safetensors"
        save_file(plain, path, metadata={"format": "pt", "lora_adapter_metadata": settings})
        sort_header(path)
        with safe_open(path, "pt") as stored:
            assert json.loads(stored.metadata()["lora_adapter_metadata"])["sizes"] == [3, 1]
            assert stored.metadata()["format"] == "pt"
            assert all(torch.equal(stored.get_tensor(key), value) for key, value in plain.items())
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
