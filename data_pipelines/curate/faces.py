"""Faces in frames, by a network of the user's: YuNet or CenterFace, in ONNX.

YuNet (Wu et al. 2023) runs in OpenCV's own class for it. CenterFace (Xu et al. 2020, arXiv
1911.03599) gives, for each 4x4 pixels, how sure it is of a face's centre, the logs of its height
and width over 4, and how far off the centre is; its ONNX files have one fixed size in their header,
which OpenCV passes over. Which one a file is, its outputs tell.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from data_pipelines.curate import boxes as boxes_lib

MIN_SCORE = 0.6
OVERLAP = 0.3
STRIDE = 4
MULTIPLE = 32  # Of which sides have to be.
NUM_OUTPUTS = {4: 'CenterFace', 12: 'YuNet'}


def check(given: str) -> None:
  """Raises ValueError unless it is a network of faces."""
  _finder(given)


def columns(frames: Sequence[np.ndarray], given: str) -> dict[str, Any]:
  """`faces` and `face_area`.

  Args:
    frames: uint8, RGB, of one size.
    given: file of the network.
  """
  found = [_finder(given)(np.ascontiguousarray(frame[..., ::-1])) for frame in frames]
  return boxes_lib.columns('faces', 'face_area', found, frames[0].shape[:2])


@functools.cache
def _finder(path: str) -> Callable[[np.ndarray], np.ndarray]:
  """uint8 BGR frame -> boxes (N, 4)."""
  if not epath.Path(path).exists():
    raise ValueError(f'--faces={path} does not exist: check the path.')
  data = np.frombuffer(epath.Path(path).read_bytes(), np.uint8)
  try:
    network = cv2.dnn.readNetFromONNX(data)
    kind = NUM_OUTPUTS.get(len(network.getUnconnectedOutLayersNames()))
  except cv2.error as error:
    raise ValueError(f'--faces={path} is no ONNX model that OpenCV reads.') from error
  if kind == 'YuNet':
    detector = cv2.FaceDetectorYN.create('onnx', data, np.zeros(0, np.uint8), (320, 320), MIN_SCORE)
    return functools.partial(_by_yunet, detector)
  if kind == 'CenterFace':
    return functools.partial(_by_centerface, network)
  raise ValueError(f'--faces={path} is neither YuNet (12 outputs) nor CenterFace (4).')


def _by_yunet(detector: cv2.FaceDetectorYN, frame_HWC: np.ndarray) -> np.ndarray:
  detector.setInputSize((frame_HWC.shape[1], frame_HWC.shape[0]))
  _, found = detector.detect(frame_HWC)
  if found is None:
    return np.zeros((0, 4))
  return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1)


def _by_centerface(network: cv2.dnn.Net, frame_HWC: np.ndarray) -> np.ndarray:
  height, width = (-(-side // MULTIPLE) * MULTIPLE for side in frame_HWC.shape[:2])
  network.setInput(cv2.dnn.blobFromImage(frame_HWC, 1.0, (width, height), (0, 0, 0), swapRB=True))
  outputs = network.forward(network.getUnconnectedOutLayersNames())
  heat_HW, sizes_2HW, offsets_2HW = (output[0] for output in outputs[:3])
  row_N, column_N = np.nonzero(heat_HW[0] > MIN_SCORE)
  if not len(row_N):
    return np.zeros((0, 4))
  sides_2N = np.exp(sizes_2HW[:, row_N, column_N]) * STRIDE
  centers_2N = (np.stack([row_N, column_N]) + offsets_2HW[:, row_N, column_N] + 0.5) * STRIDE
  low_2N, high_2N = centers_2N - sides_2N / 2, centers_2N + sides_2N / 2
  boxes_N4 = np.stack([low_2N[1], low_2N[0], high_2N[1], high_2N[0]], axis=1)
  boxes_N4 = boxes_lib.apart(boxes_N4, heat_HW[0, row_N, column_N], OVERLAP)
  scale = np.array([frame_HWC.shape[1] / width, frame_HWC.shape[0] / height])
  return boxes_N4 * np.tile(scale, 2)
