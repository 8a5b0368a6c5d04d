"""Where one camera shot ends and the next begins, and which frames show nothing.

Hard cuts are PySceneDetect's adaptive detector's: it compares each frame's change with that of its
neighbours, so fast motion is no cut; what is back a moment later was a flash. Gradual transitions
(dissolves, fades, wipes) are found in thumbnails by windows of several lengths. Across one the
picture changes much more than beside it, and on a straight way: each frame lies between the two
ends. Motion leads through other pictures, and goes on beside the window.

Frames of one colour belong to no shot, nor do still titles on black.
"""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np
import scenedetect
from scenedetect import detectors

THRESHOLD = 3.0
MIN_SHOT_SECS = 0.6

# Grey levels are means over a thumbnail of 16x9: there small things move little. The thresholds
# were chosen on benchmarks/joins, half 0.
THUMBNAIL = (16, 9)
MAX_THUMBNAIL_FPS = 30.0
WINDOWS_SECS = (0.24, 0.32, 0.48, 0.64, 0.96, 1.28, 1.6)
MIN_CHANGE = 20.0  # Grey levels between the ends of a window,
MIN_RELATIVE_CHANGE = 0.75  # and over the deviation of the end that has less of it.
MIN_STRAIGHTNESS = 0.55  # That change over the length of the way, in four steps.
MIN_CONTRAST = 2.0  # That change over the change in the half window before and after.
MAX_RESIDUAL = 0.6  # How far the middle frame is from the line between the ends, of the change.
MAX_STEP = 0.42  # Of one frame, of the change; else it is a cut.
END = 0.04  # A transition begins and ends this far from the ends' pictures; and it is made longer
MARGIN = 0.1  # by this share at either side, for motion hides where it begins.
FLASH_SECS = 0.4
MAX_FLASH_CHANGE = 0.35  # Over a flash, of the change at its edge.
GAP_SECS = 0.12  # Transitions closer than this are one.

# Of a frame of 64x36, where codecs' noise and grain are averaged out.
PLAIN_TOLERANCE = 8  # Grey levels from the median, in any channel.
MAX_OTHER = 0.01  # Share of a plain frame that may be of another colour: a channel's logo.
BLACK = 20  # Grey levels.
MIN_BLACK = 0.85  # Share of a title's frame,
BLACK_TOLERANCE = 3  # which is evenly so, as no night is.
STILL = 2  # Grey levels of any cell of the thumbnail, between neighbours.

Span = tuple[int, int]  # First frame, and the one after the last.


@dataclasses.dataclass(frozen=True)
class Shots:
  """What a video consists of.

  Attributes:
    shots: stretches without a transition or plain frames.
    transitions: (first frame that is no longer the shot before alone, first frame of the next); a
      hard cut has one frame twice.
    plain: stretches of frames of one colour, and of titles.
  """

  shots: list[Span]
  transitions: list[Span]
  plain: list[Span]


