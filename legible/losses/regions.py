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
