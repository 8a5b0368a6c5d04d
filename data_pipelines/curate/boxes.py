"""Boxes that detectors put around what they find."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np


def apart(boxes_N4: np.ndarray, scores_N: np.ndarray, overlap: float) -> np.ndarray:
  """Of boxes that overlap by more, as intersection over union, the one of the best score.

  Args:
    boxes_N4: left, top, right, bottom.
    scores_N: of each.
    overlap: of (0, 1).
  """
  sized_N4 = np.concatenate([boxes_N4[:, :2], boxes_N4[:, 2:] - boxes_N4[:, :2]], axis=1)
  kept = cv2.dnn.NMSBoxes(sized_N4.tolist(), scores_N.tolist(), 0.0, overlap)
  return boxes_N4[np.asarray(kept, np.int64).ravel()]


def columns(
  count: str, area: str, found: Sequence[np.ndarray], size: tuple[int, int]
) -> dict[str, Any]:
  """{count: how many there are in the frame of most, area: largest share of a frame they take}.

  Args:
    count, area: names of columns.
    found: boxes (N, 4) of each frame.
    size: height and width of the frames.
  """
  shares = []
  for boxes_N4 in found:
    covered = np.zeros(size, np.uint8)
    for left, top, right, bottom in np.maximum(np.round(boxes_N4), 0).astype(int).tolist():
      covered[top:bottom, left:right] = 1
    shares.append(float(covered.mean()))
  return {count: max(len(boxes) for boxes in found), area: max(shares)}