class ShotDetector:
  """Finds the shots of frames given one by one; 450 bytes of each are held."""

  def __init__(self, fps: float):
    self._fps = float(fps)
    self._detector = detectors.AdaptiveDetector(
      adaptive_threshold=THRESHOLD, min_scene_len=max(1, round(MIN_SHOT_SECS * fps))
    )
    self._cuts: list[int] = []
    self._thumbnails: list[np.ndarray] = []
    self._looks: list[int] = []

  def add(self, frame_HWC: np.ndarray) -> list[int]:
    """Takes the next frame: uint8, BGR, 256 pixels wide; returns cuts, a few frames late."""
    number = len(self._thumbnails)
    half_HWC = cv2.resize(frame_HWC, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    timecode = scenedetect.FrameTimecode(number, self._fps)
    cuts = [cut.frame_num for cut in self._detector.process_frame(timecode, half_HWC)]
    small_HWC = cv2.resize(half_HWC, (64, 36), interpolation=cv2.INTER_AREA)
    self._thumbnails.append(cv2.resize(small_HWC, THUMBNAIL, interpolation=cv2.INTER_AREA))
    self._looks.append(_look(small_HWC))
    self._cuts += cuts
    return cuts

  def finish(self, transitions: list[Span] | None = None) -> Shots:
    """The shots of all frames so far.

    Args:
      transitions: take these, which a network has found, in place of the own.
    """
    count = len(self._thumbnails)
    thumbnails_FD = np.stack(self._thumbnails).reshape(count, -1)
    flash = round(FLASH_SECS * self._fps)
    plain = _plain(np.array(self._looks), thumbnails_FD, flash)
    gap = round(GAP_SECS * self._fps)
    if transitions is None:
      transitions = _merged(self._transitions(thumbnails_FD, flash), gap)
    edges = _merged([*transitions, *plain], gap)
    starts = [0, *(stop for _, stop in edges)]
    stops = [*(start for start, _ in edges), count]
    shots = [span for span in zip(starts, stops, strict=True) if span[1] > span[0]]
    return Shots(shots, transitions, plain)

  def _transitions(self, thumbnails_FD: np.ndarray, flash: int) -> list[Span]:
    every = max(1, round(self._fps / MAX_THUMBNAIL_FPS))
    gradual = _gradual(thumbnails_FD[::every], self._fps / every)
    cuts = [cut for cut in self._cuts if not _is_flash(thumbnails_FD, cut, flash)]
    return [
      *((every * start, every * stop) for start, stop in gradual),
      *((cut, cut) for cut in cuts),
    ]


def _look(small_HWC: np.ndarray) -> int:
  """2 for a frame of one colour, 1 for one that is black but for little, else 0."""
  mean = np.array(cv2.mean(small_HWC)[:3])
  # Of a plain frame the mean is that near to the median.
  around = PLAIN_TOLERANCE + 255 * MAX_OTHER
  may_be_plain = _share(small_HWC, mean - around, mean + around) >= 1 - MAX_OTHER
  is_black = _share(small_HWC, np.zeros(3), np.full(3, BLACK)) >= MIN_BLACK
  if not may_be_plain and not is_black:
    return 0
  median = np.median(small_HWC.reshape(-1, 3), axis=0)
  if _share(small_HWC, median - PLAIN_TOLERANCE, median + PLAIN_TOLERANCE) >= 1 - MAX_OTHER:
    return 2
  evenly = _share(small_HWC, median - BLACK_TOLERANCE, median + BLACK_TOLERANCE)
  return int(is_black and evenly >= MIN_BLACK)


def _share(small_HWC: np.ndarray, low_3: np.ndarray, high_3: np.ndarray) -> float:
  """Share of the pixels whose channels lie between the bounds, these included."""
  is_in_HW = cv2.inRange(small_HWC, (*low_3.tolist(), 0), (*high_3.tolist(), 0))
  return cv2.countNonZero(is_in_HW) / is_in_HW.size


def _plain(look_F: np.ndarray, thumbnails_FD: np.ndarray, flash: int) -> list[Span]:
  """Stretches of plain frames that are no flash, and of black ones that hardly move."""
  step_F = np.abs(np.diff(thumbnails_FD.astype(np.int16), axis=0)).max(axis=1)
  titles = [
    span for span in _runs(look_F > 0) if np.median([255, *step_F[span[0] : span[1] - 1]]) <= STILL
  ]
  plain = [
    (start, stop)
    for start, stop in _runs(look_F == 2)
    if not (thumbnails_FD[start].mean() > BLACK and _is_flash(thumbnails_FD, start, flash))
  ]
  return _merged([*titles, *plain], 0)


def _runs(is_in_F: np.ndarray) -> list[Span]:
  edges = np.flatnonzero(np.diff(np.concatenate([[0], is_in_F.astype(np.int8), [0]])))
  return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _merged(spans: Iterable[Span], gap: int) -> list[Span]:
  """Sorted; those that overlap, or are at most `gap` frames apart, are one."""
  found: list[Span] = []
  for start, stop in sorted(spans):
    if found and start <= found[-1][1] + gap:
      found[-1] = found[-1][0], max(stop, found[-1][1])
    else:
      found.append((start, stop))
  return found


def _is_flash(thumbnails_FD: np.ndarray, cut: int, reach: int) -> bool:
  """Whether a picture from before a cut is there again within `reach` frames."""
  before_FD = thumbnails_FD[max(0, cut - reach) : cut].astype(np.float32)
  after_FD = thumbnails_FD[cut : cut + reach].astype(np.float32)
  if not len(before_FD):
    return False
  change = np.abs(after_FD[0] - before_FD[-1]).mean()
  # It begins at the cut, or ends there.
  again = [*np.abs(after_FD[1:] - before_FD[-1]), *np.abs(before_FD[:-1] - after_FD[0])]
  return min((other.mean() for other in again), default=np.inf) < MAX_FLASH_CHANGE * change


def _gradual(thumbnails_FD: np.ndarray, fps: float) -> list[Span]:
  """Gradual transitions, of windows that fit best first."""
  pixels_FD = thumbnails_FD.astype(np.float32)
  step_F = np.abs(np.diff(pixels_FD, axis=0)).mean(axis=1)
  windows: list[tuple[float, int, int]] = []
  for size in sorted({max(4, 2 * round(seconds * fps / 2)) for seconds in WINDOWS_SECS}):
    windows += _fitting(pixels_FD, step_F, size)
  chosen: list[Span] = []
  for _, start, stop in sorted(windows, reverse=True):
    if all(stop <= other[0] or start >= other[1] for other in chosen):
      chosen.append((start, stop))
  return sorted(_within(pixels_FD, *window) for window in chosen)


def _fitting(pixels_FD: np.ndarray, step_F: np.ndarray, size: int) -> list[tuple[float, int, int]]:
  """(score, first, last) of the windows of a size over which there may be a transition."""
  count, half = len(pixels_FD), size // 2
  first_N = np.arange(1, count - size - 1)
  change = lambda a, b: np.abs(pixels_FD[a] - pixels_FD[b]).mean(axis=1)  # noqa: E731
  change_N = change(first_N, first_N + size) if len(first_N) else np.zeros(0)
  deviation_F = pixels_FD.std(axis=1)
  least_N = np.minimum(deviation_F[first_N], deviation_F[first_N + size])
  changes_N = change_N > np.maximum(MIN_CHANGE, MIN_RELATIVE_CHANGE * least_N)
  first_N, change_N = first_N[changes_N], change_N[changes_N]
  if not len(first_N):
    return []
  last_N = first_N + size
  stops = [first_N + round(i * size / 4) for i in range(5)]
  way_N = np.sum([change(a, b) for a, b in zip(stops, stops[1:], strict=False)], axis=0)
  # At the video's ends less is beside a window, and what changes there counts for more.
  before_N, after_N = np.minimum(half, first_N), np.minimum(half, count - 1 - last_N)
  beside_N = np.maximum(
    change(first_N - before_N, first_N) * half / before_N,
    change(last_N, last_N + after_N) * half / after_N,
  )
  line_ND = pixels_FD[last_N] - pixels_FD[first_N]
  middle_ND = pixels_FD[first_N + half] - pixels_FD[first_N]
  along_N = np.clip((line_ND * middle_ND).sum(axis=1) / np.square(line_ND).sum(axis=1), 0, 1)
  residual_N = np.abs(middle_ND - along_N[:, None] * line_ND).mean(axis=1) / change_N
  straightness_N, contrast_N = change_N / way_N, change_N / (beside_N + 1)
  steepest_N = np.lib.stride_tricks.sliding_window_view(step_F, size)[first_N].max(axis=1)
  fits_N = straightness_N > MIN_STRAIGHTNESS
  fits_N &= (contrast_N > MIN_CONTRAST) & (residual_N < MAX_RESIDUAL)
  fits_N &= steepest_N < MAX_STEP * change_N
  score_N = straightness_N * np.minimum(contrast_N, 6) * (1 - residual_N)
  found = zip(score_N[fits_N], first_N[fits_N], last_N[fits_N], strict=True)
  return [(float(score), int(first), int(last)) for score, first, last in found]


def _within(pixels_FD: np.ndarray, first: int, last: int) -> Span:
  """The part of a window in which the picture is neither of its ends', and a margin."""
  line_D = pixels_FD[last] - pixels_FD[first]
  along_F = (pixels_FD[first : last + 1] - pixels_FD[first]) @ line_D / (line_D @ line_D)
  start = first + int(np.flatnonzero(along_F > END)[0])
  stop = first + int(np.flatnonzero(along_F < 1 - END)[-1]) + 1
  margin = 1 + int(MARGIN * (stop - start))
  return max(0, start - margin), min(len(pixels_FD), stop + margin)
