"""CMYK, and Lab."""

import io

import numpy as np
import PIL.Image
import PIL.ImageCms

from tests.media_kinds import files
from tests.media_kinds.picture_kinds.made import HEIGHT, WIDTH, Picture, kind, pattern, saved


def inks():
  """CMYK, uint8, with some of each."""
  values = np.array(
    [[(10, 200, 180, 20), (200, 20, 220, 0)], [(220, 180, 10, 40), (60, 50, 50, 90)]]
  )
  return values.repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1).astype(np.uint8)


def plain_inks():
  """RGB of `inks` without a profile."""
  cmy, black = inks()[..., :3].astype(float), inks()[..., 3:].astype(float)
  return (255 - cmy) * (255 - black) / 255


def by_little_cms(pixels, profile):
  """sRGB by Pillow's own function, on its own."""
  source = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
  srgb = PIL.ImageCms.createProfile('sRGB')
  return np.asarray(PIL.ImageCms.profileToProfile(pixels, source, srgb, outputMode='RGB'))


@kind
def jpeg_cmyk():
  data = saved(PIL.Image.fromarray(inks(), 'CMYK'), 'JPEG', quality=98)
  return Picture(data, plain_inks(), 4)


@kind
def jpeg_cmyk_profile():
  pixels = PIL.Image.fromarray(inks(), 'CMYK')
  profile = files.cmyk_profile()
  right = by_little_cms(pixels, profile)
  assert np.abs(right - plain_inks()).max() > 30  # It does change something.
  return Picture(saved(pixels, 'JPEG', quality=98, icc_profile=profile), right, 5)


@kind
def jpeg_ycck():
  """As Photoshop writes CMYK: colours as Y'CbCr, and said so in Adobe's marker."""
  # Y'CbCr of the inks: those are stored inverted, and what is inverted again is turned.
  stored = np.asarray(PIL.Image.fromarray(255 - pattern()).convert('YCbCr'))
  inverted = np.dstack([255 - stored, np.zeros((HEIGHT, WIDTH), np.uint8)])
  data = bytearray(saved(PIL.Image.fromarray(inverted, 'CMYK'), 'JPEG', quality=98))
  data[data.index(b'Adobe') + 11] = 2
  return Picture(bytes(data), pattern(), 4)


@kind
def tiff_cmyk():
  data = files.tiff(inks().tobytes(), (HEIGHT, WIDTH), photometric=5, bits=8, channels=4)
  return Picture(data, plain_inks(), 1)


@kind
def tiff_cmyk_profile():
  profile = files.cmyk_profile()
  data = files.tiff(inks().tobytes(), (HEIGHT, WIDTH), photometric=5, bits=8, channels=4,
                    tags=[(34675, 1, profile)])  # fmt: skip
  return Picture(data, by_little_cms(PIL.Image.fromarray(inks(), 'CMYK'), profile))


@kind
def tiff_lab():
  """By the formula of CIE Lab under D50."""
  light = files.srgb_to_linear(pattern()) @ files.adapted(files.SRGB).T / files.D50_XYZ
  roots = np.where(light > 216 / 24389, np.cbrt(light), (24389 / 27 * light + 16) / 116)
  x, y, z = roots[..., 0], roots[..., 1], roots[..., 2]
  lab = np.stack([(116 * y - 16) * 2.55, 500 * (x - y), 200 * (y - z)], -1).round().astype(int)
  stored = lab.astype(np.int16).astype(np.uint8)
  data = files.tiff(stored.tobytes(), (HEIGHT, WIDTH), photometric=8, bits=8, channels=3)
  # What is left of the colours in 8 bits.
  y = (lab[..., 0] / 2.55 + 16) / 116
  roots = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
  light = np.where(roots > 6 / 29, roots**3, (116 * roots - 16) * 27 / 24389) * files.D50_XYZ
  right = files.linear_to_srgb(light @ np.linalg.inv(files.adapted(files.SRGB)).T)
  assert np.abs(right - pattern()).max() < 10
  return Picture(data, right, 1.5)
