"""What curation needs to know of a video or an image, from one pass over its frames.

Frames are scaled to 256 pixels' width by the decoder's own scaler. Each is looked at for cuts,
eight per second for motion, and a few are kept for the hashes and the hooks.
"""

import bisect
import importlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import av.video.reformatter
import cv2
import numpy as np

from data_pipelines.corpus import buckets, schema
from data_pipelines.curate import borders, kept, motion, prints, shots
from data_pipelines.media import containers, crops, decode, display, errors
from data_pipelines.media import frames as frames_lib

_FLAGS = av.video.reformatter.Interpolation
WIDTH = 256
MOTION_FPS = 8.0
POSITIONS = (0.1, 0.5, 0.9)  # Of a shot: the frames that stand for it.
MIN_SPAN_SECS = 0.5  # Shorter ones are not measured, unless none is longer.

Hooks = Mapping[str, str]
Functions = Mapping[str, Callable[[np.ndarray], float]]
_TimedMotion = tuple[float, float, motion.Motion]  # And the times of its two frames, seconds.


def measure(
  data: bytes,
  media: str,
  fps: float,
  hooks: Hooks,
  end: float = math.inf,
  transitions: Sequence[Mapping[str, float]] | None = None,
) -> dict:
  """Columns of schema.CURATE that are measured.

  Args:
    data: an encoded file.
    media: 'video' or 'image'.
    fps: of the video, as ingest found it.
    hooks: column name -> 'module:function'; the function maps a frame (uint8, RGB, H W 3) to a
      number, and the column is the largest of three frames'.
    end: presentation time of the last frame that is looked at; what follows may be damaged.
    transitions: between shots by a network (schema.SHOTS), in place of those found here.
  Raises:
    errors.DecodeError: if the file is damaged.
  """
  cv2.setNumThreads(1)  # Work is parallel over files.
  functions = {name: load_hook(path) for name, path in hooks.items()}
  if media == 'image':
    frame_HWC = np.ascontiguousarray(np.asarray(decode.decode_image(data))[..., ::-1])
    small_HWC = _shrink(frame_HWC)
    row: dict[str, Any] = dict(span_start=0.0, span_end=0.0, num_shots=1, cuts=[])
    return row | _of_frames([small_HWC], functions) | prints.of_frames([small_HWC])
  return _measure_video(data, fps, functions, end, transitions)


def load_hook(path: str) -> Callable[[np.ndarray], float]:
  """The function that 'module:function' names."""
  module, _, name = path.partition(':')
  try:
    return getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(f'hook {path!r} should be module:function: {error}.') from error


def _measure_video(
  data: bytes,
  fps: float,
  functions: Functions,
  end: float,
  transitions: Sequence[Mapping[str, float]] | None,
) -> dict:
  detector, meter, keeper = shots.ShotDetector(fps), motion.FlowMeter(), kept.Keeper()
  times, motions = [], []
  previous = None
  for time, frame_HWC in _small_frames(data):
    if time > end + 1e-6:
      break
    times.append(time)
    for cut in detector.add(frame_HWC):
      keeper.cut(times[cut])
    if previous is None or time - previous[0] >= 1 / MOTION_FPS - 1e-3:
      grey_HW = cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2GRAY)
      if previous is not None:
        found = meter(previous[1], grey_HW, time - previous[0])
        motions.append((previous[0], time, found))
      previous = (time, grey_HW)
      keeper.offer(time, frame_HWC)
  if len(times) < 2:
    raise errors.DecodeError('single_frame', f'{len(times)} frames decode.')
  numbers = None
  if transitions is not None:
    ends = np.reshape([(found['start'], found['end']) for found in transitions], (-1, 2))
    numbers = [(a, b) for a, b in np.searchsorted(times, ends - 1e-6).tolist()]
  found, frames = detector.finish(numbers).shots, keeper.frames()
  row: dict[str, Any] = dict(num_shots=len(found), cuts=[times[start] for start, _ in found[1:]])
  whole = [k.frame_HWC for k in _at_positions(frames, times[0], times[-1])]
  row |= prints.of_frames(whole)  # Of the whole video: a copy is one whatever its cuts.
  spans = []
  for span_id, (first, last) in enumerate(_spans(times, found)):
    gap = float(np.diff(times[first : last + 1]).max()) if last > first else 0.0
    span = dict(span_id=span_id, span_start=times[first], span_end=times[last], span_gap=gap)
    spans.append(span | _of_span(times[first], times[last], motions, frames, functions))
  if not spans:  # All of it is plain.
    return row | _of_frames(whole, functions) | dict(spans=[])
  longest = longest_of(spans)
  row |= {name: longest[name] for name, _ in schema.SPAN if name in longest}
  others = {name: function for name, function in functions.items() if name not in longest}
  within = _at_positions(frames, longest['span_start'], longest['span_end'])
  return row | _hooked([k.frame_HWC for k in within], others) | dict(spans=spans)


