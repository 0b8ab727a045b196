"""ImageReward: random small weights under the published names, and what they must score, by a forward pass of its own.

The modules below have BLIP's names (salesforce/BLIP, models/vit.py and med.py), so that their state dict is a file as
it is published, and compute in plain torch what transformers' classes must answer with them.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import BertTokenizer

from legible.config import Config, ImageReward, Reward
from legible.errors import UserError
from legible.losses.auxiliary import open_critics
from legible.models.aesthetic import PLACES, SIZES
from legible.models.imagereward import FROM_MED_CONFIG, build
from legible.rewards.features import clip_pixels
from legible.rewards.imagereward import TOKENS, middle
from legible.rewards.reward import build_rewards

PROMPTS = ["two red circles on white", "a sign open"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "two", "red", "circles", "on", "white", "a", "sign", "open"]
MED = {  # BLIP's configs/med_config.json, small; of `encoder_width` the picture's tower decides
    **{
        "architectures": ["BertModel"],
        "vocab_size": 15,
        "hidden_size": 24,
        "intermediate_size": 32,
        "encoder_width": 9,
    },
    **{"num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 40, "hidden_act": "gelu"},
    **{"layer_norm_eps": 1e-12, "pad_token_id": 0, "hidden_dropout_prob": 0.1, "add_cross_attention": True},
}


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, hidden: Tensor | None = None) -> Tensor:
    """softmax(q·k / √d)·v over `heads` parts of the last dimension; `hidden` [B, N]: what is not to be seen."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores if hidden is None else scores.masked_fill(hidden[:, None, None], -1e4)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn["proj"](attend(*self.attn["qkv"](self.norm1(x)).chunk(3, -1), x.shape[-1] // 64))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Vit(nn.Module):
    def __init__(self, width: int, inner: int, depth: int, side: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (side // 16) ** 2 + 1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 16, 16)})
        self.blocks = nn.Sequential(*(Block(width, inner) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        return self.norm(
            self.blocks(torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], 1) + self.pos_embed)
        )


def attention(width: int, seen: int) -> nn.ModuleDict:
    """BERT's: `self` and `output`, whose keys and values are of `seen` features."""
    parts = {"query": nn.Linear(width, width), "key": nn.Linear(seen, width), "value": nn.Linear(seen, width)}
    return nn.ModuleDict({"self": nn.ModuleDict(parts), "output": output(width, width)})


def output(inner: int, width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, 1e-12)})


class Med(nn.Module):
    """BERT with cross-attention in each layer."""

    def __init__(self, med: dict, seen: int) -> None:
        super().__init__()
        width, inner = med["hidden_size"], med["intermediate_size"]
        self.heads = med["num_attention_heads"]
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(med["vocab_size"], width),
                "position_embeddings": nn.Embedding(med["max_position_embeddings"], width),
                "LayerNorm": nn.LayerNorm(width, 1e-12),
            }
        )
        self.embeddings.register_buffer("position_ids", torch.arange(med["max_position_embeddings"])[None])
        layers = [
            nn.ModuleDict(
                {
                    "attention": attention(width, width),
                    "crossattention": attention(width, seen),
                    "intermediate": nn.ModuleDict({"dense": nn.Linear(width, inner)}),
                    "output": output(inner, width),
                }
            )
            for _ in range(med["num_hidden_layers"])
        ]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, ids: Tensor, mask: Tensor, picture: Tensor) -> Tensor:
        words, places, norm = (self.embeddings[n] for n in ("word_embeddings", "position_embeddings", "LayerNorm"))
        x = norm(words(ids) + places(torch.arange(ids.shape[1])))
        for layer in self.encoder["layer"]:
            for part, seen, hidden in ((layer["attention"], None, mask == 0), (layer["crossattention"], picture, None)):
                own, seen = part["self"], x if seen is None else seen
                y = attend(own["query"](x), own["key"](seen), own["value"](seen), self.heads, hidden)
                x = part["output"]["LayerNorm"](part["output"]["dense"](y) + x)
            y = layer["output"]["dense"](F.gelu(layer["intermediate"]["dense"](x)))
            x = layer["output"]["LayerNorm"](y + x)
        return x


class Published(nn.Module):
    def __init__(self, vision: tuple[int, int, int, int] = (128, 96, 2, 32), med: dict = MED) -> None:
        super().__init__()
        parts = {"visual_encoder": Vit(*vision), "text_encoder": Med(med, vision[0])}
        unused = {f"{name}_proj": nn.Linear(8, 8) for name in ("vision", "text")}
        self.blip = nn.ModuleDict({**parts, **unused})
        layers = dict(zip(PLACES, zip((med["hidden_size"], *SIZES), SIZES, strict=False), strict=True))
        self.mlp = nn.ModuleDict({"layers": nn.ModuleDict({str(n): nn.Linear(*pair) for n, pair in layers.items()})})

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        answer = self.blip["text_encoder"](ids, mask, self.blip["visual_encoder"](pixels))[:, 0]
        for layer in self.mlp["layers"].values():
            answer = layer(answer)
        return (answer[:, 0] - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def published() -> Published:
    torch.manual_seed(3)
    made = Published().eval()
    with torch.no_grad():  # as drawn, five layers in a row leave hardly anything of what went in
        for name, value in made.mlp.named_parameters():
            value.mul_(3.0 if name.endswith("weight") else 1.0)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory, published) -> Path:
    root = tmp_path_factory.mktemp("imagereward")
    torch.save(published.state_dict(), root / "ImageReward.pt")
    (root / "med_config.json").write_text(json.dumps(MED))
    BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(root)
    return root


