"""The recipe of the shipped nano models: every number that decides what they become."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from legible.config import Data, Fonts, Kinds, Model
from legible.corpus.scenes import Shares
from legible.corpus.words import DIGITS, LATIN, letters_of

TRAIN_FONTS = ("DejaVu Sans", "DejaVu Sans Bold", "DejaVu Serif Bold", "STIXGeneral Bold", "cmss10")
HELD_OUT_FONTS = ("DejaVu Sans Mono Bold", "cmr10")
# Those of them that have Cyrillic capitals and in which Tesseract reads small clean signs (configs/alphabet.yaml).
CYRILLIC_FONTS = ("DejaVu Sans", "DejaVu Sans Bold", "STIXGeneral Bold")


@dataclass(frozen=True)
class VaeRecipe:
    """AutoencoderKL: factor 4, 12 latent channels."""

    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 12
    steps: int = 2400
    batch: int = 32
    learning_rate: float = 2e-3
    sampling_from: float = 0.6  # share of the steps after which the posterior is sampled: noise drowns a young signal
    kl_weight: float = 1e-5


@dataclass(frozen=True)
class DenoiserRecipe:
    """The denoiser, with its text encoder or on top of it; their sizes are in the family's own `nano` module."""

    family: str = Model().family
    text: bool = True  # the text encoder is trained too
    prompt_dropout: float = 0.0  # share of samples with the empty prompt, which guidance needs
    steps: int = 7000
    batch: int = 64
    learning_rate: float = 1.6e-3
    warmup: int = 120  # steps
    decay: int = 800  # last steps of a cycle, in which the learning rate falls linearly to zero
    restarts: tuple[int, ...] = (3800,)  # where one cycle ends and the rate returns to its peak
    sigma_mean: float = 0.4  # of the logit: spelling is decided at high σ, where the 8-step grid also spends its steps
    sigma_std: float = 1.1
    short_until: int = 900  # steps in which only signs of at most `short_length` characters are drawn
    short_length: int = 4
    ema: float = 0.998
    sampling_steps: int = 8
    guidance_scale: float | None = None  # None: off
    pointing_weight: float = 0.0  # of the loss by which the renderer's boxes teach a UNet's cross-attention; 0: without
    pointing_heads: int = 2  # of each layer, that it teaches; the others stay free


@dataclass(frozen=True)
class Mixture:
    """What `shapes` sees: few signs, so that spelling stays, and above all what nano drew like letters."""

    signs: int = 8000  # of the pool
    scenes: int = 56000
    shares: Shares = field(
        default_factory=lambda: Shares(
            kinds={"shapes": 0.62, "dots": 0.14, "stripes": 0.06, "checks": 0.1, "blend": 0.05, "plain": 0.03},
            shapes={"circle": 0.1, "square": 0.12, "triangle": 0.12, "diamond": 0.12, "ring": 0.4, "cross": 0.14},
        )
    )


@dataclass(frozen=True)
class CaptionClipRecipe:
    """CLIP on whole pictures and captions, with altered captions as extra negatives."""

    steps: int = 1200
    batch: int = 128
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class PreferenceRecipe:
    """A twin of a published reward, on pairs of pictures of which one is worse by construction."""

    seed: int
    spoiled: float  # share of the worse pictures that are blurred, faded or speckled; the others do not fit the caption
    steps: int
    batch: int = 64
    learning_rate: float = 3e-4
    pairs: int = 12000


@dataclass(frozen=True)
class ClipRecipe:
    """open_clip CLIP on rendered regions and their strings, with one-edit distractors as extra negatives."""

    width: int = 128
    patch: tuple[int, int] = (8, 4)  # (height, width) in pixels: a letter is two or three patches wide
    vision_layers: int = 4
    text_layers: int = 3
    embed_dim: int = 128
    margin: float = 8.0  # up to so many pixels are left around the ink when a region is cut out
    steps: int = 2000
    batch: int = 128
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class RecognizerRecipe:
    """A CTC recogniser in EasyOCR's user-network format."""

    seed: int
    network_params: dict[str, int]
    steps: int
    batch: int = 64
    learning_rate: float = 2e-3
    margin: float = 0.0  # as for the CLIP, for a reader of regions; 0: a reader of whole signs
    architecture: str | None = None  # of another recogniser, whose source it takes; None: its own
    script: str = LATIN  # whose capitals it reads, and digits


