"""What is refused, by name: other formats, damage, and more pixels than are decoded."""

import functools
import io
import struct

import numpy as np
import PIL.Image

from tests.media_kinds import files
from tests.media_kinds.picture_kinds.made import (
  HEIGHT,
  KINDS,
  WIDTH,
  Picture,
  image,
  jpeg,
  kind,
  pattern,
  saved,
)

REFUSED = {
  'empty': (b'', 'image'),
  'web_page': (b'<!DOCTYPE html><html>404</html>', 'image_format'),
  'svg': (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', 'image_format'),
  'eps': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n', 'image_format'),
  'pdf': (b'%PDF-1.7\n', 'image_format'),
  'photoshop': (b'8BPS\0\1' + bytes(40), 'image_format'),
  'portable_pixmap': (b'P6 2 2 255\n' + bytes(12), 'image_format'),
  'icon': (b'\0\0\1\0\1\0' + bytes(40), 'image_format'),
  'jpeg_xl': (b'\xff\x0a' + bytes(40), 'image_format'),
  'a_video': (b'\0\0\0\x18ftypisom\0\0\2\0isommp42' + bytes(40), 'image_format'),
  'jpeg_header_alone': (b'\xff\xd8\xff\xe0', 'image'),
  'png_header_alone': (b'\x89PNG\r\n\x1a\n', 'image'),
}
KINDS.update(
  {f'refused_{name}': functools.partial(Picture, *what) for name, what in REFUSED.items()}
)


@kind
def refused_jpeg_2000():
  return Picture(saved(image(), 'JPEG2000'), 'image_format')


@kind
def refused_raw_photograph():
  data = files.tiff(pattern().tobytes(), (HEIGHT, WIDTH), photometric=2, bits=8, channels=3,
                    tags=[(50706, 1, [1, 4, 0, 0])])  # fmt: skip
  return Picture(data, 'image_format')


def noise():
  """That does not compress: half of the file is half of the rows."""
  return image(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def _cut(form, **options):
  data = saved(noise(), form, **options)
  return Picture(data[: len(data) // 2], 'image')


for _form in ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'AVIF'):
  KINDS[f'cut_{_form.lower()}'] = functools.partial(_cut, _form)


def _jpeg_cut(number, mode='RGB', **options):
  """A JPEG without its last bytes: two are the mark of its end."""
  data = saved(noise().convert(mode), 'JPEG', quality=95, **options)
  picture = PIL.Image.open(io.BytesIO(data))
  return Picture(data[:-number], 'image' if number > 2 else np.asarray(picture.convert('RGB')))


for _name, _options in {
  '': {}, '_progressive': dict(progressive=True), '_cmyk': dict(mode='CMYK'),
  '_grey': dict(mode='L'), '_with_restarts': dict(restart_marker_rows=1),
}.items():  # fmt: skip
  KINDS |= {f'jpeg{_name}_without_{n}_bytes': functools.partial(_jpeg_cut, n, **_options)
            for n in (1, 2, 3)}  # fmt: skip


@kind
def jpeg_progressive_without_its_last_scan():
  """Its rows are all there, but coarse."""
  data = saved(noise(), 'JPEG', quality=95, progressive=True)
  return Picture(data[: data.rindex(b'\xff\xda')], 'image')


# More pixels than are decoded, by the header; what follows would be small.


def _bomb(data, at, size):
  data = bytearray(data)
  data[at : at + len(size)] = size
  return Picture(bytes(data), 'image_size')


@kind
def bomb_png():
  pixels = files.png(pattern())
  size = struct.pack('>II', 60_000, 60_000)
  header = files.png_chunk(b'IHDR', size + pixels[24:29])
  return Picture(pixels[:8] + header + pixels[33:], 'image_size')


@kind
def bomb_jpeg():
  data = jpeg()
  return _bomb(data, data.index(b'\xff\xc0') + 5, struct.pack('>HH', 65_000, 65_000))


@kind
def bomb_gif():
  return _bomb(saved(image(), 'GIF'), 6, struct.pack('<HH', 65_000, 65_000))


@kind
def bomb_bmp():
  return _bomb(saved(image(), 'BMP'), 18, struct.pack('<ii', 65_000, 65_000))


@kind
def bomb_webp():
  data = saved(image(), 'WEBP', save_all=True, append_images=[noise()], lossless=True)
  side = (12_000 - 1).to_bytes(3, 'little')  # Pillow would take it, with a warning.
  return _bomb(data, data.index(b'VP8X') + 12, side + side)


@kind
def bomb_avif():
  data = saved(image(), 'AVIF', speed=10)
  return _bomb(data, data.index(b'ispe') + 8, struct.pack('>II', 12_000, 12_000))


@kind
def bomb_tiff():
  return Picture(files.tiff(bytes(64), (60_000, 60_000), photometric=1, bits=8), 'image_size')
