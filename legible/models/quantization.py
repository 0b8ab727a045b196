"""The frozen base in 8 or 4 bits, for LoRA: what is trained stays beside it in full precision.

Which layers: the family says it (`quantized_layers`).

int8: torchao's weight-only quantisation, one scale a row (torchao/quantization: Int8WeightOnlyConfig). nf4: QLoRA's
4-bit NormalFloat with doubly quantised scales (Dettmers et al. 2023), by bitsandbytes. Both are applied layer by layer
to a model on the CPU, each layer on its way to the device, so that the whole model is never there unquantised; and not
by `from_pretrained(quantization_config=…)`, which does the same but refuses nf4 where there is no GPU (huggingface/
diffusers: quantizers/bitsandbytes/bnb_quantizer.py), so that no test could have run it.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legible.errors import UserError

# Bytes per value and per row of a weight matrix. int8: one byte; a float32 scale and an int8 zero point a row.
# nf4: half a byte, an 8-bit scale per 64 values and a float32 one per 256 of these.
BYTES_PER_VALUE = {"int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}
BYTES_PER_ROW = {"int8": 5, "nf4": 0}


def linear_layers(network: nn.Module, blocks: tuple[str, ...], parts: tuple[str, ...]) -> list[str]:
    """Names of the linear layers that begin with one of `blocks` and hold one of `parts`."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(blocks) and any(part in name for part in parts)
    ]


def quantized_bytes(network: nn.Module, layers: list[str], kind: str) -> tuple[int, float]:
    """(number of weights in `layers`, bytes that they take when they are quantised)."""
    shapes = [network.get_submodule(name).weight.shape for name in layers]
    values, rows = sum(shape.numel() for shape in shapes), sum(shape[0] for shape in shapes)
    return values, values * BYTES_PER_VALUE[kind] + rows * BYTES_PER_ROW[kind]


def quantize(network: nn.Module, layers: list[str], kind: str, device: torch.device) -> None:
    """Replace the weights of `layers`, frozen, by `int8` or `nf4` ones on `device`.

    Raises:
        UserError: the library that does it is not installed.
    """
    convert = int8_linear if kind == "int8" else nf4_linear
    for name in layers:
        layer = network.get_submodule(name)
        try:
            network.set_submodule(name, convert(layer, device))
        except ImportError as error:
            library = "torchao" if kind == "int8" else "bitsandbytes"
            raise UserError(
                f'training.quantization: {kind} needs {library}; install it with `pip install "legible[gpu]"`'
            ) from error


def int8_linear(layer: nn.Linear, device: torch.device) -> nn.Linear:
    """The layer with torchao's int8 weights."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    # peft says that it could not merge adapters into such a layer; nobody asks for that.
    warnings.filterwarnings("ignore", message="TorchaoLoraLinear was instantiated without")
    moved = Int8Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    moved.weight, moved.bias = layer.weight, layer.bias
    moved.to(device)
    quantize_(moved, Int8WeightOnlyConfig(), lambda module, name: True)
    return moved.requires_grad_(False)


def nf4_linear(layer: nn.Linear, device: torch.device) -> nn.Linear:
    """The layer with bitsandbytes' nf4 weights; it computes in the type that the weights had.

    CPUs with AVX512-BF16 would pack its weights for inference at the first look in evaluation mode, and could not go
    backward afterwards (bitsandbytes: nn/modules.py, Linear4bit.forward): it is told that this is none of them.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    settings = {"quant_type": "nf4", "compress_statistics": True}
    moved = Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=layer.weight.dtype,
        device="meta",
        **settings,
    )
    moved.weight, moved.bias = Params4bit(layer.weight.data, requires_grad=False, module=moved, **settings), layer.bias
    moved.support_avx512bf16_for_cpu = False
    return moved.to(device)  # this quantises


class Int8Linear(nn.Linear):
    """A linear layer with torchao's int8 weights that keeps nothing but them for its backward pass."""

    def forward(self, values: Tensor) -> Tensor:
        kind = values.device.type
        if torch.is_autocast_enabled(kind):  # as autocast does to any other linear layer
            values = values.to(torch.get_autocast_dtype(kind))
        output = FrozenLinear.apply(values, self.weight)
        return output if self.bias is None else output + self.bias.to(output.dtype)


class FrozenLinear(torch.autograd.Function):
    """values [..., in] · weightᵀ for a frozen quantised weight [out, in].

    torchao's own product is recorded operation by operation, and its backward pass keeps a copy of every weight in the
    activations' type (torchao: quantization/quantize_/workflows/int8/int8_tensor.py): more than the unquantised base.
    """

    @staticmethod
    def forward(ctx, values: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return F.linear(values, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.weight.dequantize(gradient.dtype), None
