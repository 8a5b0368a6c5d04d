"""People in frames, by a detector of the user's in ONNX, of the layout that YOLO's exports have.

Input: float32 (1, 3, S, S), RGB in [0, 1], the frame fitted into the upper left, grey elsewhere.
First output: (1, 4 + classes, N): centre x and y, width and height in pixels of the input, then a
score for each class, of which the first, as in COCO, is a person. It runs in onnxruntime.
"""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from data_pipelines.curate import boxes as boxes_lib

MIN_SCORE = 0.5
OVERLAP = 0.5
DEFAULT_SIZE = 640  # If the file leaves it open.
GREY = 114


def check(given: str) -> None:
  """Raises ValueError unless it is such a detector."""
  _boxes(given, np.zeros((64, 64, 3), np.uint8))


def columns(frames: Sequence[np.ndarray], given: str) -> dict[str, Any]:
  """`people` and `people_area`.

  Args:
    frames: uint8, RGB, of one size.
    given: file of the detector.
  """
  found = [_boxes(given, frame_HWC) for frame_HWC in frames]
  return boxes_lib.columns('people', 'people_area', found, frames[0].shape[:2])


@functools.cache
def _session(path: str) -> Any:
  import onnxruntime  # 60 MB, and only for those who have a network.

  if not epath.Path(path).exists():
    raise ValueError(f'--people={path} does not exist: check the path.')
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = options.inter_op_num_threads = 1  # Work is parallel over files.
  try:
    return onnxruntime.InferenceSession(epath.Path(path).read_bytes(), options)
  except Exception as error:  # onnxruntime's own classes, which have no common name.
    raise ValueError(f'--people={path} is no ONNX model: {error}') from error


def _boxes(path: str, frame_HWC: np.ndarray) -> np.ndarray:
  session = _session(path)
  given = session.get_inputs()[0]
  if len(given.shape) != 4 or given.shape[1] != 3:
    raise ValueError(f'--people={path} takes {given.shape}; it should take (1, 3, S, S).')
  size = given.shape[2] if isinstance(given.shape[2], int) else DEFAULT_SIZE
  scale = size / max(frame_HWC.shape[:2])
  height, width = (max(1, round(scale * side)) for side in frame_HWC.shape[:2])
  input_HWC = np.full((size, size, 3), GREY, np.uint8)
  input_HWC[:height, :width] = cv2.resize(frame_HWC, (width, height))
  input_BCHW = input_HWC.transpose(2, 0, 1)[None].astype(np.float32) / 255
  found = session.run(None, {given.name: input_BCHW})[0]
  if found.ndim != 3 or not 5 <= found.shape[1] < found.shape[2]:
    raise ValueError(f'--people={path} gives {found.shape}; it should give (1, 4 + classes, N).')
  centers_N2, sides_N2, scores_N = found[0, :2].T, found[0, 2:4].T, found[0, 4]
  boxes_N4 = np.concatenate([centers_N2 - sides_N2 / 2, centers_N2 + sides_N2 / 2], axis=1)
  is_sure = scores_N > MIN_SCORE
  return boxes_lib.apart(boxes_N4[is_sure], scores_N[is_sure], OVERLAP) / scale
