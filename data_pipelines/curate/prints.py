"""Fingerprints of a frame, by which copies are found and proved without its pixels.

A hash is the 63 signs of a picture's low frequencies (pHash), which scaling and encoding barely
touch; mirroring the picture flips the signs of those that are odd across it. Hashes of the frame
and of its parts propose copies: a crop looks like a part, and two frames with another mark in a
corner have the rest in common. Hashes of small patches, with their places, prove them
(proof.py). Patches lie where SIFT (Lowe 2004) finds points.
"""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from data_pipelines.curate import borders, duplicates, proof

SIDE = 32
WIDTH = 160  # Where points are looked for: at 256 they cost twice as much, and are no better.
MIN_POINTS = 18  # A disc before a backdrop has up to 17: such frames are plain, and have no print.
PATCH = 6.0  # Diameters of a point.


def of_frames(frames: Sequence[np.ndarray]) -> dict[str, Any]:
  """schema.CURATE's `hashes`, `part_hashes` and `points` of what letterboxes leave of the frames.

  Args:
    frames: uint8, BGR, small, of one size; the middle one is hashed by its parts too.
  """
  box = borders.content_box(frames)
  greys = [cv2.cvtColor(_within(frame_HWC, box), cv2.COLOR_BGR2GRAY) for frame_HWC in frames]
  found = [points(grey_HW) for grey_HW in greys]
  middle = len(frames) // 2
  return dict(
    hashes=[signs(grey) if len(part) else 0 for grey, part in zip(greys, found, strict=True)],
    part_hashes=parts(greys[middle]) if len(found[middle]) else [],
    points=[part.tobytes() for part in found],
  )


def _within(frame_HWC: np.ndarray, box: tuple[float, float, float, float] | None) -> np.ndarray:
  if box is None:
    return frame_HWC
  height, width = frame_HWC.shape[:2]
  top, left = round(box[0] * height), round(box[1] * width)
  rows, columns = round(box[2] * height), round(box[3] * width)
  return np.ascontiguousarray(frame_HWC[top : top + rows, left : left + columns])


def signs(grey_HW: np.ndarray) -> int:
  """63 signs of the low frequencies of a uint8 picture; brightness does not count."""
  small = cv2.resize(grey_HW, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
  is_positive = cv2.dct(small)[:8, :8].ravel() > 0
  is_positive[0] = False
  return int(np.packbits(is_positive).view('>u8')[0])


def parts(grey_HW: np.ndarray) -> list[int]:
  """Hashes of duplicates.PARTS of a picture."""
  height, width = grey_HW.shape
  found = []
  for scale, down, across in duplicates.PARTS:
    rows, columns = round(scale * height), round(scale * width)
    top, left = int((height - rows) * down), int((width - columns) * across)
    found.append(signs(grey_HW[top : top + rows, left : left + columns]))
  return found


def points(grey_HW: np.ndarray) -> np.ndarray:
  """POINTs of a picture, MAX_POINTS at most; none if it is plain."""
  scale = min(1.0, WIDTH / grey_HW.shape[1])
  size = (max(1, round(grey_HW.shape[1] * scale)), max(1, round(grey_HW.shape[0] * scale)))
  small_HW = cv2.resize(grey_HW, size, interpolation=cv2.INTER_AREA)
  chosen = _spread(list(_detector().detect(small_HW, None)), max(size) / 6)
  found = np.zeros(len(chosen), proof.POINT)
  smooth_HW = cv2.GaussianBlur(small_HW, (0, 0), 0.6)
  for point, keypoint in zip(found, chosen, strict=True):
    zoom = PATCH * keypoint.size / SIDE
    corner = np.array(keypoint.pt) - zoom * (SIDE - 1) / 2
    to_patch = np.array([[zoom, 0, corner[0]], [0, zoom, corner[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(
      smooth_HW, to_patch, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    point['hash'] = signs(patch)
    point['place'] = np.clip(np.round(255 * np.array(keypoint.pt) / max(size)), 0, 255)
  return found if len(found) >= MIN_POINTS else found[:0]


@functools.cache
def _detector() -> cv2.SIFT:
  return cv2.SIFT.create(nfeatures=150, contrastThreshold=0.02)


def _spread(keypoints: list[cv2.KeyPoint], radius: float) -> list[cv2.KeyPoint]:
  """The strongest, far from one another as long as there are such."""
  keypoints = sorted(keypoints, key=lambda keypoint: -keypoint.response)
  places = np.array([keypoint.pt for keypoint in keypoints]).reshape(-1, 2)
  chosen: list[int] = []
  is_free = np.ones(len(keypoints), bool)
  while len(chosen) < proof.MAX_POINTS and radius > 1:
    is_near = np.zeros(len(keypoints), bool)
    for index in chosen:
      is_near |= np.square(places - places[index]).sum(axis=1) < radius**2
    for index in range(len(keypoints)):
      if is_free[index] and not is_near[index] and len(chosen) < proof.MAX_POINTS:
        chosen.append(index)
        is_free[index] = False
        is_near |= np.square(places - places[index]).sum(axis=1) < radius**2
    radius *= 0.7
  return [keypoints[index] for index in chosen]