@dataclass(frozen=True)
class GlyphRecipe:
    """The glyph judge: which fonts and kinds of damage it learns on, and which it never sees."""

    signs: int = 32000  # each drawn twice: well-formed and with one letter damaged
    data: Data = field(  # no words: no word of a prompt can be one that it learnt on
        default_factory=lambda: Data(seed=61, kinds=Kinds(word=0.0, rare=0.0, nonword=0.75, digits=0.25), jitter=6)
    )
    train_fonts: tuple[str, ...] = (
        *TRAIN_FONTS,
        *("DejaVu Sans Oblique", "DejaVu Serif", "DejaVu Serif Bold Italic"),
        *("STIXGeneral", "STIXGeneral Italic", "STIXGeneral Bold Italic", "cmti10"),
        # Of those that this project ships: fonts that were never drawn in the data, a third of them monospaced.
        *("Noto Sans", "Noto Serif", "Oswald", "Caveat", "Cantarell", "Cantarell Bold", "Comic Neue Bold"),
        *("Fira Code", "Fira Code Bold", "JetBrains Mono", "JetBrains Mono Bold", "League Mono", "League Mono Bold"),
        *("Roboto", "Roboto Bold", "Roboto Condensed Bold", "Roboto Slab", "Roboto Slab Bold"),
    )
    threshold_fonts: tuple[str, ...] = ("cmb10", "DejaVu Sans Bold Oblique", "DejaVu Serif Italic")
    held_out_fonts: tuple[str, ...] = (*HELD_OUT_FONTS, "DejaVu Sans Mono", "cmtt10")
    kinds: tuple[str, ...] = (
        "erased",
        "upside_down",
        "speckled",
        "mirrored",
        "warped",
        "melted",
        "extra_stroke",
    )
    held_out_kinds: tuple[str, ...] = ("halves", "broken", "doubled", "blob")
    severities: tuple[float, float] = (0.4, 1.0)
    channels: tuple[int, int] = (40, 96)
    steps: int = 8000
    batch: int = 64
    learning_rate: float = 3e-3
    false_positives: float = 0.01  # share of clean signs of the threshold's own split that may reach it
    measured: int = 600  # signs
    measured_at: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)  # severities


