"""Which frames of a video to decode, and how to decode no others: chosen by presentation time.

The packets of a file tell the time of each frame before anything is decoded. So frames that nobody
wants and that no other frame refers to are skipped, and the file is opened without decoding its
start once more to guess what the packets tell anyway. Where packets lack times, or do not keep what
they promise, every frame is decoded and its own time is used.
"""

import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import av

from data_pipelines.media import clock as clock_lib
from data_pipelines.media import containers, cropping, display, errors, interlacing, random_access
from data_pipelines.media.containers import Video, open_video
from data_pipelines.media.errors import FFMPEG_ERRORS, DecodeError

T = TypeVar('T')

SEEK_AFTER_SECS = 1.0  # Below this, decoding from the start costs less than a seek risks.
MAX_FRAMES = 1_000_000  # Nine hours at 30 frames per second.
_LEAD_SECS = 1.0  # Interlaced frames need their neighbours: so much earlier decoding begins.


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
    timed = ((frame.time, (frame, aspect)) for frame, aspect in _decode_from(data, times[0]))
    for index, (frame, aspect) in enumerate(_nearest(timed, times)):
      if index >= served:
        yield index, frame, aspect


def _wanted_only(
  data: bytes, times: Sequence[float]
) -> Generator[tuple[int, av.VideoFrame, float], None, int]:
  """As at_times while all is well; returns how many of the times were served."""
  served = 0
  try:
    with open_video(data, containers.DECODE_NOTHING_AT_OPEN) as video:
      if video.fields or not clock_lib.is_told(video):
        raise _Doubt
      packets = _packets(video, times)
      shown = sorted(cast(int, packet.pts) for packet in packets if not packet.is_discard)
      tick = video.tick
      wanted = list(_nearest(((pts * tick, pts) for pts in shown), times))
      is_hdr = video.transfer in display.HDR
      aspect = 0.0
      crop = cropping.Cropper(video.crop)
      for frame in _decode_wanted(video.stream.codec_context, packets, wanted):
        if frame.is_corrupt or frame.interlaced_frame:
          raise _Doubt
        if is_hdr:
          frame = _as_declared(frame, video)
        aspect = aspect or video.aspect
        part = crop(frame) if served < len(times) and frame.pts == wanted[served] else frame
        while served < len(times) and frame.pts == wanted[served]:
          yield served, part, aspect
          served += 1
        if served == len(times):
          break
  except (DecodeError, _Doubt, *FFMPEG_ERRORS):
    pass
  return served


class _Doubt(Exception):  # noqa: N818
  """The packets do not tell enough to rely on them."""


def _packets(video: Video, times: Sequence[float]) -> list[av.Packet]:
  """Packets from a key frame before the first time to the frame after the last one."""
  container, stream = video.container, video.stream
  first, last = (int(time / video.tick) for time in (times[0], times[-1]))
  is_sought = times[0] - video.start_time > SEEK_AFTER_SECS
  if is_sought:
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
  is_late = packets and packets[0].pts > first and packets[0].pts != stream.start_time
  if not packets or not packets[0].is_keyframe or is_late:
    raise _Doubt
  if is_sought and not random_access.can_start(packets[0], stream.codec_context):
    raise _Doubt
  return packets


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


def decode_all(video: Video, as_stored: bool = False) -> Iterator[av.VideoFrame]:
  """Yields the frames in presentation order.

  Args:
    video: of `open_video`.
    as_stored: interlaced frames as they are; else they are deinterlaced.
  Raises:
    DecodeError: the file is damaged.
  """
  frames = _decode(video)
  yield from frames if as_stored else interlacing.progressive(frames, video.fields)


def _decode_from(data: bytes, time: float) -> Iterator[tuple[av.VideoFrame, float]]:
  """Yields (frame, width of a pixel over its height) from one at or before a time on."""
  lead = 0.0
  while True:
    with open_video(data) as video:
      sought = time - lead
      is_sought = sought - video.start_time > SEEK_AFTER_SECS
      frames = _decode(video, sought if is_sought else None)
      try:
        first = next(frames, None)
      except _Doubt:  # The long way: from the start.
        lead = math.inf
        continue
      if first is None:
        return
      if is_sought and not lead and (first.interlaced_frame or video.fields):
        lead = _LEAD_SECS
        continue
      for frame in interlacing.progressive(itertools.chain([first], frames), video.fields):
        yield frame, video.aspect
      return


def _decode(video: Video, sought: float | None = None) -> Iterator[av.VideoFrame]:
  """As decode_all with as_stored; raises _Doubt if it cannot begin at the time that is sought."""
  count = 0
  is_hdr = video.transfer in display.HDR
  clock, crop = clock_lib.Clock(video), cropping.Cropper(video.crop)
  try:
    for frame in _stored(video, sought):
      if frame.is_corrupt:
        raise DecodeError('decode', f'frame {count} is damaged.')
      if sought is not None and count == 0 and (frame.pts is None or frame.time > sought):
        raise _Doubt  # A broken index.
      if count == MAX_FRAMES:
        raise DecodeError('too_long', f'it has more than {MAX_FRAMES} frames.')
      count += 1
      yield from map(crop, clock(_as_declared(frame, video) if is_hdr else frame))
    yield from map(crop, clock.rest())
  except DecodeError:
    raise
  except FFMPEG_ERRORS as error:
    raise errors.of(error, 'decode', f'after {count} frames: ') from error


def _stored(video: Video, sought: float | None) -> Iterator[av.VideoFrame]:
  """The frames with the times that the library has of them."""
  if sought is not None:
    if not clock_lib.is_told(video):
      raise _Doubt
    video.container.seek(int(sought / video.tick), stream=video.stream)
  is_first = sought is not None
  for packet in video.container.demux(video.stream):
    if is_first and not random_access.can_start(packet, video.stream.codec_context):
      raise _Doubt
    is_first = False
    yield from packet.decode()


def _as_declared(frame: av.VideoFrame, video: Video) -> av.VideoFrame:
  """The frame with the container's transfer and matrix where it has none of its own."""
  if frame.color_trc == display.UNSPECIFIED:
    frame.color_trc = video.transfer
  if frame.colorspace == display.UNSPECIFIED:
    frame.colorspace = video.matrix
  return frame


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
