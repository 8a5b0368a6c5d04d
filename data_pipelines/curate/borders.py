"""Plain borders of frames: letterboxes and pillarboxes, and what lies within them."""

from collections.abc import Sequence

import cv2
import numpy as np

NOISE = 0.05  # Share of a line of a box, where codecs let what is within shine through.
TOLERANCE = 12  # Of 255: JPEG and MPEG leave noise.
MIN_LINES = 2  # Of a small frame; thinner borders are left.
MIN_CONTENT = 0.2  # Share of a side: less is no content to crop to.
# Share of a border's inner edge at which pictures differ from it, in some frame at least. It tells
# a box, whose edge is straight, from a plain backdrop with something before it.
MIN_EDGE = 0.5


def border_share(frame_HWC: np.ndarray) -> float:
  """Share of a frame that plain borders take: letterboxes, and the padding of img2dataset."""
  height, width = frame_HWC.shape[:2]
  top, left, bottom, right = _plain_lines(frame_HWC)
  inside = max(0, height - top - bottom) * max(0, width - left - right)
  return 1 - inside / (height * width)


def content_box(frames: Sequence[np.ndarray]) -> tuple[float, float, float, float] | None:
  """(top, left, height, width) of what borders leave in all frames, as shares; None for the whole.

  Borders are of one colour from frame to frame, and their inner edges are straight. The box is a
  line within them on each side that has one, for scaling mixes the lines at an edge.

  Args:
    frames: uint8 (H, W, 3) each, small, of one shot.
  """
  height, width = frames[0].shape[:2]
  found = [(frame, _plain_lines(frame, NOISE)) for frame in frames]
  found = [(frame, lines) for frame, lines in found if lines[0] < height]  # Not those all plain.
  if not found:
    return None
  shown = [frame for frame, _ in found]
  lines = np.min([lines for _, lines in found], axis=0)
  lines[lines < MIN_LINES] = 0
  for side in range(4):
    if lines[side] and not _is_box(shown, side, lines):
      lines[side] = 0
  top, left, bottom, right = (count + (count > 0) for count in lines.tolist())
  inner = ((height - top - bottom) / height, (width - left - right) / width)
  if not lines.any() or min(inner) < MIN_CONTENT:
    return None
  return top / height, left / width, *inner


def _plain_lines(frame_HWC: np.ndarray, noise: float = 0.0) -> tuple[int, int, int, int]:
  """How many lines from the (top, left, bottom, right) are of the colour of the first.

  Args:
    frame_HWC: uint8.
    noise: share of a line that may be of another colour.
  """
  top = _plain_count(frame_HWC, 0, noise)
  if top == len(frame_HWC):
    return top, frame_HWC.shape[1], top, frame_HWC.shape[1]
  left, bottom, right = (_plain_count(frame_HWC, side, noise) for side in (1, 2, 3))
  return top, left, bottom, right


def _plain_count(frame_HWC: np.ndarray, side: int, noise: float) -> int:
  """How many lines from a side (0 to 3 for top, left, bottom, right) are of the colour of its first
  pixel; most often it is none.
  """
  axis = side % 2
  color = frame_HWC[((0, 0), (0, 0), (-1, 0), (0, -1))[side]].astype(int)
  is_alike_HW = cv2.inRange(
    np.ascontiguousarray(frame_HWC),
    (*(color - TOLERANCE).tolist(), 0), (*(color + TOLERANCE).tolist(), 0),
  )  # fmt: skip
  length = frame_HWC.shape[1 - axis]
  num_alike_N = cv2.reduce(is_alike_HW, 1 - axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() // 255
  is_end_N = (length - num_alike_N) / length > noise
  if side >= 2:
    is_end_N = is_end_N[::-1]
  return int(is_end_N.argmax()) if is_end_N.any() else len(is_end_N)


def _is_box(frames: Sequence[np.ndarray], side: int, lines_4: np.ndarray) -> bool:
  """Whether a side's border is of one colour in all frames, and has a straight edge in one.

  Args:
    frames: of one shot.
    side: 0 to 3 for top, left, bottom, right.
    lines_4: of the borders of all sides.
  """
  axis, count = side % 2, int(lines_4[side])
  sides = frames[0].shape[axis], frames[0].shape[1 - axis]
  if count >= sides[0] or lines_4[1 - axis] + lines_4[3 - axis] >= sides[1]:
    return False  # Nothing is within: a faint slope of colours, say.
  order = slice(None) if side < 2 else slice(None, None, -1)
  across = slice(lines_4[1 - axis], -lines_4[3 - axis] or None)  # Between the other two borders.
  turned = [np.moveaxis(frame, axis, 0).astype(np.int16)[order] for frame in frames]
  color = turned[0][0, 0]
  if any(np.abs(frame[0, 0] - color).max() > TOLERANCE for frame in turned):
    return False
  edges = [np.abs(frame[count : count + 2, across] - color).max(axis=(0, 2)) for frame in turned]
  return max((edge > TOLERANCE).mean() for edge in edges) >= MIN_EDGE
