"""The one way in for pictures: encoded bytes, or a user's file, to upright 8-bit RGB in sRGB.

Training, curation, scores, reports and sampling open pictures here, and so see the same pixels.
Transparency lies over white, as img2dataset has it; of an animation its first frame is taken.
What a file is, its content tells, and only the FORMATS below are opened.
"""

import io
import os
import struct
from typing import NamedTuple

import numpy as np
import PIL.AvifImagePlugin
import PIL.BmpImagePlugin
import PIL.ExifTags
import PIL.GifImagePlugin
import PIL.Image
import PIL.ImageChops
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
import PIL.TiffImagePlugin
import PIL.WebPImagePlugin
import simplejpeg

from data_pipelines import user_errors
from data_pipelines.media import colours, jpeg, tiff
from data_pipelines.media.errors import DecodeError

FORMATS = 'JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, and HEIC with pillow-heif'
_SIGNATURES = {
  b'\xff\xd8\xff': 'JPEG',  # Also of several pictures (MPO).
  b'\x89PNG\r\n\x1a\n': 'PNG',
  b'GIF87a': 'GIF',
  b'GIF89a': 'GIF',
  b'BM': 'BMP',
  b'II*\0': 'TIFF',
  b'MM\0*': 'TIFF',
  b'II+\0': 'TIFF',
  b'MM\0+': 'TIFF',
}
_VIDEO_BRANDS = {
  b'isom', b'iso2', b'iso4', b'iso5', b'iso6', b'mp41', b'mp42', b'avc1', b'M4V ', b'qt  ',
  b'dash', b'3gp4', b'3gp5',
}  # fmt: skip
_HEIC_BRANDS = {b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx'}
# Pillow holds 4 bytes for each: half a GiB, and 1.2 GiB for one with transparency (measured).
MAX_PIXELS = 1 << 27
_TURN = PIL.Image.Transpose
# By the value of the EXIF tag Orientation; 1 is upright.
UPRIGHT: dict[int | None, PIL.Image.Transpose] = {
  2: _TURN.FLIP_LEFT_RIGHT,
  3: _TURN.ROTATE_180,
  4: _TURN.FLIP_TOP_BOTTOM,
  5: _TURN.TRANSPOSE,
  6: _TURN.ROTATE_270,
  7: _TURN.TRANSVERSE,
  8: _TURN.ROTATE_90,
}
SIDEWAYS = (_TURN.TRANSPOSE, _TURN.ROTATE_270, _TURN.TRANSVERSE, _TURN.ROTATE_90)


class Encoded(NamedTuple):
  """A user's picture as its file holds it, and its upright size: it is decoded once it is known at
  what size, as training does.
  """

  data: bytes
  height: int
  width: int


def open_image(path: str | os.PathLike[str]) -> PIL.Image.Image:
  """A user's picture, whole, as decode_image has it.

  Raises:
    ValueError: no such file, or not a picture; the message names the path.
  """
  return _read(path)[1]


def read_image(path: str | os.PathLike[str]) -> Encoded:
  """A user's picture, of which all has been decoded once; raises as open_image."""
  data, image = _read(path)
  return Encoded(data, image.height, image.width)


def from_bytes(data: bytes, name: str) -> Encoded:
  """A user's picture that was sent, of which all has been decoded once; raises as open_image.

  Args:
    data: of its file.
    name: of its file, for messages.
  """
  try:
    image = decode_image(data)
  except DecodeError as error:
    raise ValueError(f'image {name} cannot be read: {error}.') from error
  return Encoded(data, image.height, image.width)


def _read(path: str | os.PathLike[str]) -> tuple[bytes, PIL.Image.Image]:
  from etils import epath  # A process that decodes would take a fifth longer to start.

  try:
    data = epath.Path(path).read_bytes()
    return data, decode_image(data)
  except (OSError, DecodeError) as error:
    raise ValueError(f'image {path} cannot be read: {user_errors.reason(error)}.') from error


def decode_image(data: bytes, min_height: int = 0, min_width: int = 0) -> PIL.Image.Image:
  """Decodes a still image to RGB, upright, in sRGB.

  A JPEG may come at half its size or less: scaled as it is decoded, by leaving out its high
  frequencies.

  Args:
    data: an encoded image.
    min_height: pixels that a smaller one still has; 0, for both, takes the image whole.
    min_width: likewise.
  Raises:
    DecodeError: 'image_format' for what is none of FORMATS, 'image_size' for more than MAX_PIXELS,
      by the header alone, 'image_depth' for samples without a known white, 'hdr', and 'image' for
      all that is damaged.
  """
  try:
    image = _open(data)
    found = _decode_jpeg(image, data, min_height, min_width)
    return _decode(image, data) if found is None else found
  except DecodeError:
    raise
  except Exception as error:  # Pillow's plugins raise what they like at broken files.
    detail = str(error) or 'cannot be decoded.'
    named = isinstance(error, (OSError, ValueError, SyntaxError))
    reason = 'memory' if isinstance(error, MemoryError) else 'image'
    raise DecodeError(reason, detail if named else f'{type(error).__name__}: {detail}') from error


def _open(data: bytes) -> PIL.Image.Image:
  if not data:
    raise DecodeError('image', 'the file is empty.')
  kind = next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), '')
  if not kind:
    kind = _container(data)
  try:
    image = PIL.Image.open(io.BytesIO(data), formats=(kind,))
  except PIL.UnidentifiedImageError as error:
    if kind == 'TIFF':
      raise tiff.refusal(data) from error
    raise DecodeError('image', f'the {kind} header is damaged.') from error
  except PIL.Image.DecompressionBombError as error:
    raise DecodeError('image_size', str(error)) from error
  if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
    tiff.check(image)
  if image.width * image.height > MAX_PIXELS:
    raise DecodeError(
      'image_size', f'{image.width}x{image.height} is more than {MAX_PIXELS:,} pixels.'
    )
  return image


