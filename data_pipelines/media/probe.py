"""What ingest needs to know of a media file; of a damaged video, of what precedes the damage."""

from collections.abc import Collection
from typing import Any

import av
import numpy as np

from data_pipelines.media import containers, decode, display, errors, tone_map
from data_pipelines.media import frames as frames_lib

# Videos that are decoded well, but not as their makers saw them: only on demand.
SPECIAL = ('hdr', 'interlaced')
MIN_PREFIX_SECS = 1.0  # Less than that is not worth keeping of a damaged video.


def probe(data: bytes, media: str, takes: Collection[str] = ()) -> dict:
  """Measures media by decoding it: the columns of schema.SIDECAR but `key` and `media`.

  Args:
    data: an encoded file.
    media: 'video' or 'image'.
    takes: those of SPECIAL that are to be measured; others are refused by that name.
  Raises:
    errors.DecodeError: it cannot be used; of a video, not even its first second.
  """
  if media == 'video':
    return dict(num_bytes=len(data), **_probe_video(data, takes))
  image = decode.decode_image(data)
  return dict(
    num_bytes=len(data), num_frames=1, first_time=0.0, duration=0.0, fps=0.0, longest_gap=0.0,
    is_variable_rate=False, height=image.height, width=image.width, is_truncated=False,
    is_interlaced=False, hdr='',
  )  # fmt: skip


class _Frames:
  """What the frames of a video have to say, one after the other."""

  def __init__(self, video: containers.Video, takes: Collection[str]):
    self.times: list[float] = []
    self.height = self.width = 0
    self.hdr = ''
    self.is_interlaced = False
    self._video = video
    self._takes = takes
    self._size: tuple | None = None
    self._shape: tuple | None = None

  def add(self, frame: av.VideoFrame) -> None:
    self.times.append(frame.time)
    size = frame.width, frame.height, display.orientation(frame)
    if frame.key_frame or size != self._size:  # Other frames have no header of their own.
      self._size = size
      self._check_shape(frame, size[-1])
      self._check_range(frame)
    if (frame.interlaced_frame or self._video.fields) and not self.is_interlaced:
      self._refuse('interlaced', '--interlaced=deinterlace takes it.')
      if self._video.stream.codec_context.codec.canonical_name == 'hevc':
        raise errors.DecodeError('interlaced', 'HEVC keeps its fields as frames: not read.')
      self.is_interlaced = True

  def _check_range(self, frame: av.VideoFrame) -> None:
    if not self.hdr and (kind := display.dynamic_range(frame)):
      self._refuse('hdr', f'its transfer function is {kind.upper()}; --hdr=tonemap takes it.')
      tone_map.matrix(frame)
      self.hdr = kind

  def _check_shape(self, frame: av.VideoFrame, turn: display.Orientation) -> None:
    aspect = self._video.stream.codec_context.sample_aspect_ratio or 1
    shape = frame.width, frame.height, turn, aspect
    if self._shape is None:
      self._shape = shape
      self.height, self.width = display.size(frame, self._video.aspect, turn)
    if shape != self._shape:
      raise errors.DecodeError(
        'size_changes',
        f'{_describe(self._shape)} becomes {_describe(shape)} at {frame.time:.3f} s.',
      )

  def _refuse(self, name: str, detail: str) -> None:
    if name not in self._takes:
      raise errors.DecodeError(name, detail)


def _describe(shape: tuple) -> str:
  width, height, orientation, aspect = shape
  turned = '' if orientation == display.UPRIGHT else ', turned or mirrored'
  return f'{width}x{height}{turned}{f", pixels {float(aspect):.3g} wide" if aspect != 1 else ""}'


def _probe_video(data: bytes, takes: Collection[str]) -> dict[str, Any]:
  damage: errors.DecodeError | None = None
  with containers.open_video(data) as video:
    if video.stream.codec_context.codec.canonical_name in ('hevc', 'av1'):
      display.check_dolby_vision(data)
    seen = _Frames(video, takes)
    try:
      for frame in frames_lib.decode_all(video, as_stored=True):
        seen.add(frame)
    except errors.DecodeError as error:
      if error.reason != 'decode':
        raise
      damage = error
  times = seen.times
  if damage is not None:
    # The last one may be damaged without the decoder's knowing. Behind it there is a frame, so that
    # decoding up to a time never reaches the damage.
    times = times[:-1]
    if len(times) < 2 or times[-1] - times[0] < MIN_PREFIX_SECS:
      raise damage
  if len(times) < 2:
    raise errors.DecodeError('single_frame', f'{len(times)} frames decode; a video has at least 2.')
  intervals = np.diff(times)
  if intervals.min() <= 0:
    raise damage or errors.DecodeError('timestamps', 'presentation times do not increase.')
  duration = times[-1] - times[0]
  return dict(
    num_frames=len(times), first_time=times[0], duration=duration, fps=(len(times) - 1) / duration,
    longest_gap=float(intervals.max()),
    is_variable_rate=bool(intervals.max() >= 1.5 * intervals.min()), height=seen.height,
    width=seen.width, is_truncated=damage is not None, is_interlaced=seen.is_interlaced,
    hdr=seen.hdr,
  )  # fmt: skip
