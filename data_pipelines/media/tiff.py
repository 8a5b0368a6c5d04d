"""TIFF has more layouts of samples than its readers know: those that are not read are named."""

import io

import numpy as np
import PIL.Image
import PIL.TiffImagePlugin

from data_pipelines.media.errors import DecodeError

# Pillow's own reader takes uncompressed planes of 16 bits for such of 8, and no raw YCbCr.
# pyrefly: ignore[bad-assignment]  # It is there to be set.
PIL.TiffImagePlugin.READ_LIBTIFF = True
# Tags, and values of theirs.
BITS, PHOTOMETRIC, COLOURS, DNG_VERSION = 258, 262, 320, 50706
_SAMPLES, _PLANES, _SAMPLE_FORMAT = 277, 284, 339
_UNSIGNED = (1, 4)  # 4 is unknown.


def check(image: PIL.TiffImagePlugin.TiffImageFile) -> None:
  """Raises DecodeError for what Pillow opens and takes for something else."""
  tags = image.tag_v2
  if DNG_VERSION in tags:
    raise DecodeError('image_format', 'a raw photograph (DNG): develop it first.')
  _check_samples(tags)
  if image.mode in ('LA', 'PA') and tags.get(_PLANES) == 2:
    raise DecodeError('image_format', f'{_describe(tags)}, in planes: not read.')


def _check_samples(tags: PIL.TiffImagePlugin.ImageFileDirectory_v2) -> None:
  if set(tags.get(_SAMPLE_FORMAT, (1,))) - set(_UNSIGNED):
    detail = f'{_describe(tags)}, floating-point or signed: there is no known white.'
    raise DecodeError('image_depth', detail)


def refusal(data: bytes) -> DecodeError:
  """Why Pillow does not open a TIFF.

  Args:
    data: of the file.
  """
  file = io.BytesIO(data)
  try:
    header = file.read(16 if b'+' in data[:4] else 8)
    tags = PIL.TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    _check_samples(tags)
    return DecodeError('image_format', f'{_describe(tags)}: not read.')
  except DecodeError as error:
    return error
  except Exception:  # Pillow raises what it likes at broken files.
    return DecodeError('image', 'the TIFF header is damaged.')


def _describe(tags: PIL.TiffImagePlugin.ImageFileDirectory_v2) -> str:
  bits = tags.get(BITS, (1,))
  each = bits[0] if len(set(bits)) == 1 else bits
  return f'a TIFF of {tags.get(_SAMPLES, 1)} samples of {each} bits a pixel, photometric ' + str(
    tags[PHOTOMETRIC]
  )


def set_old_colours(image: PIL.Image.Image) -> None:
  """A palette has 16 bits, but that of old writers 8, which Pillow takes for black."""
  tags = getattr(image, 'tag_v2', {})
  if image.mode == 'P' and COLOURS in tags and max(tags[COLOURS]) < 256:
    levels = np.array(tags[COLOURS], np.uint8).reshape(3, -1)
    image.putpalette(levels.T.tobytes())
