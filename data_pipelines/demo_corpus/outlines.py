"""Outlines of the scenes' shapes, as signed distances: edges, soft shadows and relief come of one.

Lengths are in radii: a shape reaches about one from its centroid, which is the origin, with equal
areas within a third. x goes right, y down.
"""

import functools
import math

import numpy as np

REACH = 1.25  # No outline is farther from the origin.
# Turns that leave the outline as it is, in one round; 0 is every turn.
SYMMETRY = {
  'circle': 0,
  'square': 4,
  'triangle': 3,
  'star': 5,
  'cross': 4,
  'ring': 0,
  'heart': 1,
}


def distance(shape: str, x: np.ndarray, y: np.ndarray, angle: float = 0.0) -> np.ndarray:
  """Signed distance from a shape's outline, negative inside.

  Args:
    shape: of SYMMETRY.
    x: to the right of the centroid.
    y: below the centroid; both broadcast.
    angle: radians by which the shape is turned clockwise as one sees it.
  """
  if angle:
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = x * cos + y * sin, y * cos - x * sin
  if shape == 'circle':
    return np.hypot(x, y) - 0.95
  if shape == 'ring':
    return np.abs(np.hypot(x, y) - 0.79) - 0.26
  if shape == 'heart':
    return _heart(x, y)
  if shape == 'cross':
    long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return _box(long - 1.08, short - 0.38)
  corners, outer, inner = {
    'square': (4, 1.2, 1.2 * math.cos(math.pi / 4)),
    'triangle': (3, 1.25, 1.25 * math.cos(math.pi / 3)),
    'star': (5, 1.25, 0.56),
  }[shape]
  return _points(x, y, corners, outer, inner, math.pi / 4 if shape == 'square' else 0)


@functools.cache
def extent(shape: str, right: float, down: float) -> float:
  """How far an upright shape reaches in a direction of length one, to a hundredth.

  Args:
    shape: of SYMMETRY.
    right: of the direction.
    down: likewise.
  """
  axis = np.linspace(-REACH, REACH, 251)
  x, y = np.meshgrid(axis, axis)
  return float((x * right + y * down)[distance(shape, x, y) < 0].max())


def _box(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Distance of a rectangle, from what x and y are beyond its sides."""
  return np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0)


def _points(
  x: np.ndarray, y: np.ndarray, corners: int, outer: float, inner: float, turned: float
) -> np.ndarray:
  """Distance of a star: corners at `outer` from the origin, notches at `inner`, the first up.

  By symmetry all edges fold onto one, from a corner to a notch; a regular polygon is a star whose
  notches lie on its sides.
  """
  sector = 2 * math.pi / corners
  angle = np.arctan2(x, -y) - turned
  angle = np.abs((angle + sector / 2) % sector - sector / 2)
  radius = np.hypot(x, y)
  x, y = radius * np.sin(angle), radius * np.cos(angle) - outer
  edge_x, edge_y = inner * math.sin(sector / 2), inner * math.cos(sector / 2) - outer
  along = np.clip((x * edge_x + y * edge_y) / (edge_x**2 + edge_y**2), 0, 1)
  length = np.hypot(x - along * edge_x, y - along * edge_y)
  return np.where(x * edge_y - y * edge_x < 0, length, -length)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Distance of a heart: a square on its tip and two half circles (Quilez, "2D distance functions",
  https://iquilezles.org/articles/distfunctions2d)."""
  scale, centroid = 1.75, 0.657
  x, y = np.abs(x) / scale, centroid - y / scale
  circle = np.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
  along = np.maximum(x + y, 0) / 2
  nearest = np.minimum(np.hypot(x, y - 1), np.hypot(x - along, y - along))
  return np.where(x + y > 1, circle, np.where(x > y, nearest, -nearest)) * scale
