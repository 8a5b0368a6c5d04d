"""Sizes and crops, as I2VGen-XL makes them: scale to cover the target, then cut its centre.

VGen's CenterCropWide rounds the scaled size down, in floating point, and may so end one pixel short
of the target and pad it black. Here the scaled size is never below the target; otherwise the pixels
are equal.
"""

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image

# A picture of one pixel's height would be enlarged to gigabytes before its centre is cut.
MAX_SCALED_PIXELS = 1 << 27


def scaled_size(source_height: int, source_width: int, height: int, width: int) -> tuple[int, int]:
  """(height, width) to which a source is scaled before its centre is cut; all in pixels.

  Args:
    source_height: of the source.
    source_width: of the source.
    height: of the cut.
    width: of the cut.
  """
  scale = min(source_width / width, source_height / height)
  return max(height, int(source_height // scale)), max(width, int(source_width // scale))


def cover_content(
  size: tuple[int, int], content: Sequence[float], height: int, width: int
) -> tuple[tuple[int, int], tuple[int, int]]:
  """((height, width) to which a frame is scaled so that its content covers a cut, (top, left) of
  the cut in it): the content's centre, with nothing of the borders where rounding allows.

  Args:
    size: (height, width) of the frame, pixels.
    content: (top, left, height, width) as shares of the frame.
    height: of the cut, pixels.
    width: likewise.
  """
  shares = (content[2], content[3])
  scale = max(
    cut / (side * share) for cut, side, share in zip((height, width), size, shares, strict=True)
  )
  scaled, first = [], []
  for cut, side, start, share in zip((height, width), size, content[:2], shares, strict=True):
    length = max(cut, math.ceil(side * scale - 1e-6))
    spare = length * share - cut
    scaled.append(length)
    first.append(min(max(0, round(length * start + spare / 2)), length - cut))
  return (scaled[0], scaled[1]), (first[0], first[1])


def square_cover(source_height: int, source_width: int, size: int) -> tuple[int, int]:
  """(height, width) that cover a square and stand out by whole pixels on either side.

  Args:
    source_height: of the source, pixels.
    source_width: of the source, pixels.
    size: side of the square, pixels.
  """
  scale = size / min(source_height, source_width)
  height, width = (
    size + 2 * round((side * scale - size) / 2) for side in (source_height, source_width)
  )
  return height, width


def center_crop(pixels_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
  """The centre of an image, a view.

  Args:
    pixels_HWC: of any type; at least as large as what is cut.
    height: of the cut, pixels.
    width: of the cut, pixels.
  """
  top = (pixels_HWC.shape[0] - height) // 2
  left = (pixels_HWC.shape[1] - width) // 2
  return pixels_HWC[top : top + height, left : left + width]


def cover(image: PIL.Image.Image, height: int, width: int) -> PIL.Image.Image:
  """Box-scales an image to cover a size.

  Args:
    image: RGB.
    height: that is covered, pixels.
    width: that is covered, pixels.
  """
  scaled_height, scaled_width = scaled_size(image.height, image.width, height, width)
  if scaled_height * scaled_width > MAX_SCALED_PIXELS:
    image = _middle(image, height, width)
    scaled_height, scaled_width = scaled_size(image.height, image.width, height, width)
  return image.resize((scaled_width, scaled_height), PIL.Image.Resampling.BOX)


def _middle(image: PIL.Image.Image, height: int, width: int) -> PIL.Image.Image:
  """The part of a picture, with a few pixels more, that a cut of its scaled centre shows."""
  scale = min(image.width / width, image.height / height)
  sides = (image.width, width), (image.height, height)
  halves = [min(source // 2, math.ceil(side * scale / 2) + 2) for source, side in sides]
  x, y = image.width // 2, image.height // 2
  right, bottom = (
    max(1, half + source % 2) for half, (source, _) in zip(halves, sides, strict=True)
  )
  return image.crop((x - halves[0], y - halves[1], x + right, y + bottom))


def center_crop_resize(image: PIL.Image.Image, height: int, width: int) -> PIL.Image.Image:
  """Box-scales an image to cover a size and cuts the centre (VGen CenterCropWide).

  Args:
    image: RGB.
    height: of the result, pixels.
    width: of the result, pixels.
  """
  image = cover(image, height, width)
  left = (image.width - width) // 2
  top = (image.height - height) // 2
  return image.crop((left, top, left + width, top + height))


def central_square(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
  """The central square of an RGB image, scaled to size x size by a triangle filter.

  What the CLIP tower gets in training and sampling. It is 1 to 2 of 255 from clip_square on average
  (tests/data_pipelines/media/test_decode.py), and costs a third.
  """
  side = min(image.size)
  left, top = (image.width - side) / 2, (image.height - side) / 2
  box = (left, top, left + side, top + side)
  return image.resize((size, size), PIL.Image.Resampling.BILINEAR, box=box)


def clip_square(image: PIL.Image.Image, width: int, size: int) -> PIL.Image.Image:
  """VGen's image for the CLIP tower: a square of the video's width, scaled bilinearly. What ours,
  central_square, is measured by.

  Args:
    image: RGB.
    width: of the video, pixels.
    size: side of the result, pixels.
  """
  square = center_crop_resize(image, width, width)
  return square.resize((size, size), PIL.Image.Resampling.BILINEAR)
