"""Pictures cut as in training: to the bit as Pillow does it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_pixels(image: Any) -> Tensor:
  """uint8 (H, W, 3) of such a tensor, or of a picture of Pillow."""
  if hasattr(image, 'convert'):
    image = image.convert('RGB')
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3)
  image = torch.as_tensor(image)
  if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f'image of {image.dtype}{list(image.shape)}: give uint8 (H, W, 3).')
  return image


def resize(
  x_HWC: Tensor, height: int, width: int, kernel: str, box: Sequence[float] | None = None
) -> Tensor:
  """uint8 (H, W, C) -> uint8 (height, width, C).

  Args:
    x_HWC: pixels.
    height, width: of the result.
    kernel: 'box', or 'triangle', which is bilinear where it enlarges.
    box: (left, top, right, bottom) of what is taken; all by default.
  """
  rows, columns = x_HWC.shape[:2]
  left, top, right, bottom = box or (0, 0, columns, rows)
  x = torch.einsum('ow,hwc->hoc', _weights(columns, left, right, width, kernel), x_HWC.double())
  x = (x + 0.5).floor()  # Pillow keeps bytes between the two directions.
  x = torch.einsum('oh,hwc->owc', _weights(rows, top, bottom, height, kernel), x)
  return (x + 0.5).floor().clamp(0, 255).byte()


def _weights(inputs: int, start: float, stop: float, outputs: int, kernel: str) -> Tensor:
  """float64 (outputs, inputs): how each pixel of the result averages pixels, in Pillow's steps of
  2^-22."""
  scale = (stop - start) / outputs
  filter_scale = max(scale, 1.0)
  support = filter_scale * (0.5 if kernel == 'box' else 1.0)
  centers = start + (torch.arange(outputs).double()[:, None] + 0.5) * scale
  pixels = torch.arange(inputs).double()[None]
  distance = (pixels - centers + 0.5) * (1 / filter_scale)
  if kernel == 'box':
    weights = ((distance > -0.5) & (distance <= 0.5)).double()
  else:
    weights = (1 - distance.abs()).clamp(min=0)
  first, last = (centers - support + 0.5).floor(), (centers + support + 0.5).floor()
  weights = weights * ((pixels >= first) & (pixels < last))
  return (weights / weights.sum(1, keepdim=True) * 2**22 + 0.5).floor() / 2**22


def cover(image_HWC: Tensor, height: int, width: int) -> Tensor:
  """Scales a picture to cover a size."""
  rows, columns = image_HWC.shape[:2]
  scale = min(columns / width, rows / height)
  return resize(
    image_HWC, max(height, int(rows // scale)), max(width, int(columns // scale)), 'box'
  )


def center_crop(image_HWC: Tensor, height: int, width: int) -> Tensor:
  """The centre of a picture."""
  top, left = (image_HWC.shape[0] - height) // 2, (image_HWC.shape[1] - width) // 2
  return image_HWC[top : top + height, left : left + width]


def central_square(image_HWC: Tensor, size: int, covering_HWC: Tensor) -> Tensor:
  """The central square of a picture, scaled for CLIP: of the copy that covers the video, if that is
  1.4 times as large, as in training."""
  if min(covering_HWC.shape[:2]) >= 1.4 * size:
    image_HWC = covering_HWC
  rows, columns = image_HWC.shape[:2]
  side = min(rows, columns)
  left, top = (columns - side) / 2, (rows - side) / 2
  return resize(image_HWC, size, size, 'triangle', (left, top, left + side, top + side))
