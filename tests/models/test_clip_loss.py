"""The CLIP loss of text regions: its value, and whom its gradient reaches."""

import shutil
from dataclasses import replace

import open_clip
import pytest
import torch
from gradients import assert_gradient
from huggingface_hub.utils import filter_repo_objects
from pictures import BOXES, OWNERS, TEXTS, images_of
from PIL import Image
from safetensors.torch import load_file, save_file

from legible.config import Clip, Model, Training
from legible.errors import UserError
from legible.losses.clip_region import clip_region_loss
from legible.losses.regions import crop_regions
from legible.models.clip import OpenedClip, open_clip_model
from legible.models.hub import commit, pinned_sections, sources


def in_double(clip: OpenedClip) -> OpenedClip:
    return replace(clip, model=clip.model.double(), mean=clip.mean.double(), std=clip.std.double())


def test_the_loss_is_the_cosine_distance_of_open_clips_own_features(tiny_clip):
    images = images_of()
    loss = clip_region_loss(tiny_clip, images, OWNERS, BOXES, TEXTS, 2.0)
    crops = (crop_regions(images, OWNERS, BOXES, (32, 64), 2.0) + 1) / 2
    seen = tiny_clip.model.encode_image((crops - 0.5) / 0.5)
    read = tiny_clip.model.encode_text(tiny_clip.tokenize(TEXTS))
    torch.testing.assert_close(loss, 1 - torch.cosine_similarity(seen, read), atol=1e-6, rtol=1e-5)
    assert loss.shape == (3,)
    assert loss.min() >= 0
    assert loss.max() <= 2


def test_pixels_are_normalised_as_open_clip_normalises_pictures(tiny_clip, folders):
    # The same picture by open_clip's own preprocessing and by ours, whole image as the region.
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folders.clip}", load_weights=False)
    pixels = (images_of()[0].permute(1, 2, 0) * 127.5 + 127.5).round().byte()
    expected = preprocess(Image.fromarray(pixels.numpy()))[None]
    ours = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
    given = []
    original = tiny_clip.model.encode_image
    spied = replace(tiny_clip, model=tiny_clip.model)
    spied.model.encode_image = lambda crops, normalize: given.append(crops) or original(crops, normalize=normalize)
    clip_region_loss(spied, ours, torch.tensor([0]), torch.tensor([[0.0, 0.0, 64.0, 32.0]]), ["X"], 0.0)
    torch.testing.assert_close(given[0], expected, atol=1e-5, rtol=0)


def test_strings_and_pictures_are_told_apart(tiny_clip):
    loss = [clip_region_loss(tiny_clip, images_of(), OWNERS, BOXES, texts, 2.0) for texts in (TEXTS, TEXTS[::-1])]
    assert loss[0][1] == loss[1][1]
    assert loss[0][0] != loss[1][0]
    assert (clip_region_loss(tiny_clip, images_of(1), OWNERS, BOXES, TEXTS, 2.0) - loss[0]).abs().min() > 0


def test_a_region_does_not_depend_on_the_other_regions(tiny_clip):
    together = clip_region_loss(tiny_clip, images_of(), OWNERS, BOXES, TEXTS, 2.0)
    for i in range(3):
        part = slice(i, i + 1)
        alone = clip_region_loss(tiny_clip, images_of(), OWNERS[part], BOXES[part], TEXTS[part], 2.0)
        torch.testing.assert_close(together[part], alone, atol=1e-6, rtol=0)


def test_gradients_are_those_of_finite_differences(tiny_clip):
    clip = in_double(tiny_clip)

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        return clip_region_loss(clip, pixels, OWNERS, BOXES.double(), TEXTS, 2.0).sum()

    assert_gradient(loss, images_of(dtype=torch.float64), 1e-5, 1e-4)


def test_saturated_pixels_get_a_gradient(tiny_clip):
    # A decoder overshoots on strokes; a clamp to 0 … 1 would leave exactly these pixels without a gradient.
    images = images_of()
    images[:, :, 10:20, 20:40] = 1.3
    images[:, :, 20:24, 20:40] = -1.2
    images.requires_grad_(True)
    clip_region_loss(tiny_clip, images, OWNERS, BOXES, TEXTS, 2.0).sum().backward()
    saturated = images.grad[1, :, 10:24, 20:40]
    assert (saturated != 0).float().mean() > 0.99


