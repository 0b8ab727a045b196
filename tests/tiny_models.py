"""A tiny model set of the real classes, built untrained in a second, in folders that the real loaders open."""

from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import yaml
from safetensors.torch import save_file

from legible.corpus.templates import vocabulary
from legible.models.zimage.nano import TINY, build, save
from legible.nano.clip import ALPHABET, write_clip_folder
from legible.nano.recipe import tiny
from legible.nano.recognizer import build_network
from legible.nano.tokenizer import build_tokenizer
from legible.nano.vae import build_vae

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ModelFolders:
    """Folders with the files of the tiny models."""

    root: Path
    zimage: Path
    clip: Path
    recognizer: Path


def build_models(root: Path) -> ModelFolders:
    """Write the models below `root`. Nothing in them is zero: a wrong sign, scale or gate changes the output."""
    recipe = tiny()
    torch.manual_seed(5)
    vae = build_vae(recipe.vae)
    vae.register_to_config(scaling_factor=0.7, shift_factor=0.12)
    tokenizer = build_tokenizer(vocabulary())
    model = build(TINY, vae.eval(), tokenizer)
    for final in model.transformer.all_final_layer.values():
        torch.nn.init.normal_(final.linear.weight, std=0.2)  # zero at the start of a training
    save(model, root / "zimage")

    write_clip_folder(root / "clip", recipe.clip, (32, 64))
    clip = open_clip.create_model(f"local-dir:{root / 'clip'}", load_weights=False)
    save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, root / "clip" / "open_clip_model.safetensors")

    name = "recognizer_crnn"
    folder = root / name
    folder.mkdir()
    source = (ROOT / "resources" / "nano" / name / f"{name}.py").read_text(encoding="utf-8")
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    params = recipe.recognizers[name].network_params
    network = build_network(folder, name, params)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / f"{name}.safetensors")
    described = {"network_params": params, "imgH": 32, "lang_list": ["en"], "character_list": ALPHABET}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(described))
    return ModelFolders(root, root / "zimage", root / "clip", folder)
