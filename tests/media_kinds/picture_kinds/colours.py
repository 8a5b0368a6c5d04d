"""Colours that are not sRGB, or say twice what they are."""

import functools
import io
import struct

import numpy as np
import PIL.Image
import PIL.ImageCms

from tests.media_kinds import files
from tests.media_kinds.picture_kinds.made import (
  CORNERS,
  KINDS,
  Picture,
  grey,
  image,
  jpeg,
  kind,
  over_white,
  palette,
  pattern,
  right_half,
  saved,
)
from tests.media_kinds.picture_kinds.orientation import STORED


@kind
def jpeg_display_p3():
  stored = files.stored_in(pattern(), files.DISPLAY_P3)
  return Picture(jpeg(stored, icc_profile=files.rgb_profile(files.DISPLAY_P3)), pattern(), 4)


@kind
def large_jpeg_display_p3():
  right = pattern(240, 320)
  stored = files.stored_in(right, files.DISPLAY_P3)
  return Picture(jpeg(stored, icc_profile=files.rgb_profile(files.DISPLAY_P3)), right, 4)


@kind
def jpeg_adobe_rgb_on_its_side():
  stored = files.stored_in(pattern(), files.ADOBE_RGB, 563 / 256)
  profile = files.rgb_profile(files.ADOBE_RGB, 563 / 256)
  stored = np.ascontiguousarray(STORED[6](stored))
  return Picture(jpeg(stored, icc_profile=profile, exif=files.exif(6)), pattern(), 4)


@kind
def jpeg_srgb_profile_changes_no_bit():
  """The profile that most files carry."""
  profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile('sRGB')).tobytes()
  plain = np.asarray(PIL.Image.open(io.BytesIO(jpeg())))
  return Picture(jpeg(icc_profile=profile), plain)


@kind
def jpeg_srgb_profile_of_tables():
  """As the oldest of them, of 1998."""
  plain = np.asarray(PIL.Image.open(io.BytesIO(jpeg())))
  return Picture(jpeg(icc_profile=files.rgb_profile(files.SRGB)), plain)


@kind
def jpeg_profile_broken():
  plain = np.asarray(PIL.Image.open(io.BytesIO(jpeg())))
  return Picture(jpeg(icc_profile=files.rgb_profile(files.DISPLAY_P3)[:200]), plain)


@kind
def jpeg_profile_of_noise():
  plain = np.asarray(PIL.Image.open(io.BytesIO(jpeg())))
  return Picture(jpeg(icc_profile=b'not a profile' * 30), plain)


@kind
def jpeg_profile_for_another_kind_of_picture():
  """Grey with a profile of RGB: browsers pass over it."""
  levels = pattern()[..., 1]
  profile = files.rgb_profile(files.ADOBE_RGB, 1.8)
  data = saved(PIL.Image.fromarray(levels), 'JPEG', quality=97, icc_profile=profile)
  return Picture(data, grey(levels), 3)


@kind
def jpeg_grey_profile():
  levels = np.rint(255 * files.srgb_to_linear(pattern()[..., 1]) ** (1 / 1.8)).astype(np.uint8)
  profile = files.grey_profile(1.8)
  data = saved(PIL.Image.fromarray(levels), 'JPEG', quality=97, icc_profile=profile)
  return Picture(data, grey(pattern()[..., 1]), 4)


def _tagged(form, within=2, **options):
  stored = files.stored_in(pattern(), files.ADOBE_RGB, 2.2)
  profile = files.rgb_profile(files.ADOBE_RGB, 2.2)
  return Picture(saved(image(stored), form, icc_profile=profile, **options), pattern(), within)


KINDS['png_adobe_rgb'] = functools.partial(_tagged, 'PNG')
KINDS['tiff_adobe_rgb'] = functools.partial(_tagged, 'TIFF')
KINDS['webp_adobe_rgb'] = functools.partial(_tagged, 'WEBP', lossless=True)
KINDS['avif_adobe_rgb'] = functools.partial(
  _tagged, 'AVIF', 4, quality=100, subsampling='4:4:4', speed=10
)


@kind
def png_prophoto():
  stored = files.stored_in(pattern(), files.PROPHOTO, 1.8)
  profile = files.rgb_profile(files.PROPHOTO, 1.8)
  return Picture(saved(image(stored), 'PNG', icc_profile=profile), pattern(), 4)


@kind
def png_rgba_adobe_rgb():
  """The white beneath is sRGB's."""
  stored = files.stored_in(pattern(), files.ADOBE_RGB, 2.2)
  pixels = PIL.Image.fromarray(np.dstack([stored, right_half()]))
  profile = files.rgb_profile(files.ADOBE_RGB, 2.2)
  return Picture(
    saved(pixels, 'PNG', icc_profile=profile),
    over_white(pattern(), right_half()),
    2,
  )


