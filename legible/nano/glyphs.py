"""Training of the glyph judge (legible/ocr/glyphs.py): signs of which some have one letter damaged.

Every sign is there as it was drawn and once more with a letter damaged, and half of the signs have gone through the
VAE, damaged or not: what a VAE does to a letter is no damage, and so are the blur, noise and slant that are added.
"""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from legible.config import Fonts
from legible.config.scripts import known, shipped_font
from legible.corpus.prompts import Excluded, load_prompts
from legible.corpus.templates import PALETTE
from legible.corpus.words import DIGITS, LATIN, letters_of
from legible.io import atomic_path, sha256_json
from legible.nano.recipe import GlyphRecipe
from legible.ocr.glyphs import STRIDE, GlyphNet, OpenedGlyphJudge, coverage, open_glyph_judge, picture_logits
from legible.progress import progress
from legible.render.damage import DAMAGES, damaged_mask
from legible.render.dataset import render_signs
from legible.render.fonts import Font, find_fonts, select_fonts
from legible.render.sign import Sign, blend_table
from legible.seeds import Stream, shuffled_batches, stateless_generator
from legible.tensors import save_tensors
from legible.train.checkpoint import load_parts, save_parts
from legible.train.log import RunLog

EXCLUDED = ("held_out", "held_out_2", "shift")  # prompt sets on whose pictures it will judge
CHARACTERS = letters_of(LATIN) + DIGITS
NO_LETTER = -100  # of a column: ground, or a letter that is damaged
CLEAN = "none"
CLEAR = 0.5  # severity from which a damage is to be found


@dataclass(frozen=True, eq=False)
class Glyphs:
    """Pictures of signs: `images` uint8 [N, 3, H, W]; per column of the judge's map, [N, W / 2], whether it belongs to
    the damaged letter (`bad`, bool) and which letter stands in it (`letters`, int64); and per picture the damage's kind
    (`CLEAN`: none), its severity, the font, the text, and whether it went through the VAE."""

    images: Tensor
    bad: Tensor
    letters: Tensor
    kinds: np.ndarray
    severities: np.ndarray
    fonts: np.ndarray
    texts: np.ndarray
    decoded: np.ndarray

    @property
    def malformed(self) -> Tensor:
        """Whether a picture holds a damaged letter, bool [N]."""
        return torch.from_numpy(self.kinds != CLEAN)


def excluded_targets() -> Excluded:
    """Strings on which the judge is not to learn: the targets of the prompts whose pictures it judges."""
    return Excluded.of(load_prompts(f"resources/prompts/{name}.jsonl") for name in EXCLUDED)


