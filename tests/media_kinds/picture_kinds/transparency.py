"""Transparency: over white."""

import functools
import io
import struct

import numpy as np
import PIL.Image

from tests.media_kinds import files
from tests.media_kinds.picture_kinds.made import (
  CORNERS,
  HEIGHT,
  KINDS,
  WHITE,
  WIDTH,
  Picture,
  grey,
  hidden,
  image,
  kind,
  over_white,
  palette,
  pattern,
  right_half,
  saved,
)


@kind
def png_rgba_that_hides_magenta():
  pixels, right = hidden()
  return Picture(saved(PIL.Image.fromarray(pixels), 'PNG'), right)


@kind
def png_rgba_black_logo():
  alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
  alpha[8:24, 12:36] = 255
  pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
  return Picture(files.png(np.dstack([pixels, alpha]), kind=6), over_white(pixels, alpha))


@kind
def png_rgba_soft():
  alpha = np.linspace(0, 255, WIDTH).round().astype(np.uint8)[None].repeat(HEIGHT, 0)
  pixels = np.dstack([pattern(), alpha])
  return Picture(files.png(pixels, kind=6), over_white(pattern(), alpha), 1)


@kind
def png_rgba_opaque():
  return Picture(saved(image(mode='RGBA'), 'PNG'), pattern())


@kind
def png_rgba_16_bits():
  pixels, right = hidden()
  return Picture(files.png(pixels.astype(int) * 257, 16, 6), right, 1)


@kind
def png_grey_with_alpha():
  levels, alpha = pattern()[..., 0], right_half()
  return Picture(files.png(np.dstack([levels, alpha]), kind=4), over_white(grey(levels), alpha))


@kind
def png_grey_with_alpha_16_bits():
  levels, alpha = pattern()[..., 0].astype(int) * 257, right_half().astype(int) * 257
  right = over_white(grey(pattern()[..., 0]), right_half())
  return Picture(files.png(np.dstack([levels, alpha]), 16, 4), right, 1)


@kind
def png_palette():
  indices, colours = palette()
  return Picture(files.png(indices, 8, 3, [colours]), pattern())


@kind
def png_palette_of_4_bits():
  indices, colours = palette()
  return Picture(files.png(indices, 4, 3, [colours]), pattern())


@kind
def png_palette_with_one_transparent_colour():
  indices, colours = palette()
  right = np.where(indices == 2, WHITE, pattern())
  return Picture(files.png(indices, 8, 3, [colours, (b'tRNS', b'\xff\xff\0')]), right)


@kind
def png_palette_with_soft_colours():
  indices, colours = palette()
  alphas = np.array([255, 0, 128, 255, 64], np.uint8)
  right = over_white(pattern(), alphas[indices[..., 0]])
  return Picture(files.png(indices, 4, 3, [colours, (b'tRNS', alphas.tobytes())]), right, 1)


