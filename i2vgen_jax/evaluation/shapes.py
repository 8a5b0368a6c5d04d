"""Whether a video of the demo corpus's kind `shapes` does what its caption says: by its one shape.

The shape is found in every frame as what differs from the background.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines import demo_corpus

# A shape that moves less than this share of the frame's width stands still: a third of the slowest
# real motion.
MIN_MOTION = 0.12


def is_demo(captions: Sequence[str]) -> bool:
  """Whether all are captions of the videos of the kind `shapes`, word for word."""
  try:
    found = [demo_corpus.parse_caption(caption) for caption in captions]
  except ValueError:
    return False
  return list(captions) == [
    demo_corpus.VIDEO_CAPTION.format_map({'direction': ''} | words) for words in found
  ]


def measure(video_FHWC: np.ndarray, caption: str) -> dict[str, float]:
  """dict(follows_caption, stands_still, movement_of_width, keeps_color) of a uint8 video.

  follows_caption: whether it moves in the captioned direction (chance 25 %).
  """
  wanted, move = demo_corpus.parse_caption(caption), movement(video_FHWC)
  return dict(
    follows_caption=float(direction_of(move) == wanted['direction']),
    stands_still=float(direction_of(move) is None),
    movement_of_width=float(np.abs(move).max()),
    keeps_color=float(shape_color(video_FHWC) == wanted['color']),
  )


def saliency(frame_HWC: np.ndarray) -> np.ndarray:
  """(H, W) in [0, 1]: how far each pixel is from the background, the median of the frame's border;
  small values cut."""
  frame = frame_HWC.astype(np.float64)
  border = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
  distance_HW = np.linalg.norm(frame - np.median(border, 0), axis=-1)
  peak = distance_HW.max()
  return np.where(distance_HW > 0.5 * peak, distance_HW / max(peak, 1e-9), 0)


def centroid(frame_HWC: np.ndarray) -> np.ndarray:
  """(x, y) of the salient mass, as shares of width and height."""
  weight_HW = saliency(frame_HWC)
  height, width = weight_HW.shape
  total = max(weight_HW.sum(), 1e-9)
  x = (weight_HW.sum(0) * (np.arange(width) + 0.5)).sum() / total / width
  y = (weight_HW.sum(1) * (np.arange(height) + 0.5)).sum() / total / height
  return np.array([x, y])


def movement(video_FHWC: np.ndarray) -> np.ndarray:
  """(dx, dy) of the centroid from the first to the last frame, as shares of width and height."""
  return centroid(video_FHWC[-1]) - centroid(video_FHWC[0])


def direction_of(move: np.ndarray) -> str | None:
  """'left', 'right', 'up' or 'down' by the larger component; None if it stands still."""
  if np.abs(move).max() < MIN_MOTION:
    return None
  return max(
    demo_corpus.DIRECTIONS, key=lambda name: float(np.dot(move, demo_corpus.DIRECTIONS[name]))
  )


def shape_color(video_FHWC: np.ndarray) -> str:
  """The demo colour nearest in hue and strength to the shape's mean colour over all frames."""
  means = []
  for frame_HWC in video_FHWC:
    weight_HW = saliency(frame_HWC)
    means.append((frame_HWC * weight_HW[..., None]).sum((0, 1)) / max(weight_HW.sum(), 1e-9))
  mean = np.mean(means, 0)
  return min(
    demo_corpus.COLORS, key=lambda name: np.linalg.norm(mean - np.array(demo_corpus.COLORS[name]))
  )