@cache
def letter_fonts() -> list[Font]:
    """The fonts that matplotlib bundles and those that this project ships, unpacked until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="legible-fonts-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in known().fonts:
        (folder / f"{name}.ttf").write_bytes(shipped_font(name))
    return find_fonts(Fonts(folders=(str(folder),)))


def clean_signs(recipe: GlyphRecipe, fonts: Sequence[str], split: str, count: int, offset: int) -> list[Sign]:
    """`count` signs of non-words and digits in these fonts; `offset` takes others of the split."""
    found = select_fonts(letter_fonts(), tuple(fonts))
    return render_signs(recipe.data, found, split, count, excluded_targets(), start=offset)[0]


def damage_sign(
    sign: Sign, kinds: Sequence[str], severity: float, rng: np.random.Generator
) -> tuple[np.ndarray, str, int] | None:
    """The sign's picture with one letter damaged, by which kind, and which letter; None where all kinds spare it.

    Kinds are tried in random order, each on a random letter.
    """
    text = "".join(sign.lines).replace(" ", "")
    for kind in rng.permutation(list(kinds)):
        place = int(rng.integers(len(text)))
        mask = damaged_mask(sign.mask, sign.character_boxes[place], text[place], str(kind), severity, rng)
        if mask is not None:
            return blend_table(PALETTE[sign.color], PALETTE[sign.background])[mask], str(kind), place
    return None


def labels(sign: Sign, damaged: int | None) -> tuple[np.ndarray, np.ndarray]:
    """`Glyphs.bad` and `Glyphs.letters` of one picture, [W / 2] each."""
    width = sign.mask.shape[1] // STRIDE
    bad, letters = np.zeros(width, bool), np.full(width, NO_LETTER)
    text = "".join(sign.lines).replace(" ", "")
    for place, (x0, _, x1, _) in enumerate(sign.character_boxes):
        inner = slice(x0 // STRIDE, max(x0 // STRIDE + 1, x1 // STRIDE))
        if place == damaged:
            bad[inner] = True
        else:
            letters[inner] = CHARACTERS.index(text[place])
    return bad, letters


def build_glyphs(signs: Sequence[Sign], kinds: Sequence[str], severities: Sequence[float], seed: int) -> Glyphs:
    """Every sign as it is and once damaged (where any kind does); none has gone through the VAE yet.

    Args:
        severities: one number: exactly so severe; two: drawn evenly from between them.
    """
    rows = []
    for number, sign in enumerate(signs):
        rng = np.random.default_rng([seed, int(Stream.DAMAGE), number])
        severity = float(rng.uniform(severities[0], severities[-1]))
        rows.append((sign.image, *labels(sign, None), CLEAN, 0.0, sign))
        if found := damage_sign(sign, kinds, severity, rng):
            rows.append((found[0], *labels(sign, found[2]), found[1], severity, sign))
    images, bad, letters, names, grades, drawn = zip(*rows, strict=True)
    return Glyphs(
        images=torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()),
        bad=torch.from_numpy(np.stack(bad)),
        letters=torch.from_numpy(np.stack(letters)),
        kinds=np.array(names),
        severities=np.array(grades),
        fonts=np.array([sign.font for sign in drawn]),
        texts=np.array([" ".join(sign.lines) for sign in drawn]),
        decoded=np.zeros(len(rows), bool),
    )


@torch.no_grad()
def through_vae(glyphs: Glyphs, vae: AutoencoderKL, where: Tensor, batch: int = 128) -> Glyphs:
    """The pictures, those in `where` (bool [N]) as the VAE gives them back."""
    images = glyphs.images.clone()
    for part in where.nonzero().flatten().split(batch) if where.any() else ():
        decoded = vae.decode(vae.encode(images[part].float() / 127.5 - 1).latent_dist.mode()).sample
        images[part] = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()
    named = {name: getattr(glyphs, name) for name in ("bad", "letters", "kinds", "severities", "fonts", "texts")}
    return Glyphs(images=images, decoded=where.numpy(), **named)


def training_glyphs(recipe: GlyphRecipe, vae: AutoencoderKL, seed: int, work: Path) -> Glyphs:
    """The pool, built once and kept: every other sign's two pictures went through the VAE."""
    drawn = [recipe.signs, recipe.data.model_dump(mode="json"), recipe.train_fonts, recipe.kinds, recipe.severities]
    path = work / f"glyphs-{sha256_json([drawn, seed])[:12]}.npz"
    if not path.exists():
        signs = clean_signs(recipe, recipe.train_fonts, "train", recipe.signs, 0)
        glyphs = build_glyphs(signs, recipe.kinds, recipe.severities, seed)
        sign_of = (glyphs.malformed == 0).cumsum(0)
        glyphs = through_vae(glyphs, vae, sign_of % 2 == 0)
        with atomic_path(path) as temporary:
            np.savez(temporary, **{name: np.asarray(getattr(glyphs, name)) for name in Glyphs.__annotations__})
    with np.load(path, allow_pickle=False) as stored:
        tensors = {name: torch.from_numpy(stored[name]) for name in ("images", "bad", "letters")}
        return Glyphs(**tensors, **{name: stored[name] for name in Glyphs.__annotations__ if name not in tensors})


