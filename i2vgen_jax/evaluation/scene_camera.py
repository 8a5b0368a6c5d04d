"""How the camera moves in a video of scenes: by what the backdrop does around the things."""

import cv2
import numpy as np

from i2vgen_jax.evaluation import scene_things

DETAIL = 4.0  # Pixels; slower changes of brightness are no detail that shows motion.
# Grey levels, standard deviation. Plain backdrops have 1.0 at most, textured ones 2.5 and more; the
# former show no motion.
MIN_DETAIL = 1.5
# Of a thing, in radii of a disc of its area: its shadow falls there.
SHADOW_REACH = 1.0
MAX_ZOOM = 2.0  # Between two frames; more is no fit but a few pixels enlarged.
BLUR = 5  # Pixels, of a Gaussian kernel.
MIN_CORRELATION = 0.6
CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)


def windows(things: scene_things.Things) -> np.ndarray:
  """(F, 3): (x, y, zoom) of the camera: the scene's point in the frame's centre and its scale.

  In shares of the frame's width, and as of the first frame: (0.5, 0.5 * height / width, 1). Frames
  that are too unlike the first lie on the line between the others.
  """
  frames_FHWC = things.frames_FHWC
  height, width = frames_FHWC.shape[1:3]
  grey_FHW = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames_FHWC]
  detail_FHW = [grey - cv2.GaussianBlur(grey, (0, 0), DETAIL) for grey in grey_FHW]
  free_FHW = [_is_backdrop(mask_HW) for mask_HW in things.masks_FHW]
  center = np.array([(width - 1) / 2, (height - 1) / 2, 1])  # Of pixels that begin at 0.
  warp, known, found = np.eye(2, 3, dtype=np.float32), [0], [(*center[:2], 0.0)]
  for i in range(1, len(frames_FHWC)):
    next_warp = _to_first(detail_FHW[0], detail_FHW[i], free_FHW[0] & free_FHW[i], warp)
    if next_warp is not None:
      warp = next_warp
      known.append(i)
      found.append((*(warp @ center), -np.log(max(np.linalg.det(warp[:, :2]), 1e-6)) / 2))
  x, y, zoom = (np.interp(range(len(frames_FHWC)), known, values) for values in np.transpose(found))
  return np.stack([(x + 0.5) / width, (y + 0.5) / width, np.exp(zoom)], 1)


def _is_backdrop(mask_HW: np.ndarray) -> np.ndarray:
  """Where neither things nor their shadows are."""
  number, groups_HW = cv2.connectedComponents(mask_HW.astype(np.uint8))
  covered_HW = np.zeros(mask_HW.shape, np.uint8)
  for group in range(1, number):
    one_HW = (groups_HW == group).astype(np.uint8)
    reach = round(SHADOW_REACH * np.sqrt(one_HW.sum() / np.pi)) + 2
    covered_HW |= cv2.dilate(one_HW, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
  return covered_HW == 0


def _to_first(
  first_HW: np.ndarray, later_HW: np.ndarray, free_HW: np.ndarray, start: np.ndarray
) -> np.ndarray | None:
  """(2, 3): where a frame's pixels were in the first frame; None if they cannot be found there.

  By enhanced correlation (Evangelidis and Psarakis 2008), which brightness does not change.
  """
  if free_HW.sum() < free_HW.size / 8 or first_HW[free_HW].std() < MIN_DETAIL:
    return None
  mask_HW = free_HW.astype(np.uint8)
  try:
    correlation, warp = cv2.findTransformECC(
      later_HW, first_HW, start.copy(), cv2.MOTION_AFFINE, CRITERIA, mask_HW, BLUR
    )
  except cv2.error:  # It does not converge.
    return None
  zoom = np.sqrt(max(np.linalg.det(warp[:, :2]), 0))
  return warp if correlation >= MIN_CORRELATION and 1 / MAX_ZOOM < zoom < MAX_ZOOM else None
