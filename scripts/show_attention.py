"""Where a UNet looks for each letter: cross-attention per token on noisy signs, and how well it meets the letters.

    python scripts/show_attention.py --config nano.json --dataset results/mine/data/test.parquet \
        --weights base results/mine/runs/reading/seed0/weights --output map.png --table map.csv

The picture has the signs once for each of --weights, in this order. The table has for every token of a quoted text the
intersection over union of the pixels that it holds most of, as many as the glyphs' box has, with that box. Chance is
about the share of the picture that a box covers (`share`).
"""

import argparse
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

from legible.config import sections
from legible.errors import UserError, run_cli
from legible.figures.inputs import read_table
from legible.io import atomic_path
from legible.metrics.files import write_csv
from legible.models.family import ROLES, open_model
from legible.models.stable_diffusion.attention import overlap, token_maps
from legible.models.stable_diffusion.model import CAPTION
from legible.render.sign import union
from legible.seeds import stateless_generator

COLUMNS = ("caption", "text", "character_boxes", "image")


def glyph_tokens(tokenizer, caption: str, text: str, boxes: list) -> list[tuple[int, str, tuple[int, int, int, int]]]:
    """(token's place, what it says, box of its glyphs) of the tokens within the quoted text, spaces left out."""
    begin = caption.index(f'"{text}"') + 1
    inked = [place for place, character in enumerate(text) if not character.isspace()]
    found = []
    for place, (start, end) in enumerate(tokenizer(caption, return_offsets_mapping=True).offset_mapping):
        own = [n for n, c in enumerate(inked) if start <= begin + c < end]
        if own:
            found.append((place, caption[start:end].strip(), union([tuple(boxes[n]) for n in own])))
    return found


def draw(panels: list[tuple[np.ndarray, list[str], torch.Tensor]]) -> plt.Figure:
    """A line a sign: the picture, then the map of each token of its text."""
    most = max(len(tokens) for _, tokens, _ in panels)
    figure, axes = plt.subplots(len(panels), 1 + most, figsize=(1.2 * (1 + most), 0.75 * len(panels)), squeeze=False)
    for line, (image, tokens, maps) in zip(axes, panels, strict=True):
        line[0].imshow(image)
        for axis, token, values in zip(line[1:], tokens, maps, strict=False):
            axis.imshow(values)
            axis.set_title(token, fontsize=7, pad=1)
        for axis in line:
            axis.axis("off")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON with the section model")
    parser.add_argument("--dataset", type=Path, required=True, help="data/test.parquet of an experiment")
    parser.add_argument("--weights", nargs="+", required=True, help="runs' weights, or `base`")
    parser.add_argument("--count", type=int, default=6, help="signs")
    parser.add_argument("--noise", type=float, default=0.6, help="share of noise, 0 … 1")
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    parser.add_argument("--table", type=Path, required=True, help="CSV")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    section = sections(arguments.config, "model")["model"]
    if section.family != "stable_diffusion":
        raise UserError(f"model.family: {section.family} has no cross-attention; choose stable_diffusion")
    signs = read_table(arguments.dataset, COLUMNS).head(arguments.count)
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB")) for image in signs["image"]]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    rows, panels = [], []
    for name in arguments.weights:
        place = None if name == "base" else Path(name)
        model = open_model(section, ROLES, arguments.threads, weights=place)
        clean = model.encode_images(pixels)
        noise = torch.randn(clean.shape, generator=stateless_generator(0, 11)).to(clean.device)
        levels = model.process.levels(torch.full((len(clean),), arguments.noise)).to(clean.device)
        said = model.encode_prompts(signs["caption"].tolist())
        maps = token_maps(model, model.process.noised(clean, noise, levels), levels, said.to(clean.device)).cpu()
        large = F.interpolate(maps, pixels.shape[-2:], mode="bilinear")
        assert large.shape[1] == len(said.tensors[CAPTION][0])
        for number, sign in enumerate(signs.itertuples()):
            tokens = glyph_tokens(model.tokenizer, sign.caption, sign.text, list(sign.character_boxes))
            own, boxes = large[number, [t[0] for t in tokens]], torch.tensor([t[2] for t in tokens])
            shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / own[0].numel()
            for (_, said_by, _), iou, share in zip(tokens, overlap(own, boxes), shares, strict=True):
                row = {"weights": name, "text": sign.text, "token": said_by}
                rows.append(row | {"iou": float(iou), "share": float(share)})
            panels.append((images[number], [t[1] for t in tokens], own))
    table = pd.DataFrame(rows)
    write_csv(arguments.table, table)
    with atomic_path(arguments.output) as temporary:
        draw(panels).savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    print(table.groupby("weights", sort=False)[["iou", "share"]].mean().to_string())


if __name__ == "__main__":
    run_cli(main)
