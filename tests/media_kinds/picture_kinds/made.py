"""Pictures of all kinds that people have, and what each shows: made here, with values that follow
from the kind's specification or come from another decoder.
"""

import functools
import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageCms

HEIGHT, WIDTH = 32, 48
CORNERS = np.array([[(200, 40, 40), (40, 170, 60)], [(40, 60, 200), (130, 130, 130)]])
WHITE = 255


class Picture(NamedTuple):
  """A file's bytes, and its right pixels (H, W, 3) or the reason why it is refused.

  `within` is how far pixels may be off: what the file's own codec or its 8 bits lose.
  """

  data: bytes
  right: np.ndarray | str
  within: float = 0


KINDS: dict[str, Callable[[], Picture]] = {}


def kind(function):
  """Adds a maker under its name, in words."""
  KINDS[function.__name__.strip('_')] = functools.cache(function)
  return function


def pattern(height=HEIGHT, width=WIDTH):
  """Four quadrants: red, green, blue, grey."""
  return CORNERS.repeat(height // 2, 0).repeat(width // 2, 1).astype(np.uint8)


def image(pixels=None, mode='RGB'):
  """Of Pillow."""
  return PIL.Image.fromarray(pattern() if pixels is None else pixels).convert(mode)


def saved(picture, form, **options):
  """Encoded by Pillow."""
  buffer = io.BytesIO()
  picture.save(buffer, form, **options)
  return buffer.getvalue()


def jpeg(pixels=None, **options):
  """With chroma at full width."""
  if 'exif' in options:
    options['exif'] = b'Exif\0\0' + options['exif']
  return saved(image(pixels), 'JPEG', quality=97, subsampling=0, **options)


def over_white(pixels_HWC, alpha_HW):
  """By the formula."""
  share = np.asarray(alpha_HW)[..., None] / 255
  return share * pixels_HWC + (1 - share) * WHITE


def grey(pixels_HW):
  """Three equal channels."""
  return np.repeat(np.asarray(pixels_HW)[..., None], 3, axis=-1)


def right_half():
  """Alpha: the left half is opaque."""
  alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
  alpha[:, WIDTH // 2 :] = 0
  return alpha


def hidden(colour=(255, 0, 255), alpha=None):
  """RGBA whose transparent half hides a colour."""
  alpha = right_half() if alpha is None else alpha
  pixels = np.where((alpha == 0)[..., None], np.array(colour, np.uint8), pattern())
  return np.dstack([pixels, alpha]), over_white(pixels, alpha)


def palette():
  """(indices, PLTE) of the pattern, with an unused entry before."""
  colours = np.concatenate([[(1, 2, 3)], CORNERS.reshape(4, 3)]).astype(np.uint8)
  indices = np.arange(1, 5).reshape(2, 2).repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1)
  return indices[..., None], (b'PLTE', colours.tobytes())
