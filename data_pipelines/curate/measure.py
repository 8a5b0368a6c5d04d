"""What curation needs to know of a video or an image, from one pass over its frames.

Frames are scaled to 256 pixels' width by the decoder's own scaler. Each is looked at for cuts,
eight per second for motion, and a few are kept for the hashes and the hooks.
"""

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import av.video.reformatter
import cv2
import numpy as np

from data_pipelines.corpus import buckets, schema
from data_pipelines.curate import borders, motion, prints, shots
from data_pipelines.media import containers, crops, decode, display, errors
from data_pipelines.media import frames as frames_lib

_FLAGS = av.video.reformatter.Interpolation
WIDTH = 256
MOTION_FPS = 8.0
# Half the frames kept are dropped whenever there are twice as many: memory is bounded.
MAX_KEPT = 32
FIRST_KEPT_FPS = 4.0
POSITIONS = (0.1, 0.5, 0.9)  # Of a shot: the frames that stand for it.

Hooks = Mapping[str, str]
Functions = Mapping[str, Callable[[np.ndarray], float]]


@dataclasses.dataclass
class _Kept:
  """A frame that stands for its neighbourhood."""

  time: float
  frame_HWC: np.ndarray


def measure(data: bytes, media: str, fps: float, hooks: Hooks, end: float = math.inf) -> dict:
  """Columns of schema.CURATE that are measured.

  Args:
    data: an encoded file.
    media: 'video' or 'image'.
    fps: of the video, as ingest found it.
    hooks: column name -> 'module:function'; the function maps a frame (uint8, RGB, H W 3) to a
      number, and the column is the largest of three frames'.
    end: presentation time of the last frame that is looked at; what follows may be damaged.
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
  return _measure_video(data, fps, functions, end)


def load_hook(path: str) -> Callable[[np.ndarray], float]:
  """The function that 'module:function' names."""
  module, _, name = path.partition(':')
  try:
    return getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(f'hook {path!r} should be module:function: {error}.') from error


def _measure_video(data: bytes, fps: float, functions: Functions, end: float) -> dict:
  detector, meter = shots.ShotDetector(fps), motion.FlowMeter()
  times, motions, kept = [], [], []
  previous = None
  keep_every = 1 / FIRST_KEPT_FPS
  for time, frame_HWC in _small_frames(data):
    if time > end + 1e-6:
      break
    times.append(time)
    detector.add(frame_HWC)
    if previous is None or time - previous[0] >= 1 / MOTION_FPS - 1e-3:
      grey_HW = cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2GRAY)
      if previous is not None:
        found = meter(previous[1], grey_HW, time - previous[0])
        motions.append((previous[0], time, found))
      previous = (time, grey_HW)
      if not kept or time - kept[-1].time >= keep_every - 1e-3:
        kept.append(_Kept(time, frame_HWC))
        if len(kept) == 2 * MAX_KEPT:
          kept, keep_every = kept[::2], 2 * keep_every
  if len(times) < 2:
    raise errors.DecodeError('single_frame', f'{len(times)} frames decode.')
  cuts = detector.cuts()
  first, last = _longest_span(times, cuts)
  span = times[first], times[last]
  row: dict[str, Any] = dict(span_start=span[0], span_end=span[1], num_shots=len(cuts) + 1)
  row['span_gap'] = float(np.diff(times[first : last + 1]).max()) if last > first else 0.0
  row['cuts'] = [times[cut] for cut in cuts]
  row.update(_motion_within(span, motions))
  whole = [_nearest(kept, times[0] + p * (times[-1] - times[0])) for p in POSITIONS]
  within = [_nearest(kept, span[0] + p * (span[1] - span[0])) for p in POSITIONS]
  row.update(_of_frames([k.frame_HWC for k in within], functions))
  shot = [k.frame_HWC for k in kept if span[0] <= k.time <= span[1]]
  box = borders.content_box(shot or [k.frame_HWC for k in within])
  row.update(zip(schema.CONTENT, box or (None,) * 4, strict=True))
  # Of the whole video: a copy is one whatever its cuts.
  row.update(prints.of_frames([k.frame_HWC for k in whole]))
  return row


def _longest_span(times: Sequence[float], cuts: Sequence[int]) -> tuple[int, int]:
  """Its first and last frame: without a cut, and without a hole where frames are missing."""
  intervals = np.diff(times)
  holes = np.flatnonzero(intervals > buckets.HOLE * intervals.mean()) + 1
  starts = sorted({0, *cuts, *holes.tolist()})
  spans = list(zip(starts, [*(start - 1 for start in starts[1:]), len(times) - 1], strict=True))
  return max(spans, key=lambda span: times[span[1]] - times[span[0]])


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


def _motion_within(
  span: tuple[float, float], motions: Sequence[tuple[float, float, motion.Motion]]
) -> dict[str, float | None]:
  """Means over the pairs of frames inside the span: none crosses a cut."""
  inside = [m for m in motions if m[0] >= span[0] - 1e-6 and m[1] <= span[1] + 1e-6]
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


def _nearest(kept: Sequence[_Kept], time: float) -> _Kept:
  return min(kept, key=lambda k: abs(k.time - time))


def _of_frames(frames: Sequence[np.ndarray], functions: Functions) -> dict[str, Any]:
  """What is the same for images and videos."""
  row: dict[str, Any] = dict(border_area=min(borders.border_share(frame) for frame in frames))
  for name, function in functions.items():
    row[name] = max(float(function(frame_HWC[..., ::-1])) for frame_HWC in frames)
  return row
