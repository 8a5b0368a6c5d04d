"""Paints scenes: soft clay shapes with shadows on muted backdrops, anti-aliased to the subpixel."""

import math

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.demo_corpus import captions, outlines
from data_pipelines.demo_corpus.scenes import FPS, NUM_FRAMES, SIZE, Scene, Thing

# Pairs of tones, sRGB. None is as colourful as a shape (at most 40 levels between its channels,
# where a shape has 115 and more), so that shapes are told from any backdrop by colour alone.
TONES = (
  ((240, 234, 222), (222, 210, 192)),  # Sand.
  ((226, 233, 238), (190, 203, 214)),  # Mist.
  ((226, 234, 222), (190, 204, 186)),  # Sage.
  ((238, 226, 226), (216, 196, 198)),  # Blush.
  ((230, 226, 240), (200, 194, 216)),  # Lavender.
  ((92, 98, 112), (58, 62, 76)),  # Slate.
  ((98, 90, 86), (64, 58, 56)),  # Umber.
)
EXTENT = 2.0  # Sides of the frame that a backdrop spans: what a camera may come to see.
FINENESS = 2  # Pixels of the backdrop per pixel of the frame, each way.
BEVEL = 0.45  # Radii over which a shape curves down to its edge.
LIGHT = (-0.6, -0.8)  # From the upper left.
SHADOW_OFFSET, SHADOW_SOFTNESS, SHADOW = (0.14, 0.22), 0.34, 0.34
MARGIN = outlines.REACH + SHADOW_OFFSET[1] + SHADOW_SOFTNESS  # Radii that a shape's shadow reaches.


def paint_clip(
  scene: Scene, size: int = SIZE, num_frames: int = NUM_FRAMES, fps: float = FPS
) -> np.ndarray:
  """uint8 (F, H, W, 3): all frames of a scene, from its start.

  Args:
    scene: what is shown.
    size: side of the square frame in pixels.
    num_frames: of the clip; things stay in view for the default length.
    fps: frames per second.
  """
  backdrop = paint_backdrop(scene, size)
  return np.stack([_paint(scene, backdrop, index / fps, size) for index in range(num_frames)])


def paint_backdrop(scene: Scene, size: int) -> Image.Image:
  """The plane behind the things, EXTENT sides wide, in FINENESS times a frame's resolution."""
  rng = np.random.default_rng(scene.backdrop_seed)
  side = round(EXTENT * FINENESS * size)
  light, dark = np.array(TONES[rng.integers(len(TONES))], np.float32)
  turn = rng.uniform(0, 2 * math.pi)
  axis = np.linspace(-1, 1, side, dtype=np.float32)
  blend = math.cos(turn) * axis[None, :] + math.sin(turn) * axis[:, None]
  blend = 0.5 + 0.55 * blend  # Over the frame's middle half: from a quarter to three quarters.
  if scene.backdrop == 'mottled':
    blend += 0.6 * _noise(rng, side)
  # A logistic curve in place of a clipped line.
  shade = light + (1 / (1 + np.exp(2 - 4 * blend)))[..., None] * (dark - light)
  image = Image.fromarray(np.rint(shade).astype(np.uint8))
  if scene.backdrop in ('dots', 'terrazzo'):
    _scatter(rng, image, scene.backdrop, np.stack([light, dark]))
  return image


def _noise(rng: np.random.Generator, side: int) -> np.ndarray:
  """(side, side) smooth noise of about [-1, 1], of three octaves."""
  total = np.zeros((side, side), np.float32)
  for octave, cells in enumerate((14, 28, 56)):
    values = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    total += np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)) / (
      2**octave
    )
  return total


def _scatter(rng: np.random.Generator, image: Image.Image, kind: str, tones: np.ndarray) -> None:
  """Draws dots or flecks of stone, lighter and darker than the tones, on a backdrop."""
  draw, side = ImageDraw.Draw(image), image.width
  count = 150 if kind == 'dots' else 260
  for x, y in rng.uniform(0, side, (count, 2)):
    tone = tones[rng.integers(2)] * rng.choice([0.86, 0.93, 1.06]) + rng.uniform(-4, 4, 3)
    fill = tuple(np.clip(np.rint(tone), 0, 255).astype(int).tolist())
    radius = (
      side / EXTENT * (rng.uniform(0.02, 0.06) if kind == 'dots' else rng.uniform(0.02, 0.048))
    )
    if kind == 'dots':
      draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill)
      continue
    corners = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(4, 7)))
    reach = radius * rng.uniform(0.7, 1.3, len(corners))
    points = np.stack([x + reach * np.cos(corners), y + reach * np.sin(corners)], 1)
    draw.polygon([tuple(point) for point in points.tolist()], fill)


def _paint(scene: Scene, backdrop: Image.Image, seconds: float, size: int) -> np.ndarray:
  x, y, zoom = scene.window(seconds)
  scale = backdrop.width / EXTENT
  middle = (EXTENT - 1) / 2
  left, top, right, bottom = (
    (middle + place + half) * scale for half in (-0.5 / zoom, 0.5 / zoom) for place in (x, y)
  )
  box = left, top, right, bottom
  resized = backdrop.resize((size, size), Image.Resampling.BICUBIC, box)
  frame = np.asarray(resized).astype(np.float32)
  things = scene.at(seconds)
  # The first thing lies over the others unless the caption says 'behind'.
  for thing in things if scene.relation == 'behind' else reversed(things):
    _paint_thing(frame, thing, size)
  return np.rint(np.clip(frame, 0, 255)).astype(np.uint8)


def _paint_thing(frame: np.ndarray, thing: Thing, size: int) -> None:
  """Paints a shape's shadow and the shape, in place."""
  radius = thing.radius * size
  reach = MARGIN * radius + 1
  left, top = (max(int(place * size - reach), 0) for place in (thing.x, thing.y))
  right, bottom = (int(place * size + reach) + 1 for place in (thing.x, thing.y))
  window = frame[top:bottom, left:right]
  rows, columns = window.shape[:2]
  x = ((np.arange(left, left + columns, dtype=np.float32) + 0.5) / size - thing.x)[
    None
  ] / thing.radius
  y = ((np.arange(top, top + rows, dtype=np.float32) + 0.5) / size - thing.y)[
    :, None
  ] / thing.radius
  offset_x, offset_y = SHADOW_OFFSET
  shadow = outlines.distance(thing.shape, x - offset_x, y - offset_y, thing.angle)
  depth = np.clip(0.5 - shadow / (2 * SHADOW_SOFTNESS), 0, 1)
  window *= 1 - (SHADOW * depth * depth * (3 - 2 * depth))[..., None]
  distance = outlines.distance(thing.shape, x, y, thing.angle)
  down, across = np.gradient(distance, 1 / radius)
  slope = np.clip(1 + distance / BEVEL, 0, 1) ** 2
  facing = slope * (across * LIGHT[0] + down * LIGHT[1])
  light = 1 + 0.06 * (LIGHT[0] * x + LIGHT[1] * y) + np.where(facing > 0, 0.2, 0.26) * facing
  color = light[..., None] * np.array(captions.COLORS[thing.color], np.float32)
  # One pixel of linear coverage across the outline is the antialiasing.
  coverage = np.clip(0.5 - distance * radius, 0, 1)[..., None]
  window += coverage * (np.minimum(color, 255) - window)
