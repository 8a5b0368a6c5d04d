"""Animations and albums, of which the first counts; and ordinary files of each format."""

import functools
import struct
import zlib

import numpy as np

from tests.media_kinds import files
from tests.media_kinds.picture_kinds.made import KINDS, Picture, image, jpeg, kind, pattern, saved


def _album(form, within=0, **options):
  other = image(255 - pattern())
  return Picture(
    saved(image(), form, save_all=True, append_images=[other, image()], **options),
    pattern(),
    within,
  )


KINDS['webp_animated'] = functools.partial(_album, 'WEBP', duration=100, lossless=True)
KINDS['gif_animated'] = functools.partial(_album, 'GIF', duration=100)
KINDS['png_animated'] = functools.partial(_album, 'PNG', duration=100)
KINDS['jpeg_of_many_pictures'] = functools.partial(_album, 'MPO', 3, quality=97, subsampling=0)
KINDS['tiff_of_many_pages'] = functools.partial(_album, 'TIFF')
KINDS['avif_animated'] = functools.partial(
  _album, 'AVIF', 3, quality=100, subsampling='4:4:4', speed=10
)


@kind
def png_animated_with_a_picture_for_other_viewers():
  """It is no part of the animation: browsers do not show it."""
  notice = image(np.zeros_like(pattern()))
  frames = [image(), image(255 - pattern())]
  data = saved(notice, 'PNG', save_all=True, append_images=frames, default_image=True, duration=100)
  return Picture(data, pattern())


@kind
def png_animated_whose_first_frame_is_smaller():
  """Around it there is nothing: what other viewers are shown is not beneath."""
  shown = np.full_like(pattern(), 255)
  part = shown[8:24, 16:40] = pattern()[8:24, 16:40]
  rows = b''.join(b'\0' + row.tobytes() for row in part)
  place = struct.pack('>IIIIIHHBB', 0, 24, 16, 16, 8, 1, 10, 0, 0)
  frame = struct.pack('>I', 1) + zlib.compress(rows)
  data = files.png(pattern(), before=[(b'acTL', struct.pack('>II', 1, 0))],
                   after=[(b'fcTL', place), (b'fdAT', frame)])  # fmt: skip
  return Picture(data, shown)


@kind
def jpeg_with_bytes_behind():
  return Picture(jpeg() + b'more' * 100, pattern(), 3)


@kind
def jpeg_progressive():
  return Picture(jpeg(progressive=True), pattern(), 3)


@kind
def bmp():
  return Picture(saved(image(), 'BMP'), pattern())


@kind
def gif():
  return Picture(saved(image(), 'GIF'), pattern())


@kind
def tiff_big():
  return Picture(saved(image(), 'TIFF', big_tiff=True), pattern())


@kind
def tiff_jpeg():
  return Picture(saved(image(), 'TIFF', compression='jpeg', quality=95), pattern(), 6)
