"""The coloured things of a video of scenes: where they are, how large, of which shape, turned how.

Shapes are more colourful than any backdrop, so that they are found by colour alone; at most one
of each colour is expected. All is seen at a width of WIDTH pixels.
"""

import dataclasses
import functools
import math

import cv2
import numpy as np

from data_pipelines.demo_corpus import captions, outlines

WIDTH = 64
MIN_COLORFULNESS = 60.0  # Grey levels. Backdrops have 36 at most, shapes 93 at least.
# Pixels of WIDTH. What is thinner than three is where two colours meet.
MIN_AREA, MIN_OPENED_AREA = 5, 12
GRID, SPAN, ANGLE_STEP = 25, 1.75, math.radians(5)  # Of the templates that shapes are compared to.
MIN_SHAPE_AREA = 40  # Pixels of WIDTH; outlines of smaller things are not told apart.
MAX_LOSS = 0.04  # Share of a thing's area, if nothing lies over it.


@dataclasses.dataclass(frozen=True)
class Track:
  """One thing over the F frames of a video; NaN where it is not seen.

  Attributes:
    color: of captions.COLORS.
    centers_F2: centroid (x, y), shares of the frame's width.
    areas_F: share of a square of the frame's width.
    is_whole_F: whether all of it is seen, nothing lies over it.
    scores_FS: likeness to each of captions.SHAPES at its best angle, up to 1.
    angles_FS: those angles, radians clockwise from upright, up to the shape's symmetry.
  """

  color: str
  centers_F2: np.ndarray
  areas_F: np.ndarray
  is_whole_F: np.ndarray
  scores_FS: np.ndarray
  angles_FS: np.ndarray

  @property
  def is_seen(self) -> np.ndarray:
    """(F,) whether it is in the frame."""
    return ~np.isnan(self.areas_F)

  def shape(self, used: np.ndarray) -> str | None:
    """The shape that it is most like in the frames of some numbers; None if it is too small."""
    scores_NS = self.scores_FS[used]
    scores_NS = scores_NS[~np.isnan(scores_NS[:, 0])]
    return captions.SHAPES[int(scores_NS.sum(0).argmax())] if len(scores_NS) else None


@dataclasses.dataclass(frozen=True)
class Things:
  """All things of a video.

  Attributes:
    tracks: by colour, the largest first.
    counts_F: how many things are in each frame; two of one colour are two.
    masks_FHW: where they are, at WIDTH.
    frames_FHWC: uint8, the video at WIDTH.
  """

  tracks: dict[str, Track]
  counts_F: np.ndarray
  masks_FHW: np.ndarray
  frames_FHWC: np.ndarray


def find(video_FHWC: np.ndarray) -> Things:
  """The things of a uint8 video."""
  frames_FHWC = _resized(video_FHWC)
  opponent_FHW = _opponent(frames_FHWC)
  strength_FHW = np.abs(opponent_FHW)
  palette = _opponent(np.array([*captions.COLORS.values()]))
  # (F, H, W, colours): how much a pixel's hue is a colour's.
  likeness = (opponent_FHW[..., None] / (palette / np.abs(palette))).real
  is_colorful_FHW = strength_FHW > MIN_COLORFULNESS
  first = np.where(is_colorful_FHW, likeness.argmax(-1), -1)
  present = [c for c in range(len(palette)) if _largest_opened(first == c) >= MIN_OPENED_AREA]
  if not present:
    empty = np.zeros(len(frames_FHWC), int)
    return Things({}, empty, np.zeros(first.shape, bool), frames_FHWC)
  # Where two things meet, other hues appear: each pixel is of a colour that is there.
  labels_FHW = np.where(is_colorful_FHW, np.take(present, likeness[..., present].argmax(-1)), -1)
  counts_F = np.zeros(len(frames_FHWC), int)
  touches_FC = np.zeros((len(frames_FHWC), len(palette)), bool)
  for frame, labels_HW in enumerate(labels_FHW):
    counts_F[frame], touches_FC[frame] = _groups(labels_HW, present, len(palette))
  names = list(captions.COLORS)
  tracks = [_track(names[c], labels_FHW == c, strength_FHW, touches_FC[:, c]) for c in present]
  tracks.sort(key=lambda track: -np.nansum(track.areas_F))
  return Things({track.color: track for track in tracks}, counts_F, labels_FHW >= 0, frames_FHWC)


def _resized(video_FHWC: np.ndarray) -> np.ndarray:
  height, width = video_FHWC.shape[1:3]
  if width == WIDTH:
    return np.asarray(video_FHWC)
  size = WIDTH, round(height * WIDTH / width)
  kind = cv2.INTER_AREA if width > WIDTH else cv2.INTER_LINEAR
  return np.stack([cv2.resize(frame, size, interpolation=kind) for frame in video_FHWC])


def _opponent(colors: np.ndarray) -> np.ndarray:
  """Hue and colourfulness of RGB (..., 3): a complex number; light and shadow change its length."""
  red, green, blue = np.moveaxis(colors.astype(np.float32), -1, 0)
  return (red - (green + blue) / 2) + 1j * (math.sqrt(3) / 2) * (green - blue)


