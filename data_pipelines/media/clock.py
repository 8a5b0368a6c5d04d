"""When frames are shown whose file does not say so of each, as ffmpeg's own program has it.

AVI, ASF and MXF keep the times of decoding, MPEG program streams those of some frames, raw streams
none: where a codec shows frames in another order, what FFmpeg's library makes of these as times of
presentation is wrong. Matroska loses times below zero. But the frames themselves come in order.
"""

from collections.abc import Iterator

import av
from av.format import Flags

from data_pipelines.media.containers import Video

_OF_DECODING = ('avi', 'asf', 'mxf', 'mpeg')
_WELL_PARSED = ('mpeg1video', 'mpeg2video', 'mpeg4')  # Of these the library knows the order.
_MAX_WAITING = 64  # Frames at the start, whose times only a later one tells.


def is_told(video: Video) -> bool:
  """Whether packets say when their frames are shown, if they say anything."""
  form, context = video.container.format, video.stream.codec_context
  if form.flags & Flags.no_timestamps.value:
    return False
  is_known = form.name != 'asf' and context.codec.canonical_name in _WELL_PARSED
  return form.name not in _OF_DECODING or not context.has_b_frames or is_known


class Clock:
  """Gives the frames of a video their presentation times, as `frame.pts`.

  Args:
    video: whose frames come in turn; from the first on, unless `is_told`.
  """

  def __init__(self, video: Video):
    self._is_told = is_told(video)
    self._usual = max(1, round(1 / (float(video.stream.guessed_rate or 25) * video.tick)))
    self._last: int | None = None
    self._least_interval = 0
    self._waiting: list[av.VideoFrame] = []

  def __call__(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
    """Yields the frames, up to this one, whose times are known now."""
    told = frame.pts if self._is_told else self._decoding_time(frame)
    is_start = self._is_told and self._last is None
    if told is None and is_start and len(self._waiting) < _MAX_WAITING:
      self._waiting.append(frame)
      return
    if told is not None and self._waiting:
      self._last = told - sum(map(self._interval, [*self._waiting, frame]))
    yield from self.rest()
    yield self._at(frame, told)

  def rest(self) -> Iterator[av.VideoFrame]:
    """Yields, at the end, the frames that no other told the times of."""
    waiting, self._waiting = self._waiting, []
    for frame in waiting:
      yield self._at(frame, None)

  def _at(self, frame: av.VideoFrame, told: int | None) -> av.VideoFrame:
    if told is None:
      told = 0 if self._last is None else self._last + self._interval(frame)
    elif self._last is not None and told > self._last:
      self._least_interval = min(told - self._last, self._least_interval or told - self._last)
    frame.pts = self._last = told
    return frame

  def _decoding_time(self, frame: av.VideoFrame) -> int | None:
    """Of the packet that was decoded last: of all but the last frames, one delay late."""
    if self._last is None:
      return frame.pts if frame.dts is None else frame.dts
    return None if frame.dts is None or frame.dts <= self._last else frame.dts

  def _interval(self, frame: av.VideoFrame) -> int:
    """In the stream's unit; AVI says for a frame's duration how precise its times are."""
    return max(frame.duration, self._least_interval) or self._usual
