"""How much moves between two frames, and whether it is the camera or what it films.

Dense optical flow (DIS, Kroeger et al. 2016) on small grey frames. The camera's part is the
homography that RANSAC finds in it, as a camera that pans, tilts, zooms or rolls moves a far or flat
scene by one; what is left is the objects'. The unit is the frame's diagonal per second, so that
neither size nor rate of a video changes the number. What the camera does, shifts, zooms or rolls,
is read off the homography at the frame's centre.
"""

import dataclasses

import cv2
import numpy as np
from cv2.typing import MatLike

REDUCE = 4  # Flow is averaged over blocks of this many pixels: it is no finer.
INLIERS_WITHIN = 1.0 / REDUCE  # One pixel of the frame.
STILL_WITHIN = 0.25 / REDUCE  # Slower pans are below the flow's own noise.
SIMPLER_IF = 0.8  # A model with fewer parameters explains this share of the best one's points.
MIN_GRADIENT = 1.0  # Grey levels per pixel. Flow of flatter parts is a guess from their borders.
# Of the cells along the frame's border, 6 by 6 in all: what moves as one in fewer is an object.
CELLS = 6
MIN_BORDER_CELLS = 0.45
SHAKE_SECS = 1.0  # What changes the camera's course faster is shake.


@dataclasses.dataclass(frozen=True)
class Motion:
  """Motion between two frames, in diagonals per second.

  Attributes:
    total: mean length of the flow.
    camera: the part of it that the homography explains: mean length of the flow less that of its
      difference from the homography's, where this is positive. Never more than `total`.
    objects: mean length of that difference.
    shift: (right, down) of what is at the frame's centre, by the camera.
    zoom: growth there by the camera, log per second: positive where it comes nearer.
    roll: turn there by the camera, radians per second, from right to down.
  """

  total: float
  camera: float
  objects: float
  shift: tuple[float, float]
  zoom: float
  roll: float


class FlowMeter:
  """Measures motion between grey frames of one size."""

  def __init__(self):
    # FAST is within 2 % of MEDIUM's mean flow at a third of its cost.
    self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

  def __call__(self, before_HW: np.ndarray, after_HW: np.ndarray, seconds: float) -> Motion:
    """Motion from one frame to another.

    Args:
      before_HW: uint8, grey.
      after_HW: likewise, of the same size.
      seconds: between the two.
    """
    # pyrefly: ignore[no-matching-overload]  # Its stubs want an array to write to; None makes one.
    flow_HW2 = _reduced(self._flow.calc(before_HW, after_HW, None))
    textured_HW = _textured(before_HW)
    homography = _homography(flow_HW2, textured_HW)
    camera_HW2 = _flow_of(homography, flow_HW2.shape[:2])
    flow_HW2 = np.where(textured_HW[..., None], flow_HW2, camera_HW2)
    per_second = 1 / (np.hypot(*before_HW.shape) * seconds)
    length_HW, residual_HW = _length(flow_HW2), _length(flow_HW2 - camera_HW2)
    shift, growth, turn = _at_center(homography, flow_HW2.shape[:2])
    return Motion(
      total=float(length_HW.mean() * per_second),
      camera=float(np.maximum(length_HW - residual_HW, 0).mean() * per_second),
      objects=float(residual_HW.mean() * per_second),
      shift=(float(shift[0]) * REDUCE * per_second, float(shift[1]) * REDUCE * per_second),
      zoom=growth / seconds,
      roll=turn / seconds,
    )