def longest_of(spans: Sequence[dict]) -> dict:
  """The first of the longest spans."""
  return max(spans, key=lambda span: span['span_end'] - span['span_start'])


def _spans(times: Sequence[float], found: Sequence[shots.Span]) -> list[tuple[int, int]]:
  """First and last frames of what is of one shot, and without a hole where frames are missing."""
  intervals = np.diff(times)
  holes = np.flatnonzero(intervals > buckets.HOLE * intervals.mean()) + 1
  spans = []
  for start, stop in found:
    within = [start, *holes[(holes > start) & (holes < stop)].tolist(), stop]
    spans += [(a, b - 1) for a, b in itertools.pairwise(within)]
  secs = [times[last] - times[first] for first, last in spans]
  least = min(MIN_SPAN_SECS, max(secs, default=0.0))
  return [span for span, length in zip(spans, secs, strict=True) if length >= least]


def _of_span(
  start: float,
  end: float,
  motions: Sequence[_TimedMotion],
  frames: Sequence[kept.Kept],
  functions: Functions,
) -> dict[str, Any]:
  """What schema.SPAN has besides the span's times."""
  row = _motion_within((start, end), motions)
  shot = [k for k in frames if start <= k.time <= end] or frames
  within = [k.frame_HWC for k in _at_positions(shot, start, end)]
  row |= _of_frames(within, {name: functions[name] for name in functions if name == 'text_area'})
  box = borders.content_box([k.frame_HWC for k in shot] if shot is not frames else within)
  return row | dict(zip(schema.CONTENT, box or (None,) * 4, strict=True))


def _small_frames(data: bytes) -> Iterator[tuple[float, np.ndarray]]:
  """Yields (presentation time, uint8 BGR frame of 256 pixels' width), upright and as trained on.

  All are of the first one's shape: should a later frame have another, its centre is cut.
  """
  convert = decode.Converter('bgr24')
  shape = None
  with containers.open_video(data) as video:
    for frame in frames_lib.decode_all(video):
      turn = display.orientation(frame)
      height, width = display.size(frame, video.aspect, turn)
      shape = shape or (max(16, round(WIDTH * height / width)), WIDTH)
      size = shape
      if shape[0] != max(16, round(WIDTH * height / width)):
        size = crops.scaled_size(height, width, *shape)
      small_HWC = convert(frame, *size, _FLAGS.FAST_BILINEAR, turn)
      yield frame.time, crops.center_crop(small_HWC, *shape).copy()


def _shrink(frame_HWC: np.ndarray) -> np.ndarray:
  height = max(16, round(WIDTH * frame_HWC.shape[0] / frame_HWC.shape[1]))
  return cv2.resize(frame_HWC, (WIDTH, height), interpolation=cv2.INTER_AREA)


def _motion_within(span: tuple[float, float], motions: Sequence[_TimedMotion]) -> dict[str, float]:
  """Means over the pairs of frames inside the span: none crosses a cut."""
  first = bisect.bisect_left(motions, span[0] - 1e-6, key=lambda found: found[0])
  last = bisect.bisect_right(motions, span[1] + 1e-6, key=lambda found: found[1])
  inside = motions[first:last]
  if not inside:
    return {}
  seconds_N = np.array([end - start for start, end, _ in inside])
  pan, shake = motion.camera_path(np.array([found.shift for *_, found in inside]), seconds_N)
  mean = {
    name: float(np.mean([getattr(found, name) for *_, found in inside]))
    for name in ('total', 'camera', 'objects', 'zoom', 'roll')
  }
  return dict(
    motion=mean['total'], camera_motion=mean['camera'], object_motion=mean['objects'],
    pan=pan, zoom=mean['zoom'], roll=mean['roll'], shake=shake,
  )  # fmt: skip


def _at_positions(
  frames: Sequence[kept.Kept], start: float, end: float, positions: Sequence[float] = POSITIONS
) -> list[kept.Kept]:
  return [kept.nearest(frames, start + p * (end - start)) for p in positions]


def _of_frames(frames: Sequence[np.ndarray], functions: Functions) -> dict[str, Any]:
  """What is the same for images and videos."""
  shares = [borders.border_share(frame_HWC) for frame_HWC in frames]
  return dict(border_area=min(shares)) | _hooked(frames, functions)


def _hooked(frames: Sequence[np.ndarray], functions: Functions) -> dict[str, float]:
  """The columns that hooks fill."""
  return {
    name: max(float(function(frame_HWC[..., ::-1])) for frame_HWC in frames)
    for name, function in functions.items()
  }
