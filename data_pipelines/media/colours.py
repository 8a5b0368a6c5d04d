"""A picture's own colours to sRGB: by its ICC profile, or by the numbers that stand in for one.

A PNG may give its primaries and gamma (chunks cHRM, gAMA), and PNG and AVIF may give the codes of
ITU-T H.273 (cICP, nclx). Browsers follow all of these, so what is trained on is what people see.
Numbers that only restate sRGB, as most do, change nothing: not a bit.
"""

import functools
import io
import logging
import struct

import numpy as np
import PIL.Image
import PIL.ImageCms

from data_pipelines.media.errors import DecodeError

MAX_PROFILE_BYTES = 4 << 20  # Those of presses have 0.5 to 3 MB; each is kept with its transform.
_MODES = 'RGB', 'L', 'CMYK', 'LAB'  # That littlecms takes.

# Chromaticities as PNG's cHRM has them: x and y of white, red, green, blue.
D65 = (0.3127, 0.3290)
SRGB_PRIMARIES = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# By their code in ITU-T H.273.
PRIMARIES = {
  1: SRGB_PRIMARIES,
  5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),  # BT.601, 625 lines.
  6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # BT.601, 525 lines.
  7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
  9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020.
  11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI-P3.
  12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3.
}
# Others are shown as sRGB is: players do so with BT.709's curve too.
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
HDR = {16: 'PQ', 18: 'HLG'}
# Adapts from one white to another (Bradford), as ICC profiles are made.
BRADFORD = np.array(
  [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
D50_XYZ = np.array([0.9642, 1.0, 0.8249])


def to_rgb(image: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
  """RGB in sRGB of a picture without alpha.

  Args:
    image: mode 1, L, P, RGB, CMYK, LAB or YCbCr.
    profile: ICC; None, or one that cannot be used, takes the picture as sRGB, CMYK by Pillow's
      formula and LAB under D50.
  """
  if image.mode == '1':
    image = image.convert('L')
  elif image.mode not in _MODES:
    image = image.convert('RGB')
  convert = transform(profile, image.mode) if profile else None
  if convert is None and image.mode == 'LAB':
    convert = _to_srgb(PIL.ImageCms.createProfile('LAB'), 'LAB')
  return image.convert('RGB') if convert is None else convert.apply(image)


@functools.lru_cache(maxsize=32)
def transform(profile: bytes, mode: str) -> PIL.ImageCms.ImageCmsTransform | None:
  """To sRGB, from pictures in a mode; kept, for all pictures of a camera have one profile.

  Args:
    profile: ICC.
    mode: RGB, L, CMYK or LAB.
  Returns:
    None where the pixels are sRGB to one level as they are, and for a profile that is broken or of
    another kind of picture: browsers pass over those too. The log names it, once.
  """
  try:
    if len(profile) > MAX_PROFILE_BYTES:
      raise ValueError(f'it has {len(profile):,} bytes.')
    source = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
    found = _to_srgb(source, mode)
    return None if mode in ('RGB', 'L') and _changes_nothing(found, mode) else found
  except (PIL.ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
    logging.warning('an ICC profile is passed over, its %s pictures are sRGB: %s', mode, error)
    return None


def _to_srgb(
  source: PIL.ImageCms.ImageCmsProfile | PIL.ImageCms.core.CmsProfile, mode: str
) -> PIL.ImageCms.ImageCmsTransform:
  # The table that littlecms would make of Lab is up to 8 levels off.
  flags = PIL.ImageCms.Flags.NOOPTIMIZE if mode == 'LAB' else PIL.ImageCms.Flags.NONE
  srgb = PIL.ImageCms.createProfile('sRGB')
  return PIL.ImageCms.buildTransform(source, srgb, mode, 'RGB', flags=flags)


def _changes_nothing(convert: PIL.ImageCms.ImageCmsTransform, mode: str) -> bool:
  levels = np.arange(0, 256, 17, dtype=np.uint8)
  colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(64, 64, 3)
  if mode == 'L':
    colours = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
  given = PIL.Image.fromarray(colours).convert(mode)
  return bool(np.abs(np.asarray(convert.apply(given)).astype(int) - colours).max() <= 1)


def of_codes(primaries: int, transfer: int) -> bytes | None:
  """A profile of the codes of ITU-T H.273; None where they say sRGB or nothing.

  Args:
    primaries: ColourPrimaries.
    transfer: TransferCharacteristics.
  Raises:
    DecodeError: HDR, which sRGB cannot show without a tone curve of someone's choice.
  """
  if transfer in HDR:
    raise DecodeError('hdr', f'the picture is in {HDR[transfer]}; only SDR is taken.')
  return of_numbers(PRIMARIES.get(primaries), GAMMAS.get(transfer))


@functools.lru_cache(maxsize=32)
def of_numbers(primaries: tuple[float, ...] | None, gamma: float | None) -> bytes | None:
  """A profile of primaries and gamma; None where they are sRGB's, or impossible.

  Args:
    primaries: x and y of white, red, green, blue; None for sRGB's.
    gamma: linear light is the value to its power; None for sRGB's curve, for which 2.2 stands in.
  """
  if gamma is not None and (abs(1 / gamma - 1 / 2.2) < 0.01 or not 0.2 <= gamma <= 5):
    gamma = None
  known = primaries is not None and len(primaries) == 8
  xy = np.array(primaries if known else SRGB_PRIMARIES).reshape(4, 2)
  if np.abs(xy.ravel() - SRGB_PRIMARIES).max() < 0.003:
    if gamma is None:
      return None
    xy = np.array(SRGB_PRIMARIES).reshape(4, 2)
  if xy[:, 1].min() <= 0:
    return None
  xyz = np.stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(1)) / xy[:, 1]])
  white, colorants = xyz[:, 0], xyz[:, 1:]
  try:
    colorants = colorants * np.linalg.solve(colorants, white)
    adapt = np.linalg.solve(
      BRADFORD, ((BRADFORD @ D50_XYZ) / (BRADFORD @ white))[:, None] * BRADFORD
    )
    return _write_profile((adapt @ colorants).T, gamma)
  except (np.linalg.LinAlgError, OverflowError, struct.error):
    return None


def _write_profile(colorants: np.ndarray, gamma: float | None) -> bytes:
  """A matrix profile (ICC.1:2004, 8.3): rows are XYZ of red, green, blue under D50."""
  fixed = lambda *values: struct.pack(f'>{len(values)}i', *(round(v * 65536) for v in values))  # noqa: E731
  number = lambda *values: b'XYZ \0\0\0\0' + fixed(*values)  # noqa: E731
  srgb_curve = 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045
  curve = (gamma,) if gamma else srgb_curve
  tags = {name: number(*row) for name, row in zip(('rXYZ', 'gXYZ', 'bXYZ'), colorants, strict=True)}
  tags |= {'wtpt': number(*D50_XYZ)}
  function = struct.pack('>4s4xHxx', b'para', 0 if gamma else 3) + fixed(*curve)
  tags |= dict.fromkeys(('rTRC', 'gTRC', 'bTRC'), function)
  table, body, start = b'', b'', 128 + 4 + 12 * len(tags)
  for name, value in tags.items():
    table += struct.pack('>4sII', name.encode(), start + len(body), len(value))
    body += value
  size = start + len(body)
  header = struct.pack(
    '>I4sI4s4s4s12x4s28x', size, b'', 0x04200000, b'mntr', b'RGB ', b'XYZ ', b'acsp'
  )
  return (header + fixed(*D50_XYZ)).ljust(128, b'\0') + struct.pack('>I', len(tags)) + table + body