def _container(data: bytes) -> str:
  """WEBP, AVIF or HEIF, which are boxes in a general container; raises DecodeError for others."""
  if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
    return 'WEBP'
  if data[4:8] == b'ftyp':
    size = min(int.from_bytes(data[:4]), 256)
    brands = {data[i : i + 4] for i in range(8, size, 4)}
    if brands & {b'avif', b'avis'}:
      return 'AVIF'
    if brands & _HEIC_BRANDS:
      _register_heic()
      return 'HEIF'
    is_video = bool(brands & _VIDEO_BRANDS)
  else:
    is_video = data[:4] == b'\x1aE\xdf\xa3' or (data[:4] == b'RIFF' and data[8:12] == b'AVI ')
  if is_video:
    raise DecodeError('image_format', 'it is a video: give a picture, such as one of its frames')
  raise DecodeError('image_format', f'it begins with {data[:12]!r}: none of {FORMATS}')


def _register_heic() -> None:
  if 'HEIF' in PIL.Image.OPEN:
    return
  try:
    import pillow_heif
  except ImportError as error:
    raise DecodeError(
      'image_format', 'HEIC is read by pillow-heif: pip install "i2vgen_jax[heic]".'
    ) from error
  pillow_heif.register_heif_opener()


def _decode_jpeg(
  image: PIL.Image.Image, data: bytes, min_height: int, min_width: int
) -> PIL.Image.Image | None:
  """As decode_image, in 0.55 to 0.85 of Pillow's time; None for what only Pillow takes."""
  if image.format != 'JPEG' or image.mode not in ('RGB', 'L'):
    return None
  profile = image.info.get('icc_profile')
  convert = colours.transform(profile, image.mode) if profile else None
  if convert is not None and image.mode == 'L':
    return None  # Only Pillow gives its single channel.
  turn = _turn(image)
  if turn in SIDEWAYS:
    min_height, min_width = min_width, min_height
  # simplejpeg takes 0 for both as: whole. Its scales above a half cost more than they save.
  size = dict(min_height=min_height, min_width=min_width, min_factor=2)
  try:
    image = PIL.Image.fromarray(simplejpeg.decode_jpeg(data, **size))
  except ValueError:  # It refuses all that libjpeg warns of, Pillow only what is truncated.
    return None
  if convert is not None:
    image = convert.apply(image)
  return image if turn is None else image.transpose(turn)


def _decode(image: PIL.Image.Image, data: bytes) -> PIL.Image.Image:
  """As decode_image, by Pillow."""
  try:
    image.load()
  except OSError:
    if image.format != 'JPEG':
      raise
    image = _open(jpeg.ended(data, image))
    image.load()
  tiff.set_old_colours(image)
  if getattr(image, 'default_image', False):  # For other viewers, and no part of the animation.
    image.paste(0, (0, 0, *image.size))
    image.seek(1)
    image.load()
  profile = _profile(image, data)
  turn = _turn(image)
  opaque, alpha = _split_alpha(image, data)
  if profile is not image.info.get('icc_profile'):
    opaque = opaque.convert('RGB')  # A profile of our own is of RGB.
  rgb = colours.to_rgb(opaque, profile)
  if alpha is not None:
    rgb.paste('white', mask=PIL.ImageChops.invert(alpha))
  return rgb if turn is None else rgb.transpose(turn)


