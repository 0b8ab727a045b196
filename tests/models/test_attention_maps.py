"""Cross-attention per token: it is what the layers compute, answers stay the same, and boxes are met or not."""

import json
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from training import model_of

from legible.config import Data, Fonts
from legible.corpus.prompts import Excluded
from legible.models.family import ROLES, open_model
from legible.models.stable_diffusion.attention import overlap, token_maps
from legible.render.dataset import render_signs, write_dataset
from legible.render.fonts import find_fonts, select_fonts

PROMPTS = ['a sign that says "OPEN" in red letters on white', "black"]


@torch.no_grad()
def test_maps_are_the_layers_own_attention_and_change_nothing(stable_diffusion, monkeypatch):
    model = open_model(model_of(stable_diffusion), ROLES)
    noisy = torch.randn((2, 4, 8, 16), generator=torch.Generator().manual_seed(0))
    levels, said = torch.tensor([300, 700]), model.encode_prompts(PROMPTS)
    before = model.predict(noisy, levels, said)
    maps = token_maps(model, noisy, levels, said)
    assert maps.shape == (2, 77, 8, 16)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 8, 16))
    assert torch.equal(model.predict(noisy, levels, said), before)

    # By diffusers' plain processor, whose attention can be looked at.
    found = []
    cross = [layer for name, layer in model.unet.named_modules() if name.endswith(".attn2")]
    for layer in cross:
        layer.set_processor(AttnProcessor())
        own = type(layer).get_attention_scores

        def recorded(query, key, mask=None, layer=layer, own=own):
            found.append(own(layer, query, key, mask))
            return found[-1]

        monkeypatch.setattr(layer, "get_attention_scores", recorded)
    model.predict(noisy, levels, said)
    assert len(found) == len(cross) > 1
    total = torch.zeros(2, 77, 8, 16)
    for scores in found:
        heads = scores.unflatten(0, (2, -1)).mean(1).transpose(1, 2)
        factor = int((128 / heads.shape[-1]) ** 0.5)
        grid = heads.reshape(2, 77, 8 // factor, 16 // factor)
        total += grid.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(maps, total / len(found), rtol=1e-4, atol=1e-6)


def test_overlap_by_hand():
    maps = torch.zeros(3, 4, 8)
    maps[0, 1:3, 2:4] = 1
    maps[1, 1:3, 3:5] = 1
    maps[2, 0, :4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    boxes = torch.tensor([[2, 1, 4, 3], [2, 1, 4, 3], [0, 0, 2, 1]])
    assert overlap(maps, boxes).tolist() == pytest.approx([1.0, 2 / 6, 1.0])


@pytest.fixture
def dataset(tmp_path) -> Path:
    fonts = select_fonts(find_fonts(Fonts()), (), ())
    signs, rejected = render_signs(Data(test=2), fonts, "test", 2, Excluded.of([]))
    write_dataset(tmp_path, [], signs, {"test": rejected, "train": Counter()}, Excluded.of([]))
    return tmp_path / "test.parquet"


def test_the_script_writes_a_picture_and_a_row_a_letter(stable_diffusion, dataset, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend("scripts")
    from show_attention import main

    config = json.dumps({"model": model_of(stable_diffusion).model_dump(mode="json")})
    arguments = ["--config", config, "--dataset", str(dataset), "--weights", "base", "--count", "2"]
    arguments += ["--output", str(tmp_path / "a.png"), "--table", str(tmp_path / "a.csv")]
    monkeypatch.setattr(sys, "argv", ["show_attention.py", *arguments])
    main()
    signs, table = pd.read_parquet(dataset).head(2), pd.read_csv(tmp_path / "a.csv")
    assert "".join(map(str, table["token"])) == "".join(signs["text"]).replace(" ", "")
    assert table["iou"].between(0, 1).all()
    assert (tmp_path / "a.png").stat().st_size > 1000