def _largest_opened(masks_FHW: np.ndarray) -> int:
  """Pixels of the largest mask that are in no part thinner than three pixels."""
  kernel = np.ones((3, 3), np.uint8)
  return max(
    int(cv2.morphologyEx(mask_HW.astype(np.uint8), cv2.MORPH_OPEN, kernel).sum())
    for mask_HW in masks_FHW
  )


def _groups(labels_HW: np.ndarray, present: list[int], num_colors: int) -> tuple[int, np.ndarray]:
  """(things in a frame, whether those of each colour touch others).

  What lies together counts once for each of its colours: of a thing behind another, two parts may
  be seen.
  """
  near = cv2.dilate((labels_HW >= 0).astype(np.uint8), np.ones((3, 3), np.uint8))
  number, groups_HW = cv2.connectedComponents(near)
  count, touches_C = 0, np.zeros(num_colors, bool)
  for group in range(1, number):
    labels = labels_HW[groups_HW == group]
    colors = [c for c in present if (labels == c).sum() >= MIN_AREA]
    count += len(colors)
    if len(colors) > 1:
      touches_C[colors] = True
  return count, touches_C


def _track(
  color: str, masks_FHW: np.ndarray, strength_FHW: np.ndarray, touches_F: np.ndarray
) -> Track:
  num_frames, height, width = masks_FHW.shape
  shapes = len(captions.SHAPES)
  track = Track(
    color,
    centers_F2=np.full((num_frames, 2), np.nan),
    areas_F=np.full(num_frames, np.nan),
    is_whole_F=~touches_F,
    scores_FS=np.full((num_frames, shapes), np.nan),
    angles_FS=np.full((num_frames, shapes), np.nan),
  )
  y, x = np.mgrid[:height, :width] + 0.5
  for frame, (mask_HW, strength_HW) in enumerate(zip(masks_FHW, strength_FHW, strict=True)):
    if mask_HW.sum() < MIN_AREA:
      continue
    weight_HW = _coverage(mask_HW, strength_HW)
    area = float(weight_HW.sum())
    center = np.array([(weight_HW * x).sum(), (weight_HW * y).sum()]) / area
    track.areas_F[frame], track.centers_F2[frame] = area / width**2, center / width
    if area >= MIN_SHAPE_AREA:
      track.scores_FS[frame], track.angles_FS[frame] = _compare(weight_HW, center, area)
  if not touches_F.all():
    # A thing that touches another is whole while it is as large as where it touches none.
    loss_F = 1 - np.nan_to_num(track.areas_F) / np.nanmedian(track.areas_F[~touches_F])
    track.is_whole_F[np.abs(loss_F) < MAX_LOSS] = True
  return track


def _coverage(mask_HW: np.ndarray, strength_HW: np.ndarray) -> np.ndarray:
  """Share of each pixel that a thing covers, by its colour's strength there; 0 away from it."""
  share_HW = strength_HW / np.median(strength_HW[mask_HW])
  near_HW = cv2.dilate(mask_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
  return np.where(mask_HW, np.clip((share_HW - 0.15) / 0.7, 0, 1), 0) * near_HW


@functools.cache
def _templates() -> list[tuple[np.ndarray, np.ndarray]]:
  """Of each shape (angles (A,), pictures (A, GRID * GRID) of length one), all of equal area."""
  axis = np.linspace(-SPAN, SPAN, GRID)
  found = []
  for shape in captions.SHAPES:
    fine = np.linspace(-outlines.REACH, outlines.REACH, 301)
    inside = outlines.distance(shape, fine[None], fine[:, None]) < 0
    radius = math.sqrt(inside.mean() / math.pi) * 2 * outlines.REACH  # Of a disc of its area.
    turns = outlines.SYMMETRY[shape]
    number = round(2 * math.pi / turns / ANGLE_STEP) if turns else 1
    angles = np.arange(number) * ANGLE_STEP
    pictures = []
    for angle in angles.tolist():
      distance = outlines.distance(shape, axis[None] * radius, axis[:, None] * radius, angle)
      pictures.append(np.clip(0.5 - distance / radius * 4, 0, 1).ravel())
    stacked = np.stack(pictures)
    found.append((angles, stacked / np.linalg.norm(stacked, axis=1, keepdims=True)))
  return found


def _compare(weight_HW: np.ndarray, center: np.ndarray, area: float) -> tuple[list, list]:
  """(likeness to each shape, the angle of that)."""
  step = math.sqrt(area / math.pi) * 2 * SPAN / (GRID - 1)
  start = center - 0.5 - step * (GRID - 1) / 2
  matrix = np.array([[step, 0, start[0]], [0, step, start[1]]])
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  picture = cv2.warpAffine(weight_HW.astype(np.float32), matrix, (GRID, GRID), flags=flags).ravel()
  picture /= max(float(np.linalg.norm(picture)), 1e-9)
  scores, angles = [], []
  for shape_angles, pictures in _templates():
    likeness = pictures @ picture
    best = int(likeness.argmax())
    angle = shape_angles[best]
    if len(likeness) > 1:
      before, at, after = likeness[best - 1], likeness[best], likeness[(best + 1) % len(likeness)]
      bend = before - 2 * at + after
      angle += ANGLE_STEP * (before - after) / (2 * bend) if bend < 0 else 0
    scores.append(likeness[best])
    angles.append(angle)
  return scores, angles
