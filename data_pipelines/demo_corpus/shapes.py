"""The kind `shapes`: one plain shape that moves, 96x96, one second.

A model that learns it must read the caption (which direction), keep the first frame (which shape
and colour) and move one object: what image-to-video is about, at a size that a laptop trains. A
first frame does not tell its video's direction: all four start in the same central region.
"""

import math
from collections.abc import Mapping

import numpy as np

SHAPES = ('circle', 'square', 'triangle')
COLORS = {  # Hues at least 50 degrees apart, so that a colour is still known after the VAE.
  'red': (220, 35, 35),
  'green': (30, 160, 50),
  'blue': (40, 70, 230),
  'yellow': (240, 210, 20),
  'purple': (190, 40, 200),
  'cyan': (20, 200, 215),
}
DIRECTIONS = {
  'left': (-1, 0),
  'right': (1, 0),
  'up': (0, -1),
  'down': (0, 1),
}  # (x, y), y downwards.
VIDEO_CAPTION = 'a {color} {shape} moves {direction}'
IMAGE_CAPTION = 'a {color} {shape}'

SIZE = 96  # Pixels of the source; training crops and scales it to its own size.
NUM_FRAMES = 16
FPS = 16
# Fractions of the frame's side. Eight frames at 8 fps (7/8 s) move the shape by 36 %.
SPEED = 0.41  # Per second.
START_JITTER = 0.05  # Around the centre: from there every direction keeps the shape in the frame.
RADIUS = (0.11, 0.145)


def attributes_of(index: int) -> dict[str, str]:
  """Shape, colour and direction of an example: every 72 in a row hold each combination once."""
  direction = tuple(DIRECTIONS)[index % 4]
  pair = index // 4 % (len(SHAPES) * len(COLORS))
  color = tuple(COLORS)[(pair + pair // len(COLORS)) % len(COLORS)]
  return dict(shape=SHAPES[pair % len(SHAPES)], color=color, direction=direction)


def parse_caption(caption: str) -> dict[str, str]:
  """Shape, colour and (of a video) direction that a caption names: the templates reversed."""
  words = caption.split()
  found = {}
  for name, known in dict(shape=SHAPES, color=COLORS, direction=DIRECTIONS).items():
    matches = [word for word in words if word in known]
    if len(matches) > 1 or (not matches and name != 'direction'):
      raise ValueError(
        f'caption {caption!r} should name one {name} out of {tuple(known)}, has {matches}.'
      )
    if matches:
      found[name] = matches[0]
  return found


def render_video(
  rng: np.random.Generator,
  attributes: dict[str, str] | None = None,
  size: int = SIZE,
  num_frames: int = NUM_FRAMES,
  fps: float = FPS,
) -> tuple[np.ndarray, str, dict[str, str]]:
  """Renders one moving shape at constant speed.

  Args:
    rng: draws background, start and radius, and the attributes if not given.
    attributes: dict(shape, color, direction).
    size: side of the square frame in pixels.
    num_frames: of the video; the shape stays in view for the default length, 15/16 s.
    fps: frames per second.
  Returns:
    (frames uint8 (F, H, W, 3), caption, attributes).
  """
  attributes = attributes or attributes_of(int(rng.integers(72)))
  start = 0.5 + rng.uniform(-START_JITTER, START_JITTER, size=2)
  velocity = SPEED * np.array(DIRECTIONS[attributes['direction']])
  centers = start + velocity * np.arange(num_frames)[:, None] / fps
  frames = _render(rng, centers, attributes, size)
  return frames, VIDEO_CAPTION.format(**attributes), attributes


def render_image(
  rng: np.random.Generator, attributes: dict[str, str] | None = None, size: int = SIZE
) -> tuple[np.ndarray, str, dict[str, str]]:
  """Renders one shape anywhere in the frame.

  Args:
    rng: draws background, place and radius, and the attributes if not given.
    attributes: dict(shape, color, direction); the direction does not show.
    size: side of the square frame in pixels.
  Returns:
    (image uint8 (H, W, 3), caption, attributes).
  """
  attributes = attributes or attributes_of(int(rng.integers(72)))
  center = rng.uniform(RADIUS[1], 1 - RADIUS[1], size=(1, 2))
  return _render(rng, center, attributes, size)[0], IMAGE_CAPTION.format(**attributes), attributes


def _render(
  rng: np.random.Generator, centers: np.ndarray, attributes: Mapping[str, str], size: int
) -> np.ndarray:
  """Draws the shape at `centers` (F, 2), fractions of the side, on a plain background."""
  brightness = rng.choice([rng.uniform(15, 65), rng.uniform(190, 235)])
  background = np.rint(np.clip(brightness + rng.uniform(-12, 12, size=3), 0, 255))
  color = np.array(COLORS[attributes['color']], np.float32)
  radius = float(rng.uniform(*RADIUS) * size)
  frames = np.empty((len(centers), size, size, 3), np.uint8)
  frames[:] = background
  for frame, (center_x, center_y) in zip(frames, (centers * size).tolist(), strict=True):
    left, top = (max(int(center - 1.4 * radius), 0) for center in (center_x, center_y))
    window = frame[top : int(center_y + 1.4 * radius) + 2, left : int(center_x + 1.4 * radius) + 2]
    x = np.arange(left, left + window.shape[1], dtype=np.float32)[None, :] + (0.5 - center_x)
    y = np.arange(top, top + window.shape[0], dtype=np.float32)[:, None] + (0.5 - center_y)
    # One pixel of linear coverage across the outline is the antialiasing.
    coverage = np.clip(0.5 - _distance(attributes['shape'], x, y, radius), 0, 1)[..., None]
    window[:] = background + 0.5 + coverage * (color - background)
  return frames


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
  """Signed distance in pixels from the outline, negative inside; areas are about equal."""
  if shape == 'circle':
    return np.sqrt(x * x + y * y) - radius
  if shape == 'square':
    return np.maximum(np.abs(x), np.abs(y)) - 0.89 * radius
  half = math.sqrt(3) / 2
  return (
    np.maximum(half * np.abs(x) - y / 2, y) - 0.68 * radius
  )  # Equilateral, centred on its centroid.
