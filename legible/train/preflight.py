"""What a run will hold in memory, phase by phase, told before anything is loaded.

The whole model in its true size is built of imagined tensors, which have shapes, types and a device but no memory
(torch's FakeTensorMode), and goes forward once: what its operations keep for their backward passes is counted, nothing
is computed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from legible.config import HEARD, Data, Model, Training
from legible.errors import UserError
from legible.models.family import Family, empty_model
from legible.models.opening import where_mixed
from legible.models.quantization import BYTES_PER_VALUE, quantized_bytes
from legible.models.spec import Spec, spec_of
from legible.train.adapters import select_parameters
from legible.train.group import Group

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}
CHOICE = ("method", "parts", "modules", "lora", "weights")  # keys that decide what is trained, and as what
EIGHT_BIT = 2 * (1 + 4 / 256)  # two moments, each one byte a value and a float32 scale per 256 values
FRAMEWORK = 3 * GIB  # interpreter, libraries and critics, beside what is summed up
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


@dataclass(frozen=True)
class Kept:
    """Bytes that a forward pass keeps for its backward pass: plainly, and with its blocks computed twice."""

    plain: float
    twice: float


@dataclass(frozen=True)
class Sizes:
    """What a model, and the choice of what is trained of it, take; memory in bytes, where `Kept` for one pass."""

    spec: Spec
    weights: dict[str, int]  # of each network, before adapters are added
    trained: dict[str, int]  # of each trained part
    quantized: dict[str, tuple[int, float]]  # kind → how many of the denoiser's weights it changes, and their bytes
    blocks: int
    denoiser: Kept
    decoder: Kept
    encoders: dict[str, Kept]  # of the text encoders that are trained


def plan(model: Model, training: Training, height: int, width: int) -> list[Phase]:
    """The phases of a run, in each of its processes, without the critics of auxiliary losses (CLIP, reader: < 1 GiB).

    Args:
        height, width: of the latents.

    Raises:
        UserError: a configuration of the model cannot be read, or what is to be trained matches nothing.
    """
    # The velocity anchor's points have a forward and backward pass of their own.
    batch = len(Group(size=training.processes).passes(training)[0])
    points = max(batch, training.anchor.batch_size if training.anchor.weight else 0)
    if training.reward.weights:  # of its steps one at a time is computed again, both branches of guidance together
        guided = training.reward.guidance_scale > spec_of(model.family).guidance_off
        guided = guided and training.reward.method in ("prompt", "direct", "grpo")  # the others learn without guidance
        points = max(points, batch * training.reward.points * (2 if guided else 1))
    decodes = any(HEARD[name].decodes for name in training.heard)
    heard = decodes and not training.reward.sampled  # these decode without a gradient, B pictures at a time
    chosen = Training(**{name: getattr(training, name) for name in CHOICE}).model_dump_json(by_alias=True)
    found = sizes_of(model, chosen, batch, points, height, width, heard)
    spec, wide, master = found.spec, BYTES[model.dtype], BYTES[training.weights]
    trained, denoiser, decoder = sum(found.trained.values()), found.weights["denoiser"], found.weights[spec.autoencoder]
    all_weights = denoiser + sum(found.weights[name] for name in found.encoders)
    small, small_bytes = found.quantized.get(training.quantization, (0, 0))
    frozen = all_weights - trained if training.method == "full" else all_weights
    mixed = training.weights != model.dtype
    measured = bool(training.aux.weights and training.aux.measure_every)
    twice = training.gradient_checkpointing
    # Of sharded weights each process has its part; at a time, two blocks are whole (one computes, one is fetched).
    mine = trained / training.processes if training.sharded else trained
    copied = trained * 2 / found.blocks if training.sharded else trained if mixed else 0

    def activations(kept: Kept, part: str) -> float:  # the copies of the weights have a line of their own
        return kept.twice if part in twice else kept.plain - (found.trained.get(part, 0) * wide if mixed else 0)

    parts = [
        ("frozen weights", (frozen - small) * wide),
        (f"frozen weights, {training.quantization}", small_bytes),
        (f"trained weights, {training.weights}", mine * master),
        ("their gradients", mine * master),
        (f"moments, {training.optimizer}", mine * (EIGHT_BIT if training.optimizer == "adamw_8bit" else 2 * master)),
        (f"copies in {model.dtype}", copied * wide),
        ("weights of the base, or the old policy's", mine * reference_bytes(training, master)),
        ("averaged weights", mine * 4 if training.ema else 0),
        ("gradient of the auxiliary loss", trained * master if measured else 0),
        ("activations", activations(found.denoiser, "denoiser")),
        ("activations of the text encoder", sum(activations(kept, name) for name, kept in found.encoders.items())),
        ("decoder", decoder * wide if decodes else 0),
        ("activations of the decoder", activations(found.decoder, "decoder")),
    ]
    return [
        Phase("captions", tuple((name, found.weights[name] * wide) for name in spec.text_encoders)),
        Phase("latents", (("autoencoder", decoder * wide),)),
        Phase("training", tuple((name, size) for name, size in parts if size)),
        Phase("sampling", (("denoiser", denoiser * wide), ("autoencoder", decoder * wide))),
    ]


def reference_bytes(training: Training, master: int) -> int:
    """Bytes a trained weight that a method by the rewards' values keeps beside it; `master`: of the weight itself."""
    reward = training.reward
    if not reward.sampled or reward.method == "best_of_n" or (reward.method == "grpo" and not reward.grpo.kl):
        return 0
    return 4 if reward.method == "nft" else master  # the old policy, in float32, or the base


