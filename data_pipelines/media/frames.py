"""Which frames of a video to decode, and how to decode no others: chosen by presentation time.

The packets of a file tell the time of each frame before anything is decoded. So frames that nobody
wants and that no other frame refers to are skipped, and the file is opened without decoding its
start once more to guess what the packets tell anyway. Where packets lack times, or do not keep what
they promise, every frame is decoded and its own time is used.
"""

import contextlib
import fractions
import io
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import av
from av.container import InputContainer

T = TypeVar('T')

SEEK_AFTER_SECS = 1.0  # Below this, decoding from the start costs less than a seek risks.
FFMPEG_ERRORS = (av.FFmpegError, ValueError, OSError, EOFError, MemoryError)
# Finding out the streams of a file decodes their first frames: 4 of the 40 ms that a clip takes.
_DECODE_NOTHING_AT_OPEN = [{'skip_frame': 'all'}] * 8


class DecodeError(ValueError):
  """Media that cannot be used: `reason` is a short code to count by."""

  def __init__(self, reason: str, detail: str = ''):
    super().__init__(f'{reason}: {detail}' if detail else reason)
    self.reason = reason
    self.detail = detail

  def __reduce__(self):  # Else it would not come back from another process.
    return type(self), (self.reason, self.detail)


def at_times(data: bytes, times: Sequence[float]) -> Iterator[tuple[int, av.VideoFrame, float]]:
  """Decodes the frames whose presentation times are nearest to the given ones.

  Args:
    data: an encoded video.
    times: ascending, in seconds, on the file's own clock.
  Yields:
    (index in times, frame, width of a pixel over its height); one frame may serve several times.
  Raises:
    DecodeError: the file is damaged, or ends before the last time.
  """
  served = yield from _wanted_only(data, times)
  if served < len(times):  # The long way gets it done, or says what is wrong.
    with open_video(data) as (container, stream, aspect):
      timed = ((frame.time, frame) for frame in decode_all(container, stream, times[0]))
      for index, frame in enumerate(_nearest(timed, times)):
        if index >= served:
          yield index, frame, aspect


def _wanted_only(
  data: bytes, times: Sequence[float]
) -> Generator[tuple[int, av.VideoFrame, float], None, int]:
  """As at_times while all is well; returns how many of the times were served."""
  served = 0
  try:
    with open_video(data, stream_options=_DECODE_NOTHING_AT_OPEN) as (container, stream, aspect):
      packets = _packets(container, stream, times)
      shown = sorted(cast(int, packet.pts) for packet in packets if not packet.is_discard)
      scale = float(_time_base(stream))
      wanted = list(_nearest(((pts * scale, pts) for pts in shown), times))
      for frame in _decode_wanted(stream.codec_context, packets, wanted):
        if frame.is_corrupt:
          raise _Doubt
        while served < len(times) and frame.pts == wanted[served]:
          yield served, frame, aspect
          served += 1
        if served == len(times):
          break
  except (DecodeError, _Doubt, *FFMPEG_ERRORS):
    pass
  return served


class _Doubt(Exception):  # noqa: N818
  """The packets do not tell enough to rely on them."""


def _packets(
  container: InputContainer, stream: av.VideoStream, times: Sequence[float]
) -> list[av.Packet]:
  """Packets from a key frame before the first time to the frame after the last one."""
  first, last = (int(time / _time_base(stream)) for time in (times[0], times[-1]))
  if times[0] - (stream.start_time or 0) * float(_time_base(stream)) > SEEK_AFTER_SECS:
    container.seek(first, stream=stream)
  packets, after_last = [], None
  for packet in container.demux(stream):
    if packet.size == 0:  # The end of the file.
      break
    if packet.pts is None or packet.dts is None or packet.is_corrupt:
      raise _Doubt
    packets.append(packet)
    if packet.pts > last and (after_last is None or packet.pts < after_last):
      after_last = packet.pts
    if after_last is not None and packet.dts >= after_last:
      break  # Frames come in decoding order: now none can be between.
  sought = packets and packets[0].pts > first and packets[0].pts != stream.start_time
  if not packets or not packets[0].is_keyframe or sought:
    raise _Doubt
  return packets


