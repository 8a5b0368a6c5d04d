"""Orientation: what a camera stores so that the tag shows the pattern upright."""

import functools
import io

import numpy as np
import PIL.Image

from tests.media_kinds import files
from tests.media_kinds.picture_kinds.made import KINDS, Picture, image, jpeg, kind, pattern, saved

STORED = {
  1: lambda a: a,
  2: np.fliplr,
  3: lambda a: np.rot90(a, 2),
  4: np.flipud,
  5: lambda a: a.swapaxes(0, 1),
  6: lambda a: np.rot90(a, 1),
  7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
  8: lambda a: np.rot90(a, -1),
}


def _oriented():
  for turn, store in STORED.items():
    stored = np.ascontiguousarray(store(pattern()))
    tag = files.exif(turn)
    makers = {
      f'jpeg_exif_{turn}': lambda s=stored, t=tag: Picture(jpeg(s, exif=t), pattern(), 3),
      f'png_exif_{turn}': lambda s=stored, t=tag: Picture(
        saved(image(s), 'PNG', exif=t), pattern()
      ),
      f'webp_exif_{turn}': lambda s=stored, t=tag: Picture(
        saved(image(s), 'WEBP', lossless=True, exif=t), pattern()
      ),
      f'tiff_orientation_{turn}': lambda s=stored, t=turn: Picture(
        files.tiff(s.tobytes(), s.shape[:2], photometric=2, bits=8, channels=3,
                   tags=[(274, 3, [t])]), pattern()),
      f'tiff_lzw_orientation_{turn}': lambda s=stored, t=turn: Picture(
        saved(image(s), 'TIFF', compression='tiff_lzw', tiffinfo={274: t}), pattern()),
      # Pillow writes the tag as the boxes irot and imir, which readers follow.
      f'avif_irot_{turn}': lambda s=stored, t=tag: Picture(
        saved(image(s), 'AVIF', quality=100, subsampling='4:4:4', speed=10, exif=t), pattern(), 3),
    }  # fmt: skip
    KINDS.update({name: functools.cache(make) for name, make in makers.items()})


_oriented()


@kind
def jpeg_exif_of_big_endian_cameras():
  return Picture(
    jpeg(np.ascontiguousarray(STORED[6](pattern())), exif=files.exif(6, '>')),
    pattern(),
    3,
  )


@kind
def jpeg_exif_orientation_0():
  return Picture(jpeg(exif=files.exif(0)), pattern(), 3)


@kind
def jpeg_exif_orientation_9():
  return Picture(jpeg(exif=files.exif(9)), pattern(), 3)


@kind
def jpeg_exif_broken():
  """Viewers show it as stored."""
  return Picture(jpeg(exif=b'II*\0\xff\xff\xff\xff'), pattern(), 3)


@kind
def jpeg_exif_of_another_byte_order_mark():
  return Picture(jpeg(exif=b'XX' + files.exif(6)[2:]), pattern(), 3)


@kind
def png_exif_behind_the_pixels():
  stored = np.ascontiguousarray(STORED[8](pattern()))
  return Picture(files.png(stored, after=[(b'eXIf', files.exif(8))]), pattern())


def raw_profile(block):
  """EXIF as ImageMagick writes it into a PNG: as text, in hexadecimal."""
  text = f'Raw profile type exif\0\nexif\n{len(block):8d}\n'.encode() + block.hex().encode()
  return b'tEXt', text


@kind
def png_exif_as_text():
  stored = np.ascontiguousarray(STORED[6](pattern()))
  chunk = raw_profile(b'Exif\0\0' + files.exif(6))
  return Picture(files.png(stored, before=[chunk]), pattern())


@kind
def png_exif_as_text_broken():
  name, text = raw_profile(files.exif(6))
  return Picture(files.png(pattern(), before=[(name, text + b'xyz')]), pattern())


@kind
def large_jpeg_on_its_side():
  stored = np.ascontiguousarray(STORED[6](pattern(240, 320)))
  return Picture(jpeg(stored, exif=files.exif(6)), pattern(240, 320), 3)


@kind
def large_jpeg():
  """With detail, of which decoding at half the size loses some."""
  waves = np.sin(np.arange(320) ** 2 / 300)[None] * np.cos(np.arange(240) ** 2 / 300)[:, None]
  data = jpeg(np.rint(127 + 100 * waves).astype(np.uint8))
  return Picture(data, np.asarray(PIL.Image.open(io.BytesIO(data))))
