"""JPEGs that lack their last two bytes, the mark of the end, and nothing else."""

import re

import PIL.Image
import simplejpeg

_END = b'\xff\xd9'
# A segment's mark, but those that stand within a scan.
_MARK = re.compile(rb'\xff+([\xc0-\xcf\xda-\xfe])', re.DOTALL)
_SCAN, _PROGRESSIVE = 0xDA, 'progressive'
_COLORSPACES = {'L': 'GRAY', 'RGB': 'RGB', 'CMYK': 'CMYK'}


def ended(data: bytes, image: PIL.Image.Image) -> bytes:
  """The file with the end that it lacks.

  Args:
    data: a JPEG that Pillow does not load.
    image: of its header.
  Raises:
    ValueError: more is lost, or damaged.
  """
  data = data.rstrip(b'\xff') + _END
  # libjpeg warns of rows that are not there; simplejpeg makes errors of warnings.
  simplejpeg.decode_jpeg(data, colorspace=_COLORSPACES[image.mode])
  if image.info.get(_PROGRESSIVE) and not _is_fine(data):
    raise ValueError('image file is truncated: its last scans are missing')
  return data


def _is_fine(data: bytes) -> bool:
  """Whether the scans of a progressive JPEG give all bits of all coefficients."""
  known: dict[int, set[int]] = {}  # Coefficients by component.
  place = 2
  while match := _MARK.search(data, place):
    start = match.end()
    place = start + int.from_bytes(data[start : start + 2])
    if match[1][0] == _SCAN:
      num = data[start + 2]
      components = data[start + 3 : start + 3 + 2 * num : 2]
      first, last, bits = data[start + 3 + 2 * num : start + 6 + 2 * num]
      for component in components:
        known.setdefault(component, set()).update(range(first, last + 1) if not bits & 15 else ())
  return bool(known) and all(len(found) == 64 for found in known.values())
