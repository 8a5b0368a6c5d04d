"""The share of the frame that its main subject takes, without weights.

Seeds come from spectral-residual saliency (Hou and Zhang 2007: what is unusual in the log
spectrum), joined for videos with the motion that the camera does not explain (motion.py). GrabCut
(Rother et al. 2004) grows them to the borders that colours draw; the frame's edge is background.
A saliency network with the user's weights (score) is better; `subject_method` says which it was.
"""

import cv2
import numpy as np

METHOD_VIDEO = 'saliency+flow'
METHOD_IMAGE = 'saliency'
WIDTH = 128  # GrabCut costs 15 ms at this size, and the share needs no more.
SPECTRUM = 64
MIN_MOTION_PIXELS = 0.5  # Below this, residual flow is noise.


def subject_share(frame_HWC: np.ndarray, residual_HW: np.ndarray | None = None) -> float | None:
  """Share of the frame, in (0, 1), or None if nothing stands out.

  Args:
    frame_HWC: uint8, BGR, any size.
    residual_HW: pixels of motion that is not the camera's, of any size; None for images.
  """
  height = max(16, round(WIDTH * frame_HWC.shape[0] / frame_HWC.shape[1]))
  frame_HWC = cv2.resize(frame_HWC, (WIDTH, height), interpolation=cv2.INTER_AREA)
  seeds_HW = (_saliency(cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2GRAY)) + _contrast(frame_HWC)) / 2
  if residual_HW is not None and residual_HW.max() > MIN_MOTION_PIXELS:
    moving_HW = _moving(cv2.resize(residual_HW.astype(np.float32), (WIDTH, height)))
    if moving_HW.mean() < 0.7:  # Else nothing stands out by its motion.
      # Flow reaches beyond a body's outline; there it has the background's colours.
      seeds_HW = seeds_HW + moving_HW * (0.5 + seeds_HW)
  mask_HW = _grow(frame_HWC, seeds_HW)
  return None if mask_HW is None else float(mask_HW.mean())


def _moving(residual_HW: np.ndarray) -> np.ndarray:
  """1 where something moves by itself; a plain body too, of which only the outline is seen to."""
  moving = (residual_HW > max(MIN_MOTION_PIXELS, 0.25 * residual_HW.max())).astype(np.uint8)
  outlines, _ = cv2.findContours(moving, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
  return cv2.drawContours(moving, outlines, -1, 1, cv2.FILLED).astype(np.float32)


def _saliency(grey_HW: np.ndarray) -> np.ndarray:
  """Spectral residual, scaled to [0, 1]."""
  small = cv2.resize(grey_HW, (SPECTRUM, SPECTRUM), interpolation=cv2.INTER_AREA)
  spectrum = np.fft.fft2(small.astype(np.float32))
  log_amplitude = np.log(np.abs(spectrum) + 1e-6).astype(np.float32)
  residual = log_amplitude - cv2.blur(log_amplitude, (3, 3))
  saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
  saliency = cv2.GaussianBlur(saliency.astype(np.float32), (9, 9), 2.5)
  saliency = cv2.resize(saliency, grey_HW.shape[::-1])
  return (saliency - saliency.min()) / max(float(np.ptp(saliency)), 1e-9)


def _contrast(frame_HWC: np.ndarray) -> np.ndarray:
  """How unlike the frame's border a pixel's colour is, scaled to [0, 1]."""
  lab = cv2.cvtColor(cv2.GaussianBlur(frame_HWC, (5, 5), 0), cv2.COLOR_BGR2LAB).astype(np.float32)
  edge = max(2, lab.shape[0] // 16)
  border = [lab[:edge], lab[-edge:], lab[:, :edge], lab[:, -edge:]]
  border = np.concatenate([side.reshape(-1, 3) for side in border])
  covariance = np.cov(border.T) + 25 * np.eye(3)
  offset = lab - border.mean(axis=0)
  distance = np.sqrt(np.einsum('hwc,cd,hwd->hw', offset, np.linalg.inv(covariance), offset))
  return np.clip(distance / max(float(np.quantile(distance, 0.98)), 2.0), 0, 1)


def _grow(frame_HWC: np.ndarray, seeds_HW: np.ndarray) -> np.ndarray | None:
  """Foreground mask around the seeds; None if there are none or all is foreground."""
  levels = np.clip(255 * seeds_HW / max(seeds_HW.max(), 1e-9), 0, 255).astype(np.uint8)
  _, seed = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
  if not 0.001 < seed.mean() < 0.9:
    return None
  near = cv2.dilate(seed, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15)))
  # The seeds' rim is often background already; their core grows back to where colours change.
  core = cv2.erode(seed, np.ones((5, 5), np.uint8))
  core = core if core.mean() > 0.25 * seed.mean() else seed
  mask = np.where(core, cv2.GC_PR_FGD, np.where(near, cv2.GC_PR_BGD, cv2.GC_BGD)).astype(np.uint8)
  background, foreground = np.zeros((2, 1, 65))
  try:
    cv2.setRNGSeed(0)  # GrabCut's k-means: the same frame gives the same share.
    # pyrefly: ignore[no-matching-overload]  # Its stubs want a rectangle, which a mask replaces.
    cv2.grabCut(frame_HWC, mask, None, background, foreground, 3, cv2.GC_INIT_WITH_MASK)
  except cv2.error:  # Too few colours to fit a mixture to.
    return seed
  grown = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))
  # Where colours draw no border, GrabCut gives the seeds up.
  return grown if grown.mean() > 0.25 * seed.mean() else seed