def harmless(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Coverage [B, 1, H, W] as another font, sampler or VAE could have it: a little slanted, turned, stretched, fatter
    or thinner, softer and noisier. None of this is damage."""
    count = len(ink)

    def evenly(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    turn, slant, wide, tall = evenly(-0.07, 0.07), evenly(-0.2, 0.2), evenly(0.8, 1.2), evenly(0.92, 1.08)
    ratio = ink.shape[2] / ink.shape[3]  # affine_grid counts both sides from −1 to 1
    nothing = torch.zeros(count)
    rows = [
        torch.stack([wide, (slant + turn) * ratio, nothing], 1),
        torch.stack([-turn / ratio, tall, evenly(-0.1, 0.1)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), ink.shape, align_corners=False)
    moved = F.grid_sample(ink, grid, padding_mode="border", align_corners=False)
    amount = evenly(0, 1)[:, None, None, None] ** 2
    blurred = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    soft = moved + amount * (blurred - moved)
    weight = torch.exp(evenly(-0.45, 0.45))[:, None, None, None]
    soft = torch.where(soft > 0, soft.clamp_min(1e-4) ** weight, soft)
    noise = evenly(0, 0.1)[:, None, None, None] * torch.randn(ink.shape, generator=generator)
    return soft * evenly(0.85, 1.1)[:, None, None, None] + noise


def glyph_loss(columns: Tensor, letters: Tensor, bad: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of the pictures, of their columns and, a little, of the letters in them.

    Args:
        columns, letters: of `GlyphNet`, [B, W] and [B, 36, W].
        bad, wanted: `Glyphs.bad` and `Glyphs.letters` of the batch.
    """
    picture = F.binary_cross_entropy_with_logits(picture_logits(columns), bad.any(1).float())
    place = F.binary_cross_entropy_with_logits(columns, bad.float(), pos_weight=torch.tensor(3.0))
    letter = F.cross_entropy(letters, wanted, ignore_index=NO_LETTER)
    return picture + place + 0.2 * letter


def train_glyph_judge(
    recipe: GlyphRecipe, vae: AutoencoderKL, size: tuple[int, int], seed: int, key: str, work: Path, folder: Path
) -> dict:
    """Train, choose the threshold, save to `folder` and return what was measured; resumes from `work`."""
    torch.manual_seed(seed)
    model = GlyphNet(recipe.channels).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.15)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    log = RunLog(work / "glyph_judge.jsonl")
    first = log.rewind(load_parts(work / "glyph_judge.ckpt", key, parts))
    pool = training_glyphs(recipe, vae, seed, work)
    batches = shuffled_batches(len(pool.images), recipe.batch, seed)
    model.train()
    for step in progress(range(first, recipe.steps), "glyph_judge", start=first, total=recipe.steps):
        picked = batches(step)
        ink = harmless(
            coverage(pool.images[picked].float() / 127.5 - 1), stateless_generator(seed, Stream.GLYPHS, step)
        )
        with torch.autocast("cpu", torch.bfloat16):  # more than twice as fast where the processor knows bfloat16
            columns, letters = model(ink.contiguous(memory_format=torch.channels_last))
        loss = glyph_loss(columns.float(), letters.float(), pool.bad[picked], pool.letters[picked])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        log.write(step=step, loss=loss.item(), grad_norm=norm.item())
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            save_parts(work / "glyph_judge.ckpt", key, step + 1, parts)
    judge = OpenedGlyphJudge(model.eval().requires_grad_(False), 1.0, size, key[:12])
    threshold, clean = choose_threshold(judge, recipe, vae, seed)
    about = {"channels": list(recipe.channels), "threshold": threshold, "size": list(size), "version": key[:12]}
    save_tensors(folder / "glyph_judge.safetensors", dict(model.state_dict()), about)
    return clean | measure(open_glyph_judge(folder), recipe, vae, seed)


def judged(judge: OpenedGlyphJudge, glyphs: Glyphs) -> np.ndarray:
    """Probabilities [N]."""
    return torch.cat([judge.of_pixels(part.float() / 127.5 - 1) for part in glyphs.images.split(128)]).numpy()


