"""What a run will hold in memory, phase by phase, told before anything is loaded.

Weights, gradients, moments and copies are counted: the models are built on the meta device, which allocates nothing.
Activations are measured on a small block and a small decode of the same classes (what they keep for their backward
passes) and scaled. For Z-Image in bfloat16 at 512² that gives 12 GiB for full training and 9 GiB for LoRA, which is
what others measured on GPUs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
from diffusers import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from legible.config import Data, Model, Training
from legible.errors import UserError
from legible.models.family import empty_model
from legible.models.hub import pinned
from legible.models.opening import DTYPES
from legible.models.quantization import quantized_bytes
from legible.models.zimage import SPEC
from legible.train.adapters import select_parameters
from legible.train.group import Group

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}
EIGHT_BIT = 2 * (1 + 4 / 256)  # two moments, each one byte a value and a float32 scale per 256 values
SMALL, TOKENS = 384, (64, 128)  # channels and tokens of the block that is measured
HEADROOM = 0.9  # share of the free memory that may be planned for: the framework's own use is not in the sums


@dataclass(frozen=True)
class Phase:
    """A part of the work that has the memory for itself: (what, bytes) each."""

    name: str
    parts: tuple[tuple[str, float], ...]

    @property
    def total(self) -> float:
        """Bytes of all parts together."""
        return sum(size for _, size in self.parts)


def plan(model: Model, training: Training, height: int, width: int) -> list[Phase]:
    """The phases of a run, in each of its processes, without the critics of auxiliary losses (CLIP, reader: < 1 GiB).

    Args:
        height, width: of the latents.

    Raises:
        UserError: a configuration of the model cannot be read, or what is to be trained matches nothing.
    """
    model = pinned(model)
    dtype, wide, master = DTYPES[model.dtype], BYTES[model.dtype], BYTES[training.weights]
    opened = empty_model(model)
    transformer, vae = (opened.module(part) for part in ("denoiser", "vae"))
    encoder = opened.module("text_encoder")
    frozen, decoder = count(transformer), count(vae)
    few_bits = training.quantization != "none"
    small, small_bytes = (
        quantized_bytes(transformer, opened.quantized_layers(), training.quantization) if few_bits else (0, 0.0)
    )
    chosen = sum(p.numel() for p in select_parameters(opened, training, 0).values())
    whole = count(transformer)
    frozen = frozen - chosen if training.method == "full" else frozen

    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    batch = len(Group(size=training.processes).passes(training)[0])
    pixels = batch * height * width * factor**2
    caption = -(-model.max_sequence_length // 32) * 32  # captions are padded to multiples of 32
    # The velocity anchor's points have a forward and backward pass of their own.
    points = max(batch, training.anchor.batch_size if training.anchor.weight else 0)
    values = points * (height * width // 4 + caption) * transformer.config.dim
    blocks = len(transformer.layers) + len(transformer.noise_refiner)
    mixed = training.weights != model.dtype
    kept = values * kept_by_a_block(dtype, training, mixed)
    # With checkpointing a block keeps its input only, and one block at a time keeps everything.
    again = "denoiser" in training.gradient_checkpointing
    activations = blocks * values * wide + kept if again else blocks * kept
    heard, measured = bool(training.aux.weights), bool(training.aux.weights and training.aux.measure_every)
    # Of sharded weights each process has its part; at a time, two blocks are whole (one computes, one is fetched).
    mine = chosen / training.processes if training.sharded else chosen
    copied = chosen * 2 / blocks if training.sharded else chosen if mixed else 0
    parts = [
        ("frozen weights", (frozen - small) * wide),
        (f"frozen weights, {training.quantization}", small_bytes),
        (f"trained weights, {training.weights}", mine * master),
        ("their gradients", mine * master),
        (f"moments, {training.optimizer}", mine * (EIGHT_BIT if training.optimizer == "adamw_8bit" else 2 * master)),
        (f"copies in {model.dtype}", copied * wide),
        ("averaged weights", mine * 4 if training.ema else 0),
        ("gradient of the auxiliary loss", chosen * master if measured else 0),
        ("activations", activations),
        ("decoder", decoder * wide if heard else 0),
        ("activations of the decoder", pixels * kept_by_the_decoder(vae, dtype, training) if heard else 0),
    ]
    return [
        Phase("captions", (("text encoder", count(encoder) * wide),)),
        Phase("latents", (("VAE", decoder * wide),)),
        Phase("training", tuple((name, size) for name, size in parts if size)),
        Phase("sampling", (("transformer", whole * wide), ("VAE", decoder * wide))),
    ]


def describe(phases: list[Phase], free: float, training: Training) -> str:
    """A table of the phases in GiB, whether each fits into `free` bytes, and what to change where one does not."""
    lines = []
    for phase in phases:
        fits = "fits" if phase.total <= HEADROOM * free else "DOES NOT FIT"
        lines.append(f"{phase.name:<10}{phase.total / GIB:8.2f} GiB of {free / GIB:.1f}: {fits}")
        lines += [f"    {size / GIB:8.2f} {name}" for name, size in phase.parts]
    if any(phase.total > HEADROOM * free for phase in phases):
        lines.append("to need less: " + "; ".join(ways_out(training)))
    return "\n".join(lines)


def settle_checkpointing(model: Model, training: Training, height: int, width: int, free: float) -> Training:
    """For `gradient_checkpointing: [auto]`: as little computed twice as fits into `free` bytes; else `training` itself.

    Args:
        height, width: of the latents.
    """
    if "auto" not in training.gradient_checkpointing:
        return training
    for parts in ((), ("decoder",), ("denoiser", "decoder")):
        settled = training.model_copy(update={"gradient_checkpointing": parts})
        needed = next(phase.total for phase in plan(model, settled, height, width) if phase.name == "training")
        if needed <= HEADROOM * free:
            break
    return settled


def check_memory(phases: list[Phase], free: float, training: Training) -> None:
    """Print what a run will hold, and refuse it before anything is loaded if its training does not fit.

    Raises:
        UserError: the training phase needs more than `free` bytes.
    """
    print(describe(phases, free, training), flush=True)
    needed = next(phase.total for phase in phases if phase.name == "training")
    if needed > free:
        raise UserError(
            f"training needs about {needed / GIB:.1f} GiB, but {free / GIB:.1f} GiB are free on this device; to need "
            f"less: {'; '.join(ways_out(training))}"
        )


def ways_out(training: Training) -> list[str]:
    """What to change when a run does not fit, what costs least first."""
    once = {"denoiser", "decoder"} - set(training.gradient_checkpointing)
    ways = [
        ("training.optimizer: adamw_8bit", training.optimizer != "adamw_8bit"),
        ("training.gradient_checkpointing: [denoiser, decoder]", bool(once)),
        ("training.aux.region: crop", bool(training.aux.weights) and training.aux.region == "image"),
        ("training.batch_size: 1 with more accumulation", training.batch_size > 1),
        ("training.weights: bfloat16", training.method == "full" and training.weights == "float32"),
        ("training.method: lora", training.method == "full"),
        ("training.quantization: int8 or nf4", training.method == "lora" and training.quantization == "none"),
    ]
    return [way for way, open_ in ways if open_] or ["a device with more memory"]


def latent_size(model: Model, data: Data) -> tuple[int, int]:
    """Height and width of the latents of the dataset's images."""
    _, height, width = empty_model(model).latent_shape(data.height, data.width)
    return height, width


