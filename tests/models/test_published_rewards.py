"""Rewards of others: random small weights in each published format, read by the code that reads the real ones."""

import hashlib
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from legible.config import Aesthetic, Config, Hps, PickScore, Reward
from legible.errors import UserError
from legible.losses.auxiliary import open_critics
from legible.models.aesthetic import PLACES, SIZES
from legible.models.stable_diffusion import nano
from legible.models.weights import read_weights
from legible.nano.clip import write_clip_folder
from legible.nano.parts import caption_tokenizer
from legible.nano.recipe import tiny
from legible.rewards.features import clip_pixels
from legible.rewards.hps import in_a_square
from legible.rewards.reward import build_rewards

PROMPTS = ["two red circles on white", 'a sign that says "OPEN" in red letters on white']
HEAD = "sac+logos+ava1-l14-linearMSE.pth"


def pictures(side: tuple[int, int] = (32, 32)) -> Tensor:
    return torch.rand((2, 3, *side), generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The three of them, as their authors publish them: a CLIPModel, layers in a .pth, an open_clip .pt."""
    root = tmp_path_factory.mktemp("rewards")
    torch.manual_seed(1)
    tokenizer = caption_tokenizer(nano.CAPTION_TOKENS)
    for name in ("aesthetic", "pickscore"):
        nano.build_clip(nano.TINY, tokenizer).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    widths = (nano.TINY.projection, *SIZES)
    layers = {p: nn.Linear(a, b) for p, a, b in zip(PLACES, widths, widths[1:], strict=False)}
    state = {f"layers.{place}.{k}": v for place, layer in layers.items() for k, v in layer.state_dict().items()}
    torch.save(state, root / "aesthetic" / HEAD)
    write_clip_folder(root / "hps", tiny().clip, (32, 32))
    model = open_clip.create_model(f"local-dir:{root / 'hps'}", load_weights=False)
    torch.save({"state_dict": model.state_dict()}, root / "hps" / "HPS_v2_compressed.pt")
    return root


def sections_of(folder: Path) -> dict:
    return {
        "aesthetic": Aesthetic(path=str(folder / "aesthetic")),
        "pickscore": PickScore(path=str(folder / "pickscore")),
        "hps": Hps(path=str(folder / "hps"), model="local"),
    }


def opened(folder: Path, name: str, **changed):
    section = sections_of(folder)[name].model_copy(update=changed)
    return open_critics([name], {name: section}, folder, torch.device("cpu"))


def reward_of(folder: Path, name: str, **changed):
    return build_rewards(Reward(weights={name: 1.0}), opened(folder, name, **changed), None)[name]


@pytest.mark.parametrize("name", ["aesthetic", "pickscore", "hps"])
def test_scores_are_of_each_picture_alone_and_reach_its_pixels(folder, name):
    reward, images = reward_of(folder, name), pictures().requires_grad_(True)
    scores = reward(images, PROMPTS)
    assert scores.shape == (2,)
    torch.testing.assert_close(reward(images.flip(0), PROMPTS[::-1]), scores.flip(0))
    scores.sum().backward()
    assert images.grad.abs().amax((1, 2, 3)).min() > 0
    critic = opened(folder, name)[name]
    modules = [part for part in vars(critic).values() if isinstance(part, nn.Module)]
    assert modules
    assert not any(p.requires_grad for module in modules for p in module.parameters())


@torch.no_grad()
def test_the_aesthetic_score_by_hand(folder):
    """MLP(f / ‖f‖) without activations: five matrix products."""
    critic = opened(folder, "aesthetic")["aesthetic"]
    pooled = critic.clip.get_image_features(pixel_values=clip_pixels(pictures(), 32))
    features = pooled if isinstance(pooled, Tensor) else pooled.pooler_output
    value = features / features.norm(dim=-1, keepdim=True)
    state = torch.load(folder / "aesthetic" / HEAD, weights_only=True)
    for place in PLACES:
        value = value @ state[f"layers.{place}.weight"].T + state[f"layers.{place}.bias"]
    torch.testing.assert_close(reward_of(folder, "aesthetic")(pictures(), PROMPTS), value[:, 0])


@torch.no_grad()
def test_pickscore_is_the_models_own_logit_of_each_pair(folder):
    critic = opened(folder, "pickscore")["pickscore"]
    ids = critic.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    logits = critic.model(input_ids=ids, pixel_values=clip_pixels(pictures(), 32)).logits_per_image
    torch.testing.assert_close(reward_of(folder, "pickscore")(pictures(), PROMPTS), logits.diagonal())


@torch.no_grad()
def test_hps_is_open_clips_own_cosine(folder):
    critic = opened(folder, "hps")["hps"]
    image, text, _ = critic.model(clip_pixels(pictures(), 32), critic.tokenize(PROMPTS))
    torch.testing.assert_close(reward_of(folder, "hps")(pictures(), PROMPTS), (image * text).sum(1))


def test_a_picture_that_is_not_square_lies_in_the_middle_of_a_black_one():
    wide = in_a_square(torch.ones(1, 3, 20, 40), 32)
    assert wide.shape == (1, 3, 32, 32)
    torch.testing.assert_close(wide[:, :, 8:24], torch.ones(1, 3, 16, 32))
    assert (wide[:, :, :8] == -1).all()
    assert (wide[:, :, 24:] == -1).all()
    high = in_a_square(pictures((64, 32)), 32)
    assert (high[..., :8] == -1).all()
    # … by the same filter as Pillow's.
    array = ((pictures((64, 32))[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    small = torch.from_numpy(np.asarray(Image.fromarray(array).resize((16, 32), Image.BICUBIC)).copy())
    assert ((high[0, :, :, 8:24].permute(1, 2, 0) + 1) * 127.5 - small.float()).abs().max() < 3


def test_the_published_layers_have_the_sizes_that_are_built():
    """768 → 1024 → 128 → 64 → 16 → 1: CLIP-L/14's width, and the keys that the file has."""
    assert (768, *SIZES) == (768, 1024, 128, 64, 16, 1)
    assert PLACES == (0, 2, 4, 6, 7)


def test_hps_and_pickscore_are_the_same_architecture_in_two_libraries():
    """CLIP-H: open_clip's ViT-H-14 (HPS) and transformers' CLIPModel (PickScore); no weights are made."""
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
    config = CLIPConfig(text_config=text, vision_config=vision | {"patch_size": 14}, projection_dim=1024)
    with torch.device("meta"):
        hps = open_clip.create_model(Hps(path="x").model, load_weights=False, device="meta")
        pickscore = CLIPModel(config)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (hps, pickscore)]
    assert sizes == [986_109_441] * 2
    assert hps.visual.image_size == (224, 224)


