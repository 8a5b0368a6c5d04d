"""More than 8 bits a sample, and fewer."""

import functools

import numpy as np
import PIL.Image

from tests.media_kinds import files
from tests.media_kinds.picture_kinds.made import (
  CORNERS,
  HEIGHT,
  KINDS,
  WIDTH,
  Picture,
  grey,
  image,
  kind,
  palette,
  pattern,
  saved,
)


def ramp(most):
  """Every level between 0 and the most that fits, in order: (H, W, 1)."""
  return np.rint(np.linspace(0, most, HEIGHT * WIDTH)).astype(int).reshape(HEIGHT, WIDTH, 1)


def _grey_of(depth):
  samples = ramp(2**depth - 1)
  right = grey(samples[..., 0] * 255 / (2**depth - 1))
  return Picture(files.png(samples, depth, 0), right, 0.51)


def _tiff_grey(bits, order, photometric, kind='u'):
  samples = ramp(2**bits - 1)[..., 0]
  pixels = samples.astype(f'{order}{kind}{bits // 8}').tobytes()
  data = files.tiff(pixels, (HEIGHT, WIDTH), photometric=photometric, bits=bits, order=order)
  levels = samples * 255 / (2**bits - 1)
  return Picture(data, grey(levels if photometric else 255 - levels), 0.51 if bits < 32 else 1)


KINDS.update({f'png_grey_{d}_bits': functools.partial(_grey_of, d) for d in (1, 2, 4, 8, 16)})
KINDS.update(
  {
    'tiff_grey_16_bits_little_endian': functools.partial(_tiff_grey, 16, '<', 1),
    'tiff_grey_16_bits_big_endian': functools.partial(_tiff_grey, 16, '>', 1),
    'tiff_grey_16_bits_white_is_zero': functools.partial(_tiff_grey, 16, '<', 0),
    'tiff_grey_8_bits_white_is_zero': functools.partial(_tiff_grey, 8, '<', 0),
    'tiff_grey_32_bits': functools.partial(_tiff_grey, 32, '<', 1),
  }
)


@kind
def tiff_grey_12_bits():
  samples = ramp(4095)[..., 0].ravel()
  bits = (samples[:, None] >> np.arange(12)[::-1]) & 1
  data = files.tiff(np.packbits(bits.astype(np.uint8).ravel()).tobytes(), (HEIGHT, WIDTH),
                    photometric=1, bits=12)  # fmt: skip
  return Picture(data, grey(samples.reshape(HEIGHT, WIDTH) * 255 / 4095), 0.51)


@kind
def png_rgb_16_bits():
  return Picture(files.png(pattern().astype(int) * 257, 16), pattern(), 1)


def _tiff_rgb_16(order):
  pixels = (pattern().astype(int) * 257).astype(order + 'u2').tobytes()
  data = files.tiff(pixels, (HEIGHT, WIDTH), photometric=2, bits=16, channels=3, order=order)
  return Picture(data, pattern(), 1)


KINDS['tiff_rgb_16_bits_little_endian'] = functools.partial(_tiff_rgb_16, '<')
KINDS['tiff_rgb_16_bits_big_endian'] = functools.partial(_tiff_rgb_16, '>')


@kind
def tiff_rgb_16_bits_in_planes():
  """First all of the red, then the green and the blue."""
  planes = (pattern().astype(int) * 257).transpose(2, 0, 1).astype('<u2')
  size = planes[0].nbytes
  # Offsets and lengths of three strips.
  tags = [(273, 4, [8, 8 + size, 8 + 2 * size]), (279, 4, [size] * 3), (284, 3, [2])]
  data = files.tiff(planes.tobytes(), (HEIGHT, WIDTH), photometric=2, bits=16, channels=3,
                    tags=tags)  # fmt: skip
  return Picture(data, pattern())