def choose_threshold(judge: OpenedGlyphJudge, recipe: GlyphRecipe, vae: AutoencoderKL, seed: int) -> tuple[float, dict]:
    """The probability that `recipe.false_positives` of clean signs reach, in fonts and strings of this split alone.

    The larger one of renders and of the VAE's round trips, so that neither is called malformed more often.
    """
    signs = clean_signs(recipe, recipe.threshold_fonts, "test", recipe.measured, 0)
    glyphs = build_glyphs(signs, (), (0.0,), seed + 1)
    found = {}
    for name, where in (("render", False), ("round_trip", True)):
        part = through_vae(glyphs, vae, torch.full((len(signs),), where)) if where else glyphs
        found[name] = float(np.quantile(judged(judge, part), 1 - recipe.false_positives))
    return max(found.values()), {"threshold": max(found.values()), "threshold_signs": len(signs)}


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The share of pairs in which the positive one has the higher value, ties counting half (Mann–Whitney U)."""
    higher = (positive[:, None] > negative[None]).mean()
    return float(higher + 0.5 * (positive[:, None] == negative[None]).mean())


def measure(judge: OpenedGlyphJudge, recipe: GlyphRecipe, vae: AutoencoderKL, seed: int) -> dict[str, float]:
    """On held-out fonts and strings, for renders and for VAE round trips: false positives, and AUROC against the same
    signs undamaged, by kind and severity with the share that is found at the threshold, and by held-out kind and font.

    No string of the test split is one of the training split (`legible.corpus.words.is_held_out`).
    """
    signs = clean_signs(recipe, recipe.held_out_fonts, "test", recipe.measured, 10_000)
    found = {"held_out_signs": float(len(signs))}
    clean = build_glyphs(signs, (), (0.0,), seed)
    for name, decoded in (("render", False), ("round_trip", True)):
        shown = through_vae(clean, vae, torch.full((len(signs),), decoded))
        found |= {f"{name}.{key}": value for key, value in measured_on(judge, recipe, vae, signs, shown, seed).items()}
    return found


def measured_on(
    judge: OpenedGlyphJudge, recipe: GlyphRecipe, vae: AutoencoderKL, signs: Sequence[Sign], clean: Glyphs, seed: int
) -> dict[str, float]:
    """`measure` for renders or, where `clean` went through the VAE, for round trips."""
    negative, found = judged(judge, clean), {}
    for font in (*sorted(set(clean.fonts)), ""):
        own = negative[clean.fonts == font] if font else negative
        found[f"false_positives.{font or 'all'}"] = float((own >= judge.threshold).mean())
    positives, fonts, held_out = [], [], []
    for kind in DAMAGES:
        for severity in recipe.measured_at:
            glyphs = build_glyphs(signs, (kind,), (severity,), seed + 2)
            glyphs = through_vae(glyphs, vae, glyphs.malformed & bool(clean.decoded.any()))
            damaged = glyphs.malformed.numpy()
            if not damaged.any():
                continue
            own = judged(judge, glyphs)[damaged]
            found[f"{kind}.{severity:g}.auroc"] = auroc(own, negative)
            found[f"{kind}.{severity:g}.found"] = float((own >= judge.threshold).mean())
            found[f"{kind}.{severity:g}.pictures"] = float(len(own))
            if kind in recipe.held_out_kinds and severity >= CLEAR:
                positives.append(own)
                fonts.append(glyphs.fonts[damaged])
                held_out += [kind] * len(own)
    values, drawn, kinds = np.concatenate(positives), np.concatenate(fonts), np.array(held_out)
    found["held_out.auroc"] = auroc(values, negative)
    found["held_out.found"] = float((values >= judge.threshold).mean())
    for kind in recipe.held_out_kinds:
        for font in sorted(set(clean.fonts)):
            own = values[(kinds == kind) & (drawn == font)]
            if len(own):
                found[f"held_out.{kind}.{font}.auroc"] = auroc(own, negative[clean.fonts == font])
    return found