def _turn(image: PIL.Image.Image) -> PIL.Image.Transpose | None:
  """What makes it upright; of a TIFF, an AVIF and a HEIC, whose readers turn them, nothing."""
  try:
    return UPRIGHT.get(image.getexif().get(PIL.ExifTags.Base.Orientation))
  except Exception:  # Broken EXIF data is no reason to lose a picture: viewers pass over it.
    return None


def _profile(image: PIL.Image.Image, data: bytes) -> bytes | None:
  """ICC, or made of what stands in for it, by the precedence of PNG (third edition, 4.3)."""
  if image.format == 'PNG':
    chunks = _png_chunks(data)
    if len(codes := chunks.get(b'cICP', b'')) == 4:
      return colours.of_codes(codes[0], codes[1])
    if 'icc_profile' not in image.info and b'sRGB' not in chunks:
      gamma = image.info.get('gamma')
      primaries = image.info.get('chromaticity')
      return colours.of_numbers(primaries, 1 / gamma if gamma else None)
  elif image.format in ('AVIF', 'HEIF') and not image.info.get('icc_profile'):
    start = data[: 1 << 16].find(b'colrnclx')  # The box is among those before the pixels.
    return colours.of_codes(*struct.unpack_from('>HH', data, start + 8)) if start >= 0 else None
  return image.info.get('icc_profile')


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
  """Those before the pixels, by name."""
  chunks, at = {}, 8
  while at + 8 <= len(data) and (name := data[at + 4 : at + 8]) != b'IDAT':
    size = int.from_bytes(data[at : at + 4])
    chunks[name] = data[at + 8 : at + 8 + size]
    at += 12 + size
  return chunks


def _split_alpha(
  image: PIL.Image.Image, data: bytes
) -> tuple[PIL.Image.Image, PIL.Image.Image | None]:
  """(picture with 8 bits a channel, its alpha as L or None if it is opaque)."""
  form = image.format
  if form == 'PNG' and 'transparency' in image.info:
    _scale_transparent_colour(image, depth=data[24])
  if image.mode[0] == 'I':
    return _eight_bits(image)
  alpha = None
  if image.has_transparency_data:
    if image.mode in ('L', 'LA', 'La'):
      image, alpha = image.convert('LA').split()
    else:
      rgba = image if image.mode == 'RGBA' else image.convert('RGBA')
      is_grey = form == 'PNG' and data[25] == 4  # Pillow has no grey of 16 bits with alpha.
      image, alpha = rgba.convert('L' if is_grey else 'RGB'), rgba.getchannel('A')
  elif isinstance(image, PIL.GifImagePlugin.GifImageFile) or getattr(image, 'default_image', 0):
    alpha = PIL.Image.new('L', image.size)  # Around the frame there may be no pixels.
    # pyrefly: ignore[missing-attribute]  # Both kinds have it.
    alpha.paste(255, image.dispose_extent)
  # Writers of BMP often leave it at 0, which browsers take for opaque.
  opaque = {(255, 255), (0, 0)} if form == 'BMP' else {(255, 255)}
  return image, None if alpha is None or alpha.getextrema() in opaque else alpha


def _scale_transparent_colour(image: PIL.Image.Image, depth: int) -> None:
  """Pillow gives it as stored, but the samples at 8 bits."""
  value = image.info['transparency']
  if image.mode == 'L' and depth < 8:
    image.info['transparency'] = value * 255 // (2**depth - 1)
  elif image.mode == 'RGB' and depth == 16:
    image.info['transparency'] = tuple(level >> 8 for level in value)


def _eight_bits(image: PIL.Image.Image) -> tuple[PIL.Image.Image, PIL.Image.Image | None]:
  """(L, alpha) of grey in more than 8 bits."""
  bits, inverted = 16, False
  if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
    bits, inverted = image.tag_v2[tiff.BITS][0], image.tag_v2[tiff.PHOTOMETRIC] == 0
  stored = np.asarray(image)
  if bits <= 16:
    white = 2**bits - 1
    levels = np.rint(np.arange(white + 1) * (255 / white)).astype(np.uint8)[stored]
  else:
    levels = (stored.view(np.uint32) >> (bits - 8)).astype(np.uint8)
  grey = PIL.Image.fromarray(255 - levels if inverted else levels)
  transparent = image.info.get('transparency')
  if transparent is None:
    return grey, None
  return grey, PIL.Image.fromarray(np.where(stored == transparent, 0, 255).astype(np.uint8))