def free_bytes() -> int:
    """Free memory of the device that will be used: the first GPU, or this machine."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available


def count(module: torch.nn.Module) -> int:
    """Number of its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def kept_by_a_block(dtype: torch.dtype, training: Training, mixed: bool) -> float:
    """Bytes that a transformer block keeps for its backward pass, per token and channel."""
    block = ZImageTransformerBlock(0, SMALL, SMALL // 128, SMALL // 128, 1e-5, True).to(dtype)
    if training.method == "lora":
        rank = max(training.lora.rank * SMALL // 3840, 1)
        settings = LoraConfig(r=rank, target_modules=list(training.lora.targets or SPEC.lora_targets))
        block = inject_adapter_in_model(settings, block.requires_grad_(False))
    elif mixed:
        block = block.float()

    def kept(tokens: int) -> int:
        stream = torch.zeros(1, tokens, SMALL, dtype=dtype, requires_grad=True)
        rotation = torch.ones(1, tokens, 64, dtype=torch.complex64)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return saved_bytes(lambda: block(stream, None, rotation, torch.zeros(1, 256, dtype=dtype)), block)

    # The difference of two lengths: what does not grow with the tokens (copies of weights) is counted elsewhere.
    return (kept(TOKENS[1]) - kept(TOKENS[0])) / (TOKENS[1] - TOKENS[0]) / SMALL


def kept_by_the_decoder(vae: AutoencoderKL, dtype: torch.dtype, training: Training) -> float:
    """Bytes that the decoder keeps for its backward pass, per pixel of the image."""
    real = torch.nn.Module.to(AutoencoderKL.from_config(vae.config).requires_grad_(False), dtype)
    if "decoder" in training.gradient_checkpointing:
        real.enable_gradient_checkpointing()
    side = 8
    latents = torch.zeros(1, vae.config.latent_channels, side, side, dtype=dtype, requires_grad=True)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    return saved_bytes(lambda: real.decode(latents), real) / (side * factor) ** 2


def plain_tensors(value: Tensor) -> list[Tensor]:
    """The tensors with memory of their own that `value` (quantised weights, for example) is made of."""
    if not is_traceable_wrapper_subclass(value):
        return [value]
    return [part for name in value.__tensor_flatten__()[0] for part in plain_tensors(getattr(value, name))]


def saved_bytes(run: Callable[[], object], module: torch.nn.Module) -> int:
    """Bytes of the tensors that `run` keeps for a backward pass, without the module's own weights."""
    own = {part.untyped_storage().data_ptr() for parameter in module.parameters() for part in plain_tensors(parameter)}
    kept: dict[int, Tensor] = {}  # the tensors themselves: a freed one's address would be used again

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
