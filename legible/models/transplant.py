"""A tuned text encoder in other pipelines that read captions with the same one: TextCraftor's figures 7 to 9.

Stable Diffusion 1.x and its ControlNets and inpainting models have one text encoder, CLIP-L. Stable Diffusion XL has it
as the first of its two and reads `hidden_states[-2]` of it: what tuning did to the last layer and to the norm after it
is not heard there. Its pooled vector is of the second encoder.
"""

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from legible.config import Model
from legible.errors import UserError, no_room
from legible.integrity import check_sums
from legible.io import honour_umask
from legible.models.family import open_model
from legible.models.opening import first_line

Pipeline = (
    StableDiffusionPipeline
    | StableDiffusionXLPipeline
    | StableDiffusionControlNetPipeline
    | StableDiffusionInpaintPipeline
)
PIPELINES: dict[type, tuple[str, ...]] = {  # → the pictures that it needs, by the names of its arguments
    StableDiffusionPipeline: (),
    StableDiffusionXLPipeline: (),
    StableDiffusionControlNetPipeline: ("image",),
    StableDiffusionInpaintPipeline: ("image", "mask_image"),
}
PART = "text_encoder"  # its name in all of them
UNSEEN = ("hidden_act", "num_attention_heads", "layer_norm_eps")  # settings that no shape shows


@dataclass(frozen=True)
class TunedEncoder:
    """A text encoder without adapters, and the tokenizer of the model in which it was tuned."""

    network: CLIPTextModel
    tokenizer: PreTrainedTokenizerBase
    name: str  # for errors


def tuned_model(weights: Path) -> Model:
    """The model in which a run tuned, as the run.json beside its weights names it.

    Raises:
        UserError: there is no such file, or it names none.
    """
    try:
        place = json.loads((weights.parent / "run.json").read_text(encoding="utf-8"))["model"]
        return Model(family="stable_diffusion", path=place["path"], revision=place["revision"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--model: it is needed, as no run.json beside {weights} names the model") from error


def open_tuned(model: Model, weights: Path | None, threads: int = 1) -> TunedEncoder:
    """The text encoder of a run, LoRA adapters merged into it, or the base's own.

    Args:
        model: the one in which it was tuned.
        weights: the run's; None = the base.

    Raises:
        UserError: the model is no Stable Diffusion, something is missing or damaged, or no text encoder was tuned.
    """
    if model.family != "stable_diffusion":
        raise UserError(f"model.family: {model.family} has no text encoder for other pipelines; stable_diffusion has")
    opened = open_model(model, ("text",), threads, weights)
    network = opened.text_encoder
    adapters = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
    if weights is not None and not adapters and not (weights / PART).is_dir():
        raise UserError(f"{weights}: no text encoder was tuned in this run; training.parts must name {PART}")
    for layer in adapters:
        layer.merge()
    if adapters:
        recurse_remove_peft_layers(network)
    return TunedEncoder(network, opened.tokenizer, str(weights or model.path))


def transplanted(pipeline: Pipeline, tuned: TunedEncoder) -> Pipeline:
    """A pipeline that is `pipeline` but for its (first) text encoder; it shares all other parts with it.

    The encoder has the precision and the device of the one in whose place it is.

    Raises:
        UserError: the pipeline is of another kind, or has another text encoder or another vocabulary.
    """
    check_fits(pipeline, tuned)
    encoder = copy.deepcopy(pipeline.text_encoder)
    encoder.load_state_dict(tuned.network.state_dict())
    changed = copy.copy(pipeline)
    changed.text_encoder = encoder
    return changed


def check_fits(pipeline: Pipeline, tuned: TunedEncoder) -> None:
    """Refuse a pipeline that does not read captions with the same text encoder.

    Raises:
        UserError: it does not.
    """
    kind, own = type(pipeline).__name__, pipeline.components.get(PART)
    if type(pipeline) not in PIPELINES:
        raise UserError(f"{kind}: no pipeline for a tuned text encoder; allowed are {known()}")
    if not isinstance(own, CLIPTextModel):
        raise UserError(f"{kind}: its `{PART}` is a {type(own).__name__}, a CLIPTextModel is needed")
    here, there = ({name: list(v.shape) for name, v in part.state_dict().items()} for part in (own, tuned.network))
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            raise UserError(
                f"{kind}: its `{PART}` is another one than that of {tuned.name}: `{name}` is"
                f" {here.get(name, 'missing')}, there {there.get(name, 'missing')}"
            )
    for name in UNSEEN:
        if (mine := getattr(own.config, name)) != (its := getattr(tuned.network.config, name)):
            raise UserError(f"{kind}: its `{PART}` has {name} {mine}, that of {tuned.name} {its}")
    if vocabulary(pipeline.tokenizer) != vocabulary(tuned.tokenizer):
        raise UserError(f"{kind}: its `tokenizer` has another vocabulary, padding or length than that of {tuned.name}")


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, int], int, int]:
    """What decides which numbers the encoder is given: (word → number, number of the padding, tokens of a caption)."""
    return tokenizer.get_vocab(), tokenizer.pad_token_id, tokenizer.model_max_length


def known() -> str:
    """The pipelines' names, for errors."""
    return ", ".join(kind.__name__ for kind in PIPELINES)


def open_pipeline(folder: Path) -> Pipeline:
    """A pipeline folder as plain diffusers opens it, in float32: safetensors only, no remote code.

    Raises:
        UserError: it is no such folder, of another pipeline, or damaged.
    """
    name = read_index(folder).get("_class_name")
    kinds = [kind for kind in PIPELINES if kind.__name__ == name]
    if not kinds:
        raise UserError(f"{folder}: it is of {name}, no pipeline for a tuned text encoder; allowed are {known()}")
    check_sums(folder)
    try:
        opened = kinds[0].from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except Exception as error:  # diffusers, transformers and safetensors raise a dozen types
        raise UserError(f"{folder}: this pipeline cannot be opened ({first_line(error)})") from error
    # transformers opens float16 files in float16, diffusers its own in float32: together they would not run.
    return opened.to(torch.float32)


def save_transplanted(source: Path, pipeline: Pipeline, output: Path) -> None:
    """Write the pipeline folder `source` with the text encoder of `pipeline`; it appears whole or not at all.

    All other components are copied file by file, so that their bytes and their precision stay; the encoder is written
    in the precision that it has in `pipeline`. What else lies in the folder (one file with all weights, say) would have
    the original encoder in it, and is left out.

    Raises:
        UserError: `output` is already there.
    """
    if output.exists():
        raise UserError(f"{output}: it is already there; name a new folder")
    partial = output.with_name(f".{output.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        shutil.copyfile(source / "model_index.json", partial / "model_index.json")
        for name in read_index(source):
            if name != PART and (source / name).is_dir():
                shutil.copytree(source / name, partial / name)
        pipeline.text_encoder.save_pretrained(partial / PART)
        honour_umask(partial)
        partial.rename(output)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if full := no_room(error):
            raise UserError(f"{output}: {full}") from error
        raise


def read_index(folder: Path) -> dict[str, object]:
    """What model_index.json says: the pipeline's class, and the components' by their names.

    Raises:
        UserError: it is not there, or no JSON object.
    """
    index = folder / "model_index.json"
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{index}: a pipeline folder of diffusers is needed ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise UserError(f"{index}: not a JSON object")
    return found
