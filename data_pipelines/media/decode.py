"""Encoded media to pixels, at the size that training wants. Every failure is a DecodeError; nothing
is ever padded or left black.
"""

import io

import av
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import simplejpeg

from data_pipelines.media import crops
from data_pipelines.media import frames as frames_lib
from data_pipelines.media.frames import DecodeError

# Without chroma at full width and rounding, swscale's RGB is 1.7 of 255 too dark (FFmpeg 8.1).
_FLAGS = av.video.reformatter.Interpolation
INTERPOLATION = _FLAGS.AREA | _FLAGS.FULL_CHR_H_INT | _FLAGS.ACCURATE_RND
SQUARE_INTERPOLATION = _FLAGS.BILINEAR | _FLAGS.FULL_CHR_H_INT | _FLAGS.ACCURATE_RND
_TURN = PIL.Image.Transpose
UPRIGHT = {  # By the value of the EXIF tag Orientation; 1 is upright.
  2: _TURN.FLIP_LEFT_RIGHT,
  3: _TURN.ROTATE_180,
  4: _TURN.FLIP_TOP_BOTTOM,
  5: _TURN.TRANSPOSE,
  6: _TURN.ROTATE_270,
  7: _TURN.TRANSVERSE,
  8: _TURN.ROTATE_90,
}
SIDEWAYS = (_TURN.TRANSPOSE, _TURN.ROTATE_270, _TURN.TRANSVERSE, _TURN.ROTATE_90)
PIL_ERRORS = (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError)


def decode_video(
  data: bytes, times: np.ndarray, height: int, width: int, square_size: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """As decode_video_into: (frames uint8 (F, height, width, 3), square of the first)."""
  frames_FHWC = np.empty((len(times), height, width, 3), np.uint8)
  square_NSSC = np.empty((1, square_size, square_size, 3), np.uint8)
  decode_video_into(frames_FHWC, square_NSSC, data, times)
  return frames_FHWC, square_NSSC[0]


def decode_video_into(
  frames_FHWC: np.ndarray,
  square_NSSC: np.ndarray,
  data: bytes,
  times: np.ndarray,
  converter: 'Converter | None' = None,
) -> None:
  """Decodes the frames nearest to given presentation times.

  Args:
    frames_FHWC: uint8, filled; the video is scaled to cover its size and cut to the centre.
    square_NSSC: uint8, filled with the central squares of the first N frames; may be empty.
    data: an encoded video.
    times: F ascending presentation times in seconds, on the file's own clock.
    converter: one that this thread used before; saves preparing the same scaling again.
  Raises:
    DecodeError: if the file is damaged or ends before the last time.
  """
  height, width = frames_FHWC.shape[1:3]
  convert = converter or Converter()
  previous, side = None, square_NSSC.shape[1]
  for index, frame, aspect in frames_lib.at_times(data, np.asarray(times).tolist()):
    wants_square = square_NSSC.size and index < len(square_NSSC)
    if frame is previous:
      frames_FHWC[index] = frames_FHWC[index - 1]
      if wants_square:
        square_NSSC[index] = square_NSSC[index - 1]
      continue
    size = display_size(frame, aspect)
    if index == 0:
      scaled = crops.scaled_size(*size, height, width)
    if wants_square:
      cover = crops.square_cover(*size, side)
      square = convert(frame, *cover, SQUARE_INTERPOLATION)
      square_NSSC[index] = crops.center_crop(square, side, side)
    frames_FHWC[index] = crops.center_crop(convert(frame, *scaled), height, width)
    previous = frame


def decode_image(data: bytes, min_height: int = 0, min_width: int = 0) -> PIL.Image.Image:
  """Decodes a still image to RGB, upright; raises DecodeError.

  With min_height and min_width, a JPEG that stays at least so large may come at half its size or
  less: scaled as it is decoded, by leaving out its high frequencies.
  """
  try:
    image = PIL.Image.open(io.BytesIO(data))
    found = _decode_jpeg(image, data, min_height, min_width)
    return found or PIL.ImageOps.exif_transpose(image).convert('RGB')
  except PIL_ERRORS as error:
    raise DecodeError('image', str(error)) from error


def _decode_jpeg(image, data, min_height, min_width):
  """As decode_image, in 0.55 to 0.85 of Pillow's time; None for what only Pillow takes."""
  if image.format != 'JPEG' or image.mode not in ('RGB', 'L'):
    return None
  turn = UPRIGHT.get(image.getexif().get(PIL.ExifTags.Base.Orientation))
  if turn in SIDEWAYS:
    min_height, min_width = min_width, min_height
  # simplejpeg takes 0 for both as: whole. Its scales above a half cost more than they save.
  size = dict(min_height=min_height, min_width=min_width, min_factor=2)
  try:
    image = PIL.Image.fromarray(simplejpeg.decode_jpeg(data, **size))
  except ValueError:  # It refuses all that libjpeg warns of, Pillow only what is truncated.
    return None
  return image if turn is None else image.transpose(turn)


def display_size(frame, aspect: float) -> tuple[int, int]:
  """(height, width) with square pixels, upright."""
  height, width = frame.height, max(1, round(frame.width * aspect))
  return (width, height) if frame.rotation % 180 else (height, width)


class Converter:
  """Frames to upright RGB arrays of a given size; keeps its scaling tables from frame to frame.

  For one thread at a time.
  """

  def __init__(self):
    self._reformatters = {}

  def __call__(self, frame, height, width, interpolation=INTERPOLATION):
    """The frame as uint8 (height, width, 3), a view that lives until the next call's result."""
    turns = round(frame.rotation / 90) % 4
    stored = (width, height) if turns % 2 else (height, width)
    # One per kind of use, which is the most that stay alike from video to video.
    if interpolation not in self._reformatters:
      self._reformatters[interpolation] = av.video.reformatter.VideoReformatter()
    try:
      rgb = self._reformatters[interpolation].reformat(
        frame, stored[1], stored[0], 'rgb24', interpolation=interpolation, threads=1
      )
    except frames_lib.FFMPEG_ERRORS as error:
      raise DecodeError('convert', f'{frame.format.name}: {error}') from error
    plane = rgb.planes[0]  # A view: the one copy is that into the batch.
    rows = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)
    pixels_HWC = rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
    return np.rot90(pixels_HWC, turns) if turns else pixels_HWC