@dataclass(frozen=True)
class Recipe:
    """Everything; `pool` signs are rendered once and shared by all models, `scenes` pictures without text by some."""

    seed: int = 20261121
    pool: int = 60000
    scenes: int = 30000
    without_text: int | None = None  # of the prompts without text, on which what draws them is measured; None: all
    fonts: Fonts = field(default_factory=lambda: Fonts(train=TRAIN_FONTS, held_out=HELD_OUT_FONTS))
    data: Data = field(
        default_factory=lambda: Data(seed=7, kinds=Kinds(word=0.25, rare=0.15, nonword=0.45, digits=0.15))
    )
    vae: VaeRecipe = VaeRecipe()
    denoiser: DenoiserRecipe = DenoiserRecipe()
    scenery: DenoiserRecipe = DenoiserRecipe(  # the denoiser goes on; half of what it sees are pictures without text
        steps=5600, learning_rate=1.5e-3, warmup=100, decay=1200, restarts=(2000,), short_until=0
    )
    shapes: DenoiserRecipe = DenoiserRecipe(  # and once more, on the mixture: shapes and rings want more than half
        steps=4000, learning_rate=1.2e-3, warmup=100, decay=1600, restarts=(), short_until=0
    )
    mixture: Mixture = field(default_factory=Mixture)
    clip: ClipRecipe = ClipRecipe()
    caption_clip: CaptionClipRecipe = CaptionClipRecipe()
    preferences: dict[str, PreferenceRecipe] = field(
        default_factory=lambda: {
            "aesthetic": PreferenceRecipe(seed=11, spoiled=1.0, steps=300, learning_rate=1e-3),
            "pickscore": PreferenceRecipe(seed=12, spoiled=0.2, steps=400),
            "hps": PreferenceRecipe(seed=13, spoiled=0.5, steps=400),
        }
    )
    unet: DenoiserRecipe = DenoiserRecipe(
        family="stable_diffusion",
        prompt_dropout=0.1,
        steps=4200,
        learning_rate=1.2e-3,
        decay=1000,
        restarts=(),
        short_until=2600,
        short_length=6,  # all signs: pictures without text, a third of the pool, are learnt sooner than letters
        sigma_mean=0.5,
        sigma_std=1.2,
        sampling_steps=10,
        guidance_scale=2.0,
        pointing_weight=0.1,
    )
    unet_clip: CaptionClipRecipe = CaptionClipRecipe(steps=800)
    recognizers: dict[str, RecognizerRecipe] = field(
        default_factory=lambda: {
            "recognizer_crnn": RecognizerRecipe(seed=1, network_params={"channels": 48, "hidden_size": 96}, steps=800),
            "recognizer_conv": RecognizerRecipe(
                seed=2, network_params={"channels": 40, "hidden_size": 128}, steps=1200, margin=8.0
            ),
            "cyrillic_conv": RecognizerRecipe(
                seed=3,
                network_params={"channels": 40, "hidden_size": 128},
                steps=2000,
                margin=8.0,
                architecture="recognizer_conv",
                script="cyrillic",
            ),
            "cyrillic_crnn": RecognizerRecipe(
                seed=4,
                network_params={"channels": 32, "hidden_size": 64},
                steps=1200,
                architecture="recognizer_crnn",
                script="cyrillic",
            ),
        }
    )

    glyph_judge: GlyphRecipe = field(default_factory=GlyphRecipe)

    def written_in(self, script: str) -> "Recipe":
        """The same recipe with signs in the capitals of another script, in fonts that have them."""
        if script == LATIN:
            return self
        fonts = Fonts(characters=letters_of(script) + DIGITS, train=CYRILLIC_FONTS)
        return replace(self, data=self.data.model_copy(update={"script": script}), fonts=fonts)

    def of(self, part: str) -> "Recipe":
        """The recipe as one part needs it: a reader's in the script that it reads."""
        return self.written_in(self.recognizers[part].script) if part in self.recognizers else self

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for provenance and for checkpoint keys."""
        plain = asdict(replace(self, fonts=None, data=None))  # type: ignore[arg-type]
        plain["glyph_judge"]["data"] = self.glyph_judge.data.model_dump(mode="json")
        return plain | {"fonts": self.fonts.model_dump(mode="json"), "data": self.data.model_dump(mode="json")}


def tiny() -> Recipe:
    """The same recipe in miniature: what the tests train in seconds."""
    return Recipe(
        pool=64,
        vae=VaeRecipe(channels=(8, 8, 8), steps=6, batch=8),
        scenes=32,
        without_text=6,
        denoiser=DenoiserRecipe(steps=6, batch=8, restarts=()),
        scenery=DenoiserRecipe(steps=4, batch=8, restarts=(), short_until=0),
        shapes=DenoiserRecipe(steps=4, batch=8, restarts=(), short_until=0),
        mixture=Mixture(signs=8, scenes=24),
        caption_clip=CaptionClipRecipe(steps=4, batch=8),
        unet_clip=CaptionClipRecipe(steps=4, batch=8),
        unet=replace(Recipe().unet, steps=6, batch=8),
        preferences={
            name: replace(recipe, steps=4, batch=8, pairs=48) for name, recipe in Recipe().preferences.items()
        },
        glyph_judge=GlyphRecipe(signs=24, channels=(8, 8), steps=4, batch=8, measured=12, measured_at=(1.0,)),
        clip=ClipRecipe(width=32, vision_layers=1, text_layers=1, embed_dim=16, steps=4, batch=8),
        recognizers={
            "recognizer_crnn": RecognizerRecipe(1, {"channels": 8, "hidden_size": 8}, steps=4, batch=8),
            "recognizer_conv": RecognizerRecipe(2, {"channels": 8, "hidden_size": 8}, steps=4, batch=8),
            **{
                name: replace(recipe, network_params={"channels": 8, "hidden_size": 8}, steps=4, batch=8)
                for name, recipe in Recipe().recognizers.items()
                if recipe.script != LATIN
            },
        },
    )