def test_the_gradient_reaches_the_transformer_and_nothing_else(zimage, tiny_clip):
    transformer = zimage.transformer.requires_grad_(True)
    captions = zimage.encode_prompts(['a sign that says "OPEN"', 'a label with text "4711"'])
    noisy = torch.randn((2, 12, 8, 16), generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.5, 0.3])
    before = {name: p.clone() for name, p in [*zimage.vae.named_parameters(), *tiny_clip.model.named_parameters()]}
    clean = zimage.process.predicted_clean(noisy, zimage.predict(noisy, sigma, captions), sigma)
    clip_region_loss(tiny_clip, zimage.decode(clean), OWNERS, BOXES, TEXTS, 2.0).sum().backward()
    silent = [n for n, p in transformer.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    # Pad tokens are used only where a caption or an image does not fill a multiple of 32 tokens; this image does.
    assert set(silent) <= {"x_pad_token"}
    for module in (zimage.vae, zimage.text_encoder, tiny_clip.model):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    after = dict([*zimage.vae.named_parameters(), *tiny_clip.model.named_parameters()])
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_descending_the_gradient_lowers_the_loss(tiny_clip):
    images = images_of().requires_grad_(True)
    first = clip_region_loss(tiny_clip, images, OWNERS, BOXES, TEXTS, 2.0).sum()
    (gradient,) = torch.autograd.grad(first, images)
    moved = images.detach() - 0.5 * gradient / gradient.norm()
    assert clip_region_loss(tiny_clip, moved, OWNERS, BOXES, TEXTS, 2.0).sum() < first


@pytest.mark.parametrize("file", ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_clip_is_one_sentence(folders, tmp_path, file, damage):
    shutil.copytree(folders.clip, tmp_path / "clip")
    path = tmp_path / "clip" / file
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="this CLIP cannot be loaded") as caught:
        open_clip_model(Clip(path=str(tmp_path / "clip")), torch.device("cpu"))
    assert str(tmp_path / "clip") in str(caught.value)
    assert "\n" not in str(caught.value)


OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def hub(folders, tmp_path, monkeypatch) -> str:
    """The hub's cache on this machine with two commits of the tiny CLIP, `main` being the newer one, and no network."""
    cache = tmp_path / "hub" / "models--someone--clip"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(NEW)
    for name, factor in ((OLD, 1.0), (NEW, 2.0)):
        shutil.copytree(folders.clip, cache / "snapshots" / name)
        weights = cache / "snapshots" / name / "open_clip_model.safetensors"
        save_file({key: factor * value for key, value in load_file(weights).items()}, weights)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit.cache_clear()
    yield "someone/clip"
    commit.cache_clear()


def test_a_hub_id_is_opened_at_its_commit_and_said_when_it_is_not_pinned(hub, tiny_clip, capsys):
    cpu = torch.device("cpu")
    for revision, factor, warned in ((OLD, 1.0, False), (NEW, 2.0, False), (None, 2.0, True), ("main", 2.0, True)):
        opened = open_clip_model(Clip(path=hub, revision=revision), cpu)
        for name, value in opened.model.state_dict().items():
            assert torch.equal(value, factor * tiny_clip.model.state_dict()[name])
        assert torch.equal(opened.tokenize(["OPEN"]), tiny_clip.tokenize(["OPEN"]))
        said = capsys.readouterr().err
        assert (f"warning: clip.revision is not pinned; {hub} at main is {NEW} now" in said) == warned


def test_pickled_weights_of_the_hub_are_not_read(hub, tmp_path):
    folder = tmp_path / "hub" / "models--someone--clip" / "snapshots" / OLD
    weights = folder / "open_clip_model.safetensors"
    torch.save(load_file(weights), folder / "open_clip_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match=r"someone/clip: .*open_clip_model\.safetensors is missing"):
        open_clip_model(Clip(path=hub, revision=OLD), torch.device("cpu"))


def test_only_weights_configuration_and_tokenizer_are_fetched(monkeypatch, folders):
    asked = {}

    def fetched(path: str, **named) -> str:
        asked.update(named, path=path)
        return str(folders.clip)

    monkeypatch.setattr("legible.models.hub.snapshot_download", fetched)
    open_clip_model(Clip(path="someone/clip", revision=OLD), torch.device("cpu"))
    patterns = asked.pop("allow_patterns")
    assert asked == {"path": "someone/clip", "revision": OLD}
    offered = ["open_clip_model.safetensors", "open_clip_config.json", "merges.txt", "pytorch_model.bin", "run.py"]
    offered += ["open_clip_pytorch_model.bin", "model.safetensors"]
    assert list(filter_repo_objects(offered, allow_patterns=patterns)) == offered[:3]


def test_a_commit_that_is_nowhere_and_a_bad_name_are_one_sentence(hub):
    for path, revision, message in (
        (hub, "c" * 40, r"clip\.revision: someone/clip at c{40} is neither to be had from the hub .* nor in the cache"),
        ("someone/other", None, r"clip\.path: someone/other is no folder, .* in the format of open_clip, or run `hf"),
        ("a/b/c", None, r"clip\.path: a/b/c is neither a folder on this machine nor a hub id"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            open_clip_model(Clip(path=path, revision=revision), torch.device("cpu"))
        assert "\n" not in str(caught.value)


def test_a_run_records_the_commits_of_what_it_uses(hub, folders):
    for loss, expected in (("clip_region", {"path": hub, "revision": NEW}), ("glyph_mask", None)):
        training = Training.model_validate({"aux": {"loss": loss, "lambda": 1.0}})
        given = {"model": Model(path=str(folders.zimage)), "clip": Clip(path=hub), "training": training}
        config = pinned_sections(given)
        assert sources(config) == {"model": {"path": str(folders.zimage), "revision": None}, "clip": expected}
        assert config["clip"].revision == (NEW if expected else None)