def opened(folder: Path, **changed):
    section = ImageReward(path=str(folder)).model_copy(update=changed)
    return open_critics(["imagereward"], {"imagereward": section}, folder, torch.device("cpu"))


def reward_of(folder: Path):
    return build_rewards(Reward(weights={"imagereward": 1.0}), opened(folder), None)["imagereward"]


def pictures(height: int = 32, width: int = 32) -> Tensor:
    return torch.rand((2, 3, height, width), generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9


def words(prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Token numbers and mask, by hand: [CLS] words [SEP], padded to 35."""
    rows = [[2, *(WORDS.index(word) for word in prompt.split()), 3] for prompt in prompts]
    ids = torch.tensor([row + [0] * (TOKENS - len(row)) for row in rows])
    return ids, (ids != 0).long()


@torch.no_grad()
def test_scores_are_what_the_published_names_say(folder, published):
    expected = published(clip_pixels(pictures(), 32), *words(PROMPTS))
    assert expected.std() > 1e-2  # or all would be the last bias
    torch.testing.assert_close(reward_of(folder)(pictures(), PROMPTS), expected, rtol=1e-4, atol=1e-5)


def test_scores_are_of_each_picture_alone_and_reach_its_pixels(folder):
    reward, images = reward_of(folder), pictures().requires_grad_(True)
    scores = reward(images, PROMPTS)
    assert scores.shape == (2,)
    torch.testing.assert_close(reward(images.flip(0), PROMPTS[::-1]), scores.flip(0))
    scores.sum().backward()
    assert images.grad.abs().amax((1, 2, 3)).min() > 0
    critic = opened(folder)["imagereward"]
    assert not any(p.requires_grad for part in (critic.vision, critic.text, critic.head) for p in part.parameters())


def test_of_a_picture_that_is_not_square_the_middle_is_seen():
    """Resize to the shorter side, then CenterCrop, by the same filter as Pillow's."""
    seen = middle(pictures(64, 96), 32)
    assert seen.shape == (2, 3, 32, 32)
    array = ((pictures(64, 96)[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    small = torch.from_numpy(np.asarray(Image.fromarray(array).resize((48, 32), Image.BICUBIC)).copy())
    assert ((seen[0].permute(1, 2, 0) + 1) * 127.5 - small[:, 8:40].float()).abs().max() < 3
    torch.testing.assert_close(middle(pictures(), 32), pictures())


def test_the_published_sizes_are_built():
    """ViT-L/16 at 224 and BERT-base, as salesforce/BLIP and THUDM/ImageReward build them; no weights are made."""
    base = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    med = MED | base | {"vocab_size": 30524, "max_position_embeddings": 512}
    with torch.device("meta"):
        state = Published((1024, 4096, 24, 224), med).state_dict()
        vision, text, head = build(state, {name: med[name] for name in FROM_MED_CONFIG})
    assert (vision.config.num_attention_heads, vision.config.image_size, vision.config.patch_size) == (16, 224, 16)
    parameters = [sum(p.numel() for p in part.parameters()) for part in (vision, text, head)]
    cross = 2 * (768 + 1) * 768 + 2 * (1024 + 1) * 768  # query and output; key and value of the picture's features
    layer = 4 * (768 + 1) * 768 + cross + (768 + 1) * 3072 + (3072 + 1) * 768 + 3 * 2 * 768
    layers = (768 + 1) * 1024 + (1024 + 1) * 128 + (128 + 1) * 64 + (64 + 1) * 16 + 17
    assert parameters == [303_301_632, (30524 + 512 + 2) * 768 + 12 * layer, layers]


def test_a_file_is_held_against_its_hash(folder):
    found = hashlib.sha256((folder / "ImageReward.pt").read_bytes()).hexdigest()
    opened(folder, sha256=found)
    with pytest.raises(UserError, match=rf"imagereward\.sha256: .* has {found}, which is another file than 0000"):
        opened(folder, sha256="0" * 64)
    with pytest.raises(UserError, match=r"nowhere\.pt is missing; legible downloads no rewards"):
        opened(folder, weights="nowhere.pt")


@pytest.mark.parametrize(
    "lost", ["med_config.json", "tokenizer.json", "blip.visual_encoder.cls_token", "mlp.layers.7.bias"]
)
def test_what_is_missing_is_refused_in_one_sentence(folder, lost, tmp_path):
    for file in folder.iterdir():
        if file.name != lost:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    state = torch.load(folder / "ImageReward.pt", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != lost}, tmp_path / "ImageReward.pt")
    with pytest.raises(UserError, match=r"imagereward\.path: .*ImageReward\.pt, med_config\.json and BERT's tokenizer"):
        opened(tmp_path)


def test_an_arm_needs_its_section():
    arms = {"diffusion_only": {}, "nice": {"reward": {"weights": {"imagereward": 1.0}}}}
    with pytest.raises(ValueError, match=r"arms\.nice: its reward judges with imagereward; set imagereward\.path"):
        Config.model_validate({"arms": arms})
    Config.model_validate({"arms": arms, "imagereward": {"path": "models/imagereward"}})