@kind
def tiff_ycbcr():
  stored = np.asarray(image().convert('YCbCr'))
  data = files.tiff(stored.tobytes(), stored.shape[:2], photometric=6, bits=8, channels=3,
                    tags=[(530, 3, [1, 1])])  # fmt: skip
  return Picture(data, pattern(), 3)


@kind
def tiff_fax():
  """CCITT G4, where ink is 1."""
  ink = np.zeros((HEIGHT, WIDTH), bool)
  ink[8:24, 12:36] = True
  data = saved(PIL.Image.fromarray(~ink), 'TIFF', compression='group4')
  return Picture(data, grey(np.where(ink, 0, 255)))


@kind
def tiff_float():
  pixels = np.linspace(0, 1, HEIGHT * WIDTH, dtype='<f4').tobytes()
  data = files.tiff(pixels, (HEIGHT, WIDTH), photometric=1, bits=32, tags=[(339, 3, [3])])
  return Picture(data, 'image_depth')


@kind
def tiff_signed():
  pixels = np.arange(HEIGHT * WIDTH, dtype='<i2').tobytes()
  data = files.tiff(pixels, (HEIGHT, WIDTH), photometric=1, bits=16, tags=[(339, 3, [2])])
  return Picture(data, 'image_depth')


@kind
def jpeg_grey():
  levels = pattern()[..., 1]
  data = saved(PIL.Image.fromarray(levels), 'JPEG', quality=97)
  return Picture(data, grey(levels), 3)


# Layouts of TIFF that are not read.


def _tiff_of(channels, photometric, kind='u1', tags=()):
  pixels = np.tile(np.arange(WIDTH * channels), HEIGHT).astype(f'<{kind}').tobytes()
  bits = 8 * int(kind[1])
  return files.tiff(pixels, (HEIGHT, WIDTH), photometric=photometric, bits=bits, channels=channels,
                    tags=tags)  # fmt: skip


_ALPHA, _SIGNED, _FLOAT = (338, 3, [2]), 2, 3
UNREAD = {
  'tiff_grey_with_alpha_16_bits': (2, 1, 'u2', [_ALPHA]),
  'tiff_white_is_zero_with_alpha': (2, 0, 'u1', [_ALPHA]),
  'tiff_cmyk_with_alpha': (5, 5, 'u1', [_ALPHA]),
  'tiff_rgb_32_bits': (3, 2, 'u4'),
  'tiff_lab_16_bits': (3, 8, 'u2'),
  'tiff_lab_with_alpha': (4, 8, 'u1', [_ALPHA]),
  'tiff_lab_of_icc': (3, 9),
}
WITHOUT_WHITE = {
  f'tiff_{name}_{kind}': (channels, photometric, kind, [(339, 3, [form] * channels)])
  for name, channels, photometric in (('grey', 1, 1), ('rgb', 3, 2))
  for kind, form in (('i1', _SIGNED), ('i2', _SIGNED), ('f2', _FLOAT), ('f4', _FLOAT))
}
for _kinds, _reason in ((UNREAD, 'image_format'), (WITHOUT_WHITE, 'image_depth')):
  KINDS |= {
    name: functools.partial(lambda what, reason: Picture(_tiff_of(*what), reason), what, _reason)
    for name, what in _kinds.items()
  }


@kind
def tiff_grey_with_alpha_in_planes():
  size = HEIGHT * WIDTH
  tags = [(273, 4, [8, 8 + size]), (279, 4, [size] * 2), (284, 3, [2]), _ALPHA]
  return Picture(_tiff_of(2, 1, tags=tags), 'image_format')


@kind
def tiff_palette_of_8_bits():
  """As old writers have it: a palette has 16."""
  indices, _ = palette()
  colours = np.zeros((256, 3), int)
  colours[1:5] = CORNERS.reshape(4, 3)
  data = files.tiff(indices.astype(np.uint8).tobytes(), (HEIGHT, WIDTH), photometric=3, bits=8,
                    tags=[(320, 3, colours.T.ravel().tolist())])  # fmt: skip
  return Picture(data, pattern())