def _time_base(stream: av.VideoStream) -> fractions.Fraction:
  return cast(fractions.Fraction, stream.time_base)  # Only streams to be written may have none yet.


def _decode_wanted(
  context: av.VideoCodecContext, packets: Iterable[av.Packet], wanted: Iterable[int]
) -> Iterator[av.VideoFrame]:
  """Yields the frames of the packets that are wanted, and of those that others refer to."""
  missing = set(wanted)
  skips = None
  for packet in packets:
    if skips != (packet.pts not in missing):
      skips = packet.pts not in missing
      context.skip_frame = 'NONREF' if skips else 'DEFAULT'
    yield from context.decode(packet)
    missing.discard(packet.pts)
    if not missing:
      break
  yield from context.decode(None)


@contextlib.contextmanager
def open_video(
  data: bytes, **options: Any
) -> Generator[tuple[InputContainer, av.VideoStream, float], None, None]:
  """Yields (container, its first video stream, width of a pixel over its height).

  Raises:
    DecodeError: no video can be read.
  """
  try:
    if not data:
      raise DecodeError('open', 'the file is empty.')
    # An mp4 is known by its first box; FFmpeg would try all its formats.
    layout = 'mp4' if data[4:8] == b'ftyp' else None
    container = av.open(io.BytesIO(data), 'r', layout, metadata_errors='replace', **options)
  except FFMPEG_ERRORS as error:
    raise error if isinstance(error, DecodeError) else DecodeError('open', str(error)) from error
  with container:
    if not container.streams.video:
      raise DecodeError('no_video', 'there is no video stream.')
    stream = container.streams.video[0]
    stream.thread_count = 1  # The loader's parallelism is over examples.
    yield container, stream, float(stream.sample_aspect_ratio or 1)


def decode_all(
  container: InputContainer, stream: av.VideoStream, from_time: float | None = None
) -> Iterator[av.VideoFrame]:
  """Yields the frames in presentation order.

  Args:
    container: of `open_video`.
    stream: likewise.
    from_time: presentation time, seconds; the first frame is not later. None is the start.
  Raises:
    DecodeError: the file is damaged.
  """
  count = 0
  start = (stream.start_time or 0) * float(_time_base(stream))
  sought = from_time if from_time is not None and from_time - start > SEEK_AFTER_SECS else None
  try:
    if sought is not None:
      container.seek(int(sought / _time_base(stream)), stream=stream)
    for frame in container.decode(stream):
      if frame.pts is None:
        raise DecodeError('timestamps', f'frame {count} has no presentation time.')
      if frame.is_corrupt:
        raise DecodeError('decode', f'frame {count} is damaged.')
      if sought is not None and count == 0 and frame.time > sought:
        # A broken index: take the long way.
        container.seek(0)
        yield from decode_all(container, stream)
        return
      count += 1
      yield frame
  except FFMPEG_ERRORS as error:
    if isinstance(error, DecodeError):
      raise
    raise DecodeError('decode', f'after {count} frames: {error}') from error


def _nearest(timed: Iterable[tuple[float, T]], times: Iterable[float]) -> Iterator[T]:
  """For each of the ascending times, the item of ascending (time, item) whose time is nearest."""
  wanted = iter(times)
  time = next(wanted)
  before_time: float | None = None
  before: Any = None  # An item, once there is a time.
  gap = 0.0
  for item_time, item in timed:
    while item_time >= time:
      is_before = before_time is not None and time - before_time <= item_time - time
      yield before if is_before else item
      time = next(wanted, None)
      if time is None:
        return
    gap = item_time - before_time if before_time is not None else 0.0
    before_time, before = item_time, item
  # The last frame stands for times up to half an interval after it.
  while before_time is not None and time - before_time <= 0.5 * gap + 1e-3:
    yield before
    time = next(wanted, None)
    if time is None:
      return
  end = 'no frames' if before_time is None else f'{before_time:.3f} s'
  raise DecodeError('too_short', f'it ends at {end}; a frame at {time:.3f} s is wanted.')
