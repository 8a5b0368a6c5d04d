"""Encoded media to pixels, at the size that training wants. Every failure is a DecodeError; nothing
is ever padded or left black.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import av
import av.video.reformatter
import numpy as np
import PIL.Image

from data_pipelines.media import crops, display, errors, tone_map
from data_pipelines.media import frames as frames_lib
from data_pipelines.media.pictures import decode_image

# Without chroma at full width and rounding, swscale's RGB is 1.7 of 255 too dark (FFmpeg 8.1).
_FLAGS = av.video.reformatter.Interpolation
INTERPOLATION = int(_FLAGS.AREA | _FLAGS.FULL_CHR_H_INT | _FLAGS.ACCURATE_RND)
SQUARE_INTERPOLATION = int(_FLAGS.BILINEAR | _FLAGS.FULL_CHR_H_INT | _FLAGS.ACCURATE_RND)
# A JPEG that is so much larger than the target may be decoded at half its size. The pixels then
# differ by 2 of 255 on average from the whole one's, by 3 if 1.05 were enough (two photographs).
OVERSAMPLING = 1.4


@dataclasses.dataclass(frozen=True)
class View:
  """Frames of a clip as one array shows them, to be filled.

  Attributes:
    pixels_NHWC: uint8.
    frames: N ascending numbers of the clip's frames.
    is_square: the central square, as CLIP's towers take it; else the source is scaled to cover the
      size and cut to its centre.
  """

  pixels_NHWC: np.ndarray
  frames: Sequence[int]
  is_square: bool = False


def decode_video(
  data: bytes, times: Sequence[float] | np.ndarray, height: int, width: int, square_size: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """(frames uint8 (F, height, width, 3), square of the first); see decode_video_into.

  Args:
    data: an encoded video.
    times: F ascending presentation times in seconds.
    height: of the frames, pixels.
    width: of the frames, pixels.
    square_size: side of the square; 0 makes none.
  """
  frames_FHWC = np.empty((len(times), height, width, 3), np.uint8)
  square_NSSC = np.empty((1, square_size, square_size, 3), np.uint8)
  views = [View(frames_FHWC, range(len(times)))]
  if square_size:
    views.append(View(square_NSSC, (0,), is_square=True))
  decode_video_into(views, data, times)
  return frames_FHWC, square_NSSC[0]


def decode_video_into(
  views: Sequence[View],
  data: bytes,
  times: Sequence[float] | np.ndarray,
  converter: 'Converter | None' = None,
  content: Sequence[float] = (),
) -> None:
  """Decodes the frames nearest to given presentation times.

  Args:
    views: filled.
    data: an encoded video.
    times: ascending presentation times in seconds, on the file's own clock.
    converter: one that this thread used before; saves preparing the same scaling again.
    content: where in the upright frames the content is, as shares of them (schema.CONTENT): the
      views show what lies within. () is the whole frame.
  Raises:
    DecodeError: if the file is damaged or ends before the last time.
  """
  convert = converter or Converter()
  wanted: list[list[tuple[_Filling, int]]] = [[] for _ in times]
  for view in views:
    filling = _Filling(view, content)
    for row, number in enumerate(view.frames):
      wanted[number].append((filling, row))
  for index, frame, aspect in frames_lib.at_times(data, np.asarray(times).tolist()):
    if wanted[index]:
      turn = display.orientation(frame)
      size = display.size(frame, aspect, turn)
      for filling, row in wanted[index]:
        filling(row, convert, frame, size, turn)


class _Filling:
  """A view while its rows are filled, in turn."""

  def __init__(self, view: View, content: Sequence[float]):
    self._pixels_NHWC = view.pixels_NHWC
    self._interpolation = SQUARE_INTERPOLATION if view.is_square else INTERPOLATION
    self._view, self._content = view, content
    self._frame: av.VideoFrame | None = None
    self._size = 0, 0

  def __call__(
    self,
    row: int,
    convert: 'Converter',
    frame: av.VideoFrame,
    size: tuple[int, int],
    turn: display.Orientation,
  ) -> None:
    """Shows a frame, whose upright size is (height, width), in a row."""
    if frame is self._frame:
      self._pixels_NHWC[row] = self._pixels_NHWC[row - 1]
      return
    if size != self._size:
      self._size = size
      self._scaled, self._cut = _cut(self._view, size, self._content)
    pixels_HWC = convert(frame, *self._scaled, self._interpolation, turn)
    self._pixels_NHWC[row] = pixels_HWC[self._cut]
    self._frame = frame


def _cut(
  view: View, size: tuple[int, int], content: Sequence[float]
) -> tuple[tuple[int, int], tuple[slice, slice]]:
  """((height, width) to scale a frame of this size to, what of it the view shows)."""
  height, width = view.pixels_NHWC.shape[1:3]
  if content:
    scaled, (top, left) = crops.cover_content(size, content, height, width)
  else:
    cover = crops.square_cover(*size, height) if view.is_square else None
    scaled = cover or crops.scaled_size(*size, height, width)
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
  return scaled, (slice(top, top + height), slice(left, left + width))


def decode_image_into(views: Sequence[View], data: bytes | PIL.Image.Image) -> None:
  """Fills the one frame of each view from a picture; raises DecodeError.

  Training and sampling both do so: what a model sees of a picture depends on the views alone.

  Args:
    views: filled.
    data: an encoded image, or one that is decoded already.
  """
  smallest = [
    view.pixels_NHWC.shape[1:3]
    if view.is_square
    else [math.ceil(OVERSAMPLING * side) for side in view.pixels_NHWC.shape[1:3]]
    for view in views
  ]
  if isinstance(data, PIL.Image.Image):
    image = data.convert('RGB')
  else:
    image = decode_image(data, *np.max(smallest, axis=0).tolist())
  scaled = image
  for view in sorted(views, key=lambda view: view.is_square):  # Squares are cut of a smaller copy.
    height, width = view.pixels_NHWC.shape[1:3]
    if view.is_square:
      is_enough = min(scaled.size) >= OVERSAMPLING * height
      view.pixels_NHWC[0] = crops.central_square(scaled if is_enough else image, height)
    else:
      scaled = crops.cover(image, height, width)
      view.pixels_NHWC[0] = crops.center_crop(np.asarray(scaled), height, width)


class Converter:
  """Frames to upright RGB arrays of a given size; keeps its scaling tables from frame to frame.

  HDR is tone-mapped (tone_map.py). For one thread at a time.

  Args:
    layout: 'rgb24', or 'bgr24' as OpenCV has it.
  """

  def __init__(self, layout: str = 'rgb24'):
    self._layout = layout
    self._reformatters: dict[Any, av.video.reformatter.VideoReformatter] = {}

  def __call__(
    self,
    frame: av.VideoFrame,
    height: int,
    width: int,
    interpolation: int = INTERPOLATION,
    turn: display.Orientation | None = None,
  ) -> np.ndarray:
    """The frame as uint8 (height, width, 3), a view that lives until the next call's result.

    Args:
      frame: as decoded.
      height: of the result, upright, pixels.
      width: of the result, upright, pixels.
      interpolation: of swscale.
      turn: the frame's orientation, if it is known already.
    Raises:
      DecodeError: the frame cannot be converted.
    """
    turn = display.orientation(frame) if turn is None else turn
    stored = (width, height) if turn.is_transposed else (height, width)
    if frame.color_trc in display.HDR:
      deep = self._reformat(frame, *stored, 'gbrp16le', interpolation, tone_map.matrix(frame))
      kind = display.dynamic_range(frame)
      pixels_HWC = tone_map.to_sdr(deep.to_ndarray(), kind, frame.color_primaries)
      if self._layout == 'bgr24':
        pixels_HWC = pixels_HWC[..., ::-1]
    else:
      rgb = self._reformat(frame, *stored, self._layout, interpolation)
      plane = rgb.planes[0]  # A view: the one copy is that into the batch.
      # pyrefly: ignore[bad-argument-type]  # PyAV's stubs do not say that a plane is a buffer.
      pixels_HWC = np.ndarray((*stored, 3), np.uint8, plane, 0, (plane.line_size, 3, 1))
    return pixels_HWC if turn is display.UPRIGHT else turn.upright(pixels_HWC)

  def _reformat(
    self,
    frame: av.VideoFrame,
    height: int,
    width: int,
    layout: str,
    interpolation: int,
    matrix: int | None = None,
  ) -> av.VideoFrame:
    # One per kind of use, which is the most that stay alike from video to video.
    if interpolation not in self._reformatters:
      self._reformatters[interpolation] = av.video.reformatter.VideoReformatter()
    try:
      return self._reformatters[interpolation].reformat(
        frame, width, height, layout, matrix, interpolation=interpolation, threads=1
      )
    except errors.FFMPEG_ERRORS as error:
      raise errors.of(error, 'convert', f'{frame.format.name}: ') from error