def _reduced(values_HW: np.ndarray) -> np.ndarray:
  height, width = values_HW.shape[:2]
  size = (width // REDUCE, height // REDUCE)
  return cv2.resize(values_HW, size, interpolation=cv2.INTER_AREA)


def _textured(grey_HW: np.ndarray) -> np.ndarray:
  """Where there is something to see move, reduced."""
  dx, dy = cv2.spatialGradient(cv2.GaussianBlur(grey_HW, (3, 3), 0))
  gradient = cv2.magnitude(dx.astype(np.float32), dy.astype(np.float32)) / 8
  reach = np.ones((2 * REDUCE + 1, 2 * REDUCE + 1), np.uint8)
  return _reduced(cv2.dilate(gradient, reach)) > MIN_GRADIENT


def camera_path(shifts_N2: np.ndarray, seconds_N: np.ndarray) -> tuple[float, float]:
  """(pan, shake) of a shot, diagonals per second.

  A pan is the shift from its first frame to its last one, over its time; shake the mean length of
  what the shifts differ by from their mean over SHAKE_SECS.

  Args:
    shifts_N2: Motion.shift of neighbouring pairs of frames.
    seconds_N: between the frames of each.
  """
  pan = np.linalg.norm((shifts_N2 * seconds_N[:, None]).sum(axis=0)) / seconds_N.sum()
  window = max(1, round(SHAKE_SECS / seconds_N.mean()))
  weights = np.ones(min(window | 1, len(shifts_N2)))
  count_N = np.convolve(np.ones(len(shifts_N2)), weights, 'same')
  smooth = [np.convolve(shifts, weights, 'same') / count_N for shifts in shifts_N2.T]
  return float(pan), float(_length(shifts_N2 - np.stack(smooth, axis=-1)).mean())


def _homography(flow_HW2: np.ndarray, textured_HW: np.ndarray) -> np.ndarray:
  """That which most of the frame follows, of places in the flow; identity if there is none."""
  height, width = flow_HW2.shape[:2]
  y, x = np.mgrid[:height:2, :width:2]
  points_N2 = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
  moved_N2 = points_N2 + flow_HW2[y, x].reshape(-1, 2) / REDUCE
  used = textured_HW[y, x].ravel()
  if used.sum() < 16:
    return np.eye(3)
  homography, inliers = _simplest_model(points_N2[used], moved_N2[used])
  column, row = (points_N2[used][inliers] * CELLS / (width, height)).astype(int).T
  occupied = np.zeros((CELLS, CELLS), bool)
  occupied[row, column] = True
  occupied[1:-1, 1:-1] = False  # The camera moves the frame's border too; an object need not.
  if occupied.sum() < MIN_BORDER_CELLS * 4 * (CELLS - 1):
    return np.eye(3)
  return np.asarray(homography)


def _flow_of(homography: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
  """Flow (H, W, 2) in pixels of the frame."""
  height, width = size
  grid_HW2 = np.stack(np.meshgrid(range(width), range(height)), axis=-1).astype(np.float32)
  moved_HW2 = cv2.perspectiveTransform(grid_HW2, homography)
  return (moved_HW2 - grid_HW2) * REDUCE


def _at_center(homography: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, float, float]:
  """(shift, log of the growth, turn) that a homography makes at the frame's centre."""
  center = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
  near = center + np.array([[0, 0], [1, 0], [0, 1]])
  moved = cv2.perspectiveTransform(near[None], homography.astype(np.float64))[0]
  right, down = moved[1] - moved[0], moved[2] - moved[0]
  growth = 0.5 * np.log(max(float(right[0] * down[1] - right[1] * down[0]), 1e-6))
  turn = np.arctan2(right[1] - down[0], right[0] + down[1])
  return moved[0] - center, float(growth), float(turn)


def _simplest_model(points_N2: np.ndarray, moved_N2: np.ndarray) -> tuple[MatLike, np.ndarray]:
  """(homography, inliers): no motion or a similarity, if it explains about as many points.

  Eight parameters would else bend to the flow's smear around objects and call it camera.
  """
  enough = SIMPLER_IF * len(points_N2)
  models: list[tuple[MatLike, np.ndarray]] = [
    (np.eye(3), _length(moved_N2 - points_N2) < STILL_WITHIN)
  ]
  if models[-1][1].sum() < enough:
    similarity, inliers = cv2.estimateAffinePartial2D(
      points_N2, moved_N2, method=cv2.RANSAC, ransacReprojThreshold=INLIERS_WITHIN
    )
    if similarity is not None:
      models.append((np.vstack([similarity, [0, 0, 1]]), inliers.ravel() > 0))
  if models[-1][1].sum() < enough:
    homography, inliers = cv2.findHomography(points_N2, moved_N2, cv2.RANSAC, INLIERS_WITHIN)
    if homography is not None:
      models.append((homography, inliers.ravel() > 0))
  most = max(inliers.sum() for _, inliers in models)
  return next(model for model in models if model[1].sum() >= SIMPLER_IF * most)


def _length(flow_HW2: np.ndarray) -> np.ndarray:
  return np.sqrt(np.square(flow_HW2).sum(axis=-1))