@kind
def png_rgb_with_a_transparent_colour():
  right = pattern().astype(int)
  right[: HEIGHT // 2, : WIDTH // 2] = WHITE
  key = struct.pack('>3H', *CORNERS[0, 0])
  return Picture(files.png(pattern(), before=[(b'tRNS', key)]), right)


@kind
def png_rgb_16_bits_with_a_transparent_colour():
  right = pattern().astype(int)
  right[: HEIGHT // 2, : WIDTH // 2] = WHITE
  key = struct.pack('>3H', *(256 * CORNERS[0, 0] + 17))
  return Picture(files.png(pattern().astype(int) * 256 + 17, 16, 2, [(b'tRNS', key)]), right, 1)


def _grey_with_key(depth):
  """Two levels, one of which is transparent."""
  most = 2**depth - 1
  key, other = (most // 2, most) if depth > 1 else (0, 1)
  samples = np.full((HEIGHT, WIDTH, 1), other)
  samples[:, : WIDTH // 2] = key
  samples[: HEIGHT // 2, WIDTH // 2 :] = most // 3
  levels = np.rint(samples[..., 0] * 255 / most)
  right = grey(np.where(samples[..., 0] == key, WHITE, levels))
  return Picture(files.png(samples, depth, 0, [(b'tRNS', struct.pack('>H', key))]), right)


KINDS.update(
  {
    f'png_grey_{depth}_bits_with_a_transparent_level': functools.partial(_grey_with_key, depth)
    for depth in (1, 2, 4, 8, 16)
  }
)


@kind
def webp_rgba_that_hides_magenta():
  pixels, right = hidden()
  return Picture(saved(PIL.Image.fromarray(pixels), 'WEBP', lossless=True, exact=True), right)


@kind
def avif_rgba():
  pixels, right = hidden(colour=CORNERS[0, 0])
  options = dict(quality=100, subsampling='4:4:4', speed=10)
  return Picture(saved(PIL.Image.fromarray(pixels), 'AVIF', **options), right, 3)


@kind
def gif_with_a_transparent_colour():
  indices, _ = palette()
  shown = PIL.Image.fromarray(indices[..., 0].astype(np.uint8))
  shown.putpalette([1, 2, 3, *CORNERS.ravel().tolist()])
  right = np.where(indices == 3, WHITE, pattern())
  return Picture(saved(shown, 'GIF', transparency=3, optimize=False), right)


@kind
def gif_whose_frame_is_smaller_than_its_screen():
  data = bytearray(saved(image(mode='P'), 'GIF'))
  data[6:10] = struct.pack('<HH', WIDTH + 16, HEIGHT + 8)
  right = np.full((HEIGHT + 8, WIDTH + 16, 3), WHITE)
  right[:HEIGHT, :WIDTH] = np.asarray(
    PIL.Image.open(io.BytesIO(saved(image(mode='P'), 'GIF'))).convert('RGB')
  )
  return Picture(bytes(data), right)


@kind
def tiff_rgba():
  pixels, right = hidden()
  data = files.tiff(pixels.tobytes(), (HEIGHT, WIDTH), photometric=2, bits=8, channels=4,
                    tags=[(338, 3, [2])])  # fmt: skip
  return Picture(data, right)


@kind
def tiff_rgba_premultiplied():
  alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
  alpha[:, WIDTH // 2 :] = 128
  stored = np.rint(pattern() * (alpha[..., None] / 255)).astype(np.uint8)
  data = files.tiff(np.dstack([stored, alpha]).tobytes(), (HEIGHT, WIDTH), photometric=2, bits=8,
                    channels=4, tags=[(338, 3, [1])])  # fmt: skip
  return Picture(data, over_white(pattern(), alpha), 2)


@kind
def tiff_grey_with_alpha():
  levels, alpha = pattern()[..., 0], right_half()
  data = files.tiff(np.dstack([levels, alpha]).tobytes(), (HEIGHT, WIDTH), photometric=1, bits=8,
                    channels=2, tags=[(338, 3, [2])])  # fmt: skip
  return Picture(data, over_white(grey(levels), alpha))


def _bmp(alpha, size=108):
  """Of the header's fourth version, of 108 bytes, or the fifth, of 124."""
  pixels, right = hidden(alpha=alpha)
  stored = np.flipud(pixels[..., [2, 1, 0, 3]]).tobytes()
  head = struct.pack('<IiiHHIIiiII', size, WIDTH, HEIGHT, 1, 32, 3, len(stored), 2835, 2835, 0, 0)
  masks = struct.pack('<4I', 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
  head = (head + masks + b'sRGB'[::-1]).ljust(size, b'\0')
  start = struct.pack('<2sIHHI', b'BM', 14 + size + len(stored), 0, 0, 14 + size)
  return start + head + stored, right


@kind
def bmp_rgba():
  return Picture(*_bmp(right_half()))


def _bmp_without_alpha(size):
  """It is 0 all over: the writer did not mean it."""
  data, _ = _bmp(np.zeros((HEIGHT, WIDTH), np.uint8), size)
  return Picture(data, np.full((HEIGHT, WIDTH, 3), (255, 0, 255)))


KINDS['bmp_whose_alpha_is_0'] = functools.partial(_bmp_without_alpha, 108)
KINDS['bmp_of_the_fifth_version_whose_alpha_is_0'] = functools.partial(_bmp_without_alpha, 124)
