"""Text regions: crops that keep their aspect ratio and pass gradients to the pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow and OpenCV convert


def to_grey(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] as grey [B, 1, H, W], in the same value range."""
    return (images * images.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def grown_boxes(boxes: Tensor, margin: float, aspect: float) -> Tensor:
    """Boxes [R, 4] (x0, y0, x1, y1 in pixels) widened by `margin` and then, about their centre, to `aspect` = w / h.

    Growing the box to the reader's aspect ratio keeps letters undistorted, where plain resizing would stretch them.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    size = boxes[:, 2:] - boxes[:, :2] + 2 * margin
    width = torch.maximum(size[:, 0], size[:, 1] * aspect)
    half = torch.stack([width, width / aspect], dim=1) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def crop_regions(images: Tensor, owners: Tensor, boxes: Tensor, size: tuple[int, int], margin: float = 0.0) -> Tensor:
    """Differentiable crops [R, C, h, w] of text regions.

    Args:
        images: [B, C, H, W], any value range.
        owners: [R], the image that each region belongs to.
        boxes: [R, 4] as x0, y0, x1, y1 in pixels, half-open.
        size: (h, w) of the crops. Pixels beyond the image repeat its border.
        margin: pixels added on every side first.

    A crop that shrinks is low-pass filtered first, otherwise thin strokes would fall between the sampled points.
    """
    height, width = images.shape[-2:]
    grown = grown_boxes(boxes.to(images), margin, size[1] / size[0])
    # Output pixel centres in units of the crop (0 … 1), mapped into the box, then to grid_sample's −1 … 1.
    ys = (torch.arange(size[0], device=images.device, dtype=images.dtype) + 0.5) / size[0]
    xs = (torch.arange(size[1], device=images.device, dtype=images.dtype) + 0.5) / size[1]
    x = grown[:, 0, None] + (grown[:, 2] - grown[:, 0])[:, None] * xs
    y = grown[:, 1, None] + (grown[:, 3] - grown[:, 1])[:, None] * ys
    grid = torch.stack(
        [
            (2 * x / width - 1)[:, None, :].expand(-1, size[0], -1),
            (2 * y / height - 1)[:, :, None].expand(-1, -1, size[1]),
        ],
        dim=-1,
    )
    if not len(grown):
        return images.new_zeros(0, images.shape[1], *size)
    # Each region gets the filter of its own shrinkage: a crop must not depend on what else is in the batch.
    shrinkage = (grown[:, 3] - grown[:, 1]) / size[0]
    kernels = torch.where(shrinkage > 1.5, 2 * (shrinkage / 2).round() + 1, 1.0).long()
    crops, rows = [], []
    for kernel in sorted(set(kernels.tolist())):
        chosen = torch.nonzero(kernels == kernel).flatten()
        source = images
        if kernel > 1:
            source = F.avg_pool2d(F.pad(images, [kernel // 2] * 4, mode="replicate"), kernel, stride=1)
        sampled = F.grid_sample(
            source[owners[chosen]], grid[chosen], mode="bilinear", padding_mode="border", align_corners=False
        )
        crops.append(sampled)
        rows.append(chosen)
    return torch.cat(crops)[torch.cat(rows).argsort()]


def latent_windows(
    latents: Tensor,
    owners: Tensor,
    boxes: Tensor,
    factor: int,
    margin: float,
    context: int = 2,
    aspect: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Windows of latents around text regions, so that only what a loss looks at must be decoded.

    Args:
        latents: [B, C, h, w]; gradients pass to them.
        owners: [R], the image of each region.
        boxes: [R, 4] as x0, y0, x1, y1 in pixels, half-open.
        factor: pixels a latent cell, in both directions.
        margin: pixels added around a region.
        context: further cells on every side. A decoder looks beyond its cell, and so does the filter of
            `crop_regions`.
        aspect: width / height of the crops that will be taken; a region grows to it as in `crop_regions`, so that all
            of the crop lies in the window. None: the region and its margin only.

    Returns:
        Windows [R, C, h', w'] of one size, the largest that a region needs and at most the whole latent, moved inside
        the image where they would stick out; and the boxes [R, 4] in pixels of their window.
    """
    if not len(boxes):
        return latents[owners.to(latents.device)], boxes
    grown = torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1)
    if aspect is not None:
        grown = grown_boxes(boxes, margin, aspect)
    first = (grown[:, :2] / factor).floor().long() - context  # as x, y
    needed = (grown[:, 2:] / factor).ceil().long() + context - first
    whole = torch.tensor([latents.shape[-1], latents.shape[-2]], device=boxes.device)
    size = torch.minimum(needed.amax(0), whole)
    # A region that needs less than the largest one stays in the middle of its window.
    start = torch.minimum((first - (size - needed) // 2).clamp(min=0), whole - size)
    (wide, high), places = size.tolist(), start.tolist()
    windows = [
        latents[owner, :, y : y + high, x : x + wide] for owner, (x, y) in zip(owners.tolist(), places, strict=True)
    ]
    return torch.stack(windows), boxes - factor * start.repeat(1, 2).to(boxes)


def soft_limit(images: Tensor, knee: float = 0.9) -> Tensor:
    """Values limited smoothly to (−1, 1): unchanged within ± knee (0 … 1), bent towards ± 1 by u / (1 + u) beyond it.

    Unlike a clamp it leaves an overshooting pixel a gradient: at |x| = 1.2 and the usual knee 1/16. (A tanh would round
    to a slope of zero soon after.)
    """
    room = 1.0 - knee
    excess = (images.abs() - knee).clamp(min=0.0)
    # room · u / (1 + u) with u = excess / room, without dividing by a room of zero.
    bent = images.sign() * (knee + room * excess / (room + excess).clamp(min=torch.finfo(images.dtype).tiny))
    return torch.where(images.abs() <= knee, images, bent)