@kind
def png_palette_adobe_rgb():
  indices, _ = palette()
  stored = files.stored_in(CORNERS.astype(np.uint8), files.ADOBE_RGB, 2.2)
  shown = PIL.Image.fromarray(indices[..., 0].astype(np.uint8))
  shown.putpalette([1, 2, 3, *stored.ravel().tolist()])
  profile = files.rgb_profile(files.ADOBE_RGB, 2.2)
  return Picture(saved(shown, 'PNG', icc_profile=profile), pattern(), 2)


@kind
def png_grey_with_alpha_and_profile():
  levels = np.rint(255 * files.srgb_to_linear(pattern()[..., 1]) ** (1 / 1.8)).astype(np.uint8)
  pixels = PIL.Image.fromarray(np.dstack([levels, right_half()]))
  right = over_white(grey(pattern()[..., 1]), right_half())
  return Picture(saved(pixels, 'PNG', icc_profile=files.grey_profile(1.8)), right, 2)


@kind
def png_gamma_1():
  stored = np.rint(255 * files.srgb_to_linear(pattern())).astype(np.uint8)
  return Picture(files.png(stored, before=[(b'gAMA', struct.pack('>I', 100_000))]), pattern(), 3)


@kind
def png_gamma_of_old_macs():
  stored = np.rint(255 * files.srgb_to_linear(pattern()) ** (1 / 1.8)).astype(np.uint8)
  return Picture(files.png(stored, before=[(b'gAMA', struct.pack('>I', 55_556))]), pattern(), 2)


@kind
def png_gamma_that_stands_in_for_srgb():
  return Picture(files.png(pattern(), before=[(b'gAMA', struct.pack('>I', 45_455))]), pattern())


@kind
def png_gamma_of_zero():
  return Picture(files.png(pattern(), before=[(b'gAMA', bytes(4))]), pattern())


@kind
def png_primaries():
  stored = files.stored_in(pattern(), files.DISPLAY_P3)
  gamma = (b'gAMA', struct.pack('>I', 45_455))
  chunks = [gamma, (b'cHRM', files.chromaticities(files.DISPLAY_P3))]
  return Picture(files.png(stored, before=chunks), pattern(), 2)


@kind
def png_primaries_of_srgb():
  return Picture(
    files.png(pattern(), before=[(b'cHRM', files.chromaticities(files.SRGB))]), pattern()
  )


@kind
def png_primaries_that_are_impossible():
  return Picture(files.png(pattern(), before=[(b'cHRM', bytes(32))]), pattern())


@kind
def png_that_says_srgb_and_gamma_1():
  """The first goes before the second."""
  chunks = [(b'sRGB', b'\0'), (b'gAMA', struct.pack('>I', 100_000))]
  return Picture(files.png(pattern(), before=chunks), pattern())


@kind
def png_coded_display_p3():
  stored = files.stored_in(pattern(), files.DISPLAY_P3)
  return Picture(files.png(stored, before=[(b'cICP', bytes([12, 13, 0, 1]))]), pattern(), 2)


@kind
def png_coded_srgb_goes_before_a_profile():
  data = saved(image(), 'PNG', icc_profile=files.rgb_profile(files.ADOBE_RGB, 2.2))
  return Picture(data[:33] + files.png_chunk(b'cICP', bytes([1, 13, 0, 1])) + data[33:], pattern())


@kind
def png_hdr_pq():
  return Picture(files.png(pattern(), before=[(b'cICP', bytes([9, 16, 0, 1]))]), 'hdr')


def avif_coded(primaries, transfer, pixels=None):
  """With the codes of H.273 in its container."""
  data = bytearray(saved(image(pixels), 'AVIF', quality=100, subsampling='4:4:4', speed=10))
  start = data.index(b'colrnclx') + 8
  data[start : start + 4] = struct.pack('>HH', primaries, transfer)
  return bytes(data)


@kind
def avif_coded_display_p3():
  return Picture(avif_coded(12, 13, files.stored_in(pattern(), files.DISPLAY_P3)), pattern(), 4)


@kind
def avif_coded_bt2020():
  return Picture(avif_coded(9, 13, files.stored_in(pattern(), files.BT2020)), pattern(), 6)


@kind
def avif_coded_bt709():
  return Picture(avif_coded(1, 1), pattern(), 3)


@kind
def avif_hdr_pq():
  return Picture(avif_coded(9, 16), 'hdr')


@kind
def avif_hdr_hlg():
  return Picture(avif_coded(9, 18), 'hdr')
