"""Measures of videos that need no network: likeness to the first frame, flicker, motion.

Videos are uint8 (F, H, W, 3). A measure of many videos is a mean with the interval in which the
mean of as many other videos would lie.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from data_pipelines.curate import motion

# Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
# Grey levels. What changes less in a real clip over its whole length stands still there.
STILL_WITHIN = 8
RESAMPLINGS = 2000


def psnr(images: np.ndarray, references: np.ndarray) -> float:
  """Peak signal-to-noise ratio of uint8 arrays of one shape, dB."""
  error = np.mean((images.astype(np.float64) - references.astype(np.float64)) ** 2)
  return float(10 * np.log10(255**2 / max(error, 1e-9)))


def ssim(image_HWC: np.ndarray, reference_HWC: np.ndarray) -> float:
  """Structural similarity of uint8 images: the mean over channels and all whole windows."""
  height, width = image_HWC.shape[:2]
  if min(height, width) < SSIM_WINDOW:
    raise ValueError(f'SSIM needs frames of {SSIM_WINDOW} pixels at least, not {width}x{height}.')
  x, y = image_HWC.astype(np.float64), reference_HWC.astype(np.float64)

  def blur(values_HWC: np.ndarray) -> np.ndarray:
    edge = SSIM_WINDOW // 2
    blurred_HWC = cv2.GaussianBlur(values_HWC, (SSIM_WINDOW, SSIM_WINDOW), SSIM_SIGMA)
    return blurred_HWC[edge:-edge, edge:-edge]

  mean_x, mean_y = blur(x), blur(y)
  variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
  covariance = blur(x * y) - mean_x * mean_y
  likeness = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
  return float(
    np.mean(likeness / ((mean_x**2 + mean_y**2 + SSIM_C1) * (variance_x + variance_y + SSIM_C2)))
  )


def likeness_to_image(video_FHWC: np.ndarray, image_HWC: np.ndarray) -> dict[str, list[float]]:
  """How far a video leaves the image it was given: dict(psnr_db, ssim) of lists over frames."""
  return dict(
    psnr_db=[psnr(frame, image_HWC) for frame in video_FHWC],
    ssim=[ssim(frame, image_HWC) for frame in video_FHWC],
  )


def still_pixels(video_FHWC: np.ndarray) -> np.ndarray:
  """(H, W) bool: where a real clip stays as it is, the compression's noise aside."""
  return (np.ptp(video_FHWC.astype(np.int16), axis=0) <= STILL_WITHIN).all(-1)


def flicker(video_FHWC: np.ndarray, still_HW: np.ndarray) -> float:
  """Mean absolute change from frame to frame where nothing moves, grey levels; NaN without such."""
  changes_FHWC = np.abs(np.diff(video_FHWC.astype(np.float64), axis=0))
  return float(changes_FHWC[:, still_HW].mean()) if still_HW.any() else float('nan')


def motion_magnitude(video_FHWC: np.ndarray, fps: float) -> float:
  """Mean length of the optical flow, frame diagonals per second (data_pipelines.curate.motion)."""
  meter = motion.FlowMeter()
  grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in video_FHWC]
  return float(np.mean([meter(*pair, 1 / fps).total for pair in zip(grey, grey[1:], strict=False)]))


def mean_with_interval(values: Sequence[float] | np.ndarray) -> dict[str, float] | None:
  """dict(mean, low, high, num): 95 % bootstrap interval of the mean, the same at every call.

  Values that are NaN are left out; of none at all, None.
  """
  values = np.asarray(values, np.float64)
  values = values[~np.isnan(values)]
  if not len(values):
    return None
  rng = np.random.default_rng(0)
  means = values[rng.integers(len(values), size=(RESAMPLINGS, len(values)))].mean(1)
  low, high = np.percentile(means, (2.5, 97.5))
  return dict(mean=float(values.mean()), low=float(low), high=float(high), num=len(values))