def job_memory(model: Model, trainings: dict[str, Training], height: int, width: int) -> dict[str, int]:
    """What a job of each stage is to be given, in MB (10⁶ bytes): encode, sample, gradients, and train_{arm} of each.

    A job on a GPU has its weights in the machine's memory for a moment only; it is given as much as one without.

    Args:
        trainings: of each arm; all its processes are one job.
        height, width: of the latents.
    """
    size = {
        arm: {phase.name: phase.total + FRAMEWORK for phase in plan(model, training, height, width)}
        for arm, training in trainings.items()
    }
    frozen = next(iter(size.values()))  # what trains nothing is the same for all arms
    planned = {f"train_{arm}": own["training"] * trainings[arm].processes for arm, own in size.items()}
    planned |= {
        "encode": max(frozen["captions"], frozen["latents"]),
        "sample": max(frozen["captions"], frozen["sampling"]),
        "gradients": max(own["training"] for own in size.values()),
    }
    return {stage: round(needed / 10**6) for stage, needed in planned.items()}


@cache  # most arms, and all ways to save memory, differ in what needs no second look
def sizes_of(model: Model, choice: str, batch: int, points: int, height: int, width: int, heard: bool) -> Sizes:
    """Build the model without memory, choose what is trained, and let it go forward.

    Args:
        choice: the CHOICE of a training, and otherwise defaults, as JSON (which can be remembered by).
        batch, points: samples of a forward pass of the decoder and of the denoiser.
        heard: whether a loss decodes.
    """
    opened, chosen = empty_model(model), Training.model_validate_json(choice)
    spec, encoders = opened.spec, [name for name in chosen.parts if name != "denoiser"]
    networks = {name: opened.module(name).requires_grad_(False) for name in part_names(spec)}
    weights = {name: count(network) for name, network in networks.items()}
    layers = opened.quantized_layers()
    quantized = {kind: quantized_bytes(networks["denoiser"], layers, kind) for kind in BYTES_PER_VALUE}
    select_parameters(opened, chosen, 0)
    trained = {part: sum(p.numel() for p in networks[part].parameters() if p.requires_grad) for part in chosen.parts}
    used = ["denoiser", *encoders, *([spec.autoencoder] if heard else [])]
    with imagined(opened, used) as shapes:
        denoiser = of_many(points, partial(kept_by_the_denoiser, shapes, height, width, bool(encoders)))
        decoder = of_many(batch, partial(kept_by_the_decoder, shapes, height, width)) if heard else Kept(0, 0)
        read = {name: of_many(batch, partial(kept_by_an_encoder, shapes, name)) for name in encoders}
    return Sizes(spec, weights, trained, quantized, len(opened.blocks()), denoiser, decoder, read)


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


def count(module: nn.Module) -> int:
    """Number of its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def part_names(spec: Spec) -> tuple[str, ...]:
    """The networks of a family, as `Family.module` knows them."""
    return ("denoiser", spec.autoencoder, *spec.text_encoders)


@contextmanager
def imagined(opened: Family, names: list[str]) -> Iterator[Family]:
    """These networks of an empty model, of imagined tensors on the CPU: what is computed in here has shapes only."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for name in names:
            opened.module(name).to_empty(device="cpu")
        yield replace(opened, device=torch.device("cpu"))