@pytest.mark.parametrize(
    ("name", "key", "file"), [("aesthetic", "head", HEAD), ("hps", "weights", "HPS_v2_compressed.pt")]
)
def test_a_file_is_held_against_its_hash(folder, name, key, file):
    found = hashlib.sha256((folder / name / file).read_bytes()).hexdigest()
    opened(folder, name, sha256=found)
    with pytest.raises(UserError, match=rf"{name}\.sha256: .* has {found}, which is another file than 0000"):
        opened(folder, name, sha256="0" * 64)
    with pytest.raises(UserError, match=r"nowhere\.pth is missing; legible downloads no rewards"):
        opened(folder, name, **{key: "nowhere.pth"})


def test_a_pickle_with_code_in_it_is_not_run(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for file in (folder / "aesthetic").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({"layers.0.weight": Evil()}, tmp_path / HEAD)
    with pytest.raises(UserError, match="these weights cannot be read"):
        opened(folder, "aesthetic", path=str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {"state_dict": 3}])
def test_a_file_without_names_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth: names with tensors \(a state dict\) are expected"):
        read_weights(tmp_path / "list.pth", None, "hps")


def test_weights_of_another_shape_are_refused(folder, tmp_path):
    for file in (folder / "aesthetic").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file({"layers.0.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="does not fit to this CLIP"):
        opened(folder, "aesthetic", path=str(tmp_path), head="other.safetensors")
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")
    (tmp_path / "open_clip_config.json").write_bytes((folder / "hps" / "open_clip_config.json").read_bytes())
    with pytest.raises(UserError, match=r"hps\.model: local cannot be opened with these weights"):
        opened(folder, "hps", path=str(tmp_path), weights="x.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="its CLIP cannot be loaded"):
        opened(folder, "aesthetic", path=str(tmp_path))


def test_an_arm_with_a_reward_that_lies_nowhere_is_refused():
    arms = {"diffusion_only": {}, "nice": {"reward": {"weights": {"aesthetic": 1.0}}}}
    with pytest.raises(ValueError, match=r"arms\.nice: its reward judges with aesthetic; set aesthetic\.path"):
        Config.model_validate({"arms": arms})
    Config.model_validate({"arms": arms, "aesthetic": {"path": "models/aesthetic"}})