def of_many(count: int, kept: Callable[[int], Kept]) -> Kept:
    """What `kept` says of `count` samples: of more than three, of two and what each further one adds.

    To imagine hundreds would take minutes. One alone is no measure: some kernels treat it otherwise.
    """
    if count <= 3:
        return kept(count)
    two, three = kept(2), kept(3)
    more = count - 2
    return Kept(two.plain + more * (three.plain - two.plain), two.twice + more * (three.twice - two.twice))


def kept_by_the_denoiser(opened: Family, height: int, width: int, through: bool, batch: int) -> Kept:
    """Of one forward pass over `batch` samples with the longest captions.

    Args:
        through: whether a gradient passes through it to a text encoder.
    """
    channels = opened.latent_shape(height * opened.pixels_per_latent, width * opened.pixels_per_latent)[0]
    noisy, sigma = torch.zeros((batch, channels, height, width)), torch.full((batch,), 0.5)
    conditioning = opened.example_conditioning(batch)
    for rows in conditioning.tensors.values() if through else ():
        for row in rows:
            row.requires_grad_(row.is_floating_point())
    network = opened.module("denoiser")
    levels = opened.process.levels(sigma)
    return kept_by(lambda: opened.predict(noisy, levels, conditioning), network, opened.blocks())


def kept_by_the_decoder(opened: Family, height: int, width: int, batch: int) -> Kept:
    """Of decoding `batch` whole images; with `aux.region: crop` it is less."""
    channels = opened.latent_shape(height * opened.pixels_per_latent, width * opened.pixels_per_latent)[0]
    network = opened.module(opened.spec.autoencoder)
    latents = torch.zeros((batch, channels, height, width), requires_grad=True)
    return kept_by(lambda: opened.decode(latents), network, opened.decoder_blocks())


def kept_by_an_encoder(opened: Family, name: str, batch: int) -> Kept:
    """Of one forward pass of a text encoder over `batch` longest prompts (of several encoders, all their tokens)."""
    network = opened.module(name)
    tokens = opened.example_conditioning(1).lengths()[0]
    tokens = min(tokens, getattr(network.config, "max_position_embeddings", tokens))
    ids = torch.zeros((batch, tokens), dtype=torch.long)

    def run() -> object:
        with where_mixed(network, opened.device):
            return network(input_ids=ids)

    return kept_by(run, network, [])


def kept_by(run: Callable[[], object], network: nn.Module, blocks: list[nn.Module]) -> Kept:
    """What `run` keeps for its backward pass, without the network's own weights.

    With the blocks computed twice, each keeps what it is given, and one block at a time keeps everything.
    """
    own = {storage(part) for parameter in network.parameters() for part in plain_tensors(parameter)}
    kept: dict[int, Tensor] = {}  # the tensors themselves: a freed one's place would be used again
    outside: dict[int, Tensor] = {}  # kept by no block, or given to one
    inside: list[dict[int, Tensor]] = []  # kept by each block first
    here = outside

    def pack(value: Tensor) -> Tensor:
        if (place := storage(value)) not in own and place not in kept:
            kept[place] = here[place] = value
        return value

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal here
        given = {storage(value): value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
        outside.update({place: value for place, value in given.items() if place not in own})
        inside.append({})
        here = inside[-1]

    def leave(module: nn.Module, args: tuple, output: object) -> None:
        nonlocal here
        here = outside

    hooks = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    hooks += [block.register_forward_hook(leave) for block in blocks]
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    once = [nbytes(value for place, value in part.items() if place not in outside) for part in inside]
    return Kept(nbytes(kept.values()), nbytes(outside.values()) + max(once, default=0))


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Memory of tensors that share none."""
    return sum(value.untyped_storage().nbytes() for value in tensors)


def storage(value: Tensor) -> int:
    """What tells memory apart; imagined tensors have no address."""
    return value.untyped_storage()._cdata


def plain_tensors(value: Tensor) -> list[Tensor]:
    """The tensors with memory of their own that `value` (quantised weights, for example) is made of."""
    if not is_traceable_wrapper_subclass(value):
        return [value]
    return [part for name in value.__tensor_flatten__()[0] for part in plain_tensors(getattr(value, name))]
