"""Large frames in overlapping squares, blended where they overlap: memory for one square at a time.

Dimension key: B batch, H W height and width, C channels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def apply_in_tiles(
  function: Callable[[jax.Array], Any], x_BHWC: jax.Array, tile: int, overlap: int, scale: int
) -> jax.Array:
  """An enlarging `function` of images, applied to squares of them.

  What a square sees ends at its border, so the result is close to the whole frame's, not equal.

  Args:
    function: (B, h, w, C) -> (B, scale h, scale w, C') for any size.
    x_BHWC: any size.
    tile: side of the squares; frames that fit into one are done whole, and with 0 all are.
    overlap: least overlap of neighbours, at most tile / 2; weights ramp up over it.
    scale: by how much the function enlarges.

  Returns:
    (B, scale H, scale W, C').
  """
  batch_size, height, width, channels = x_BHWC.shape
  if not tile or (height <= tile and width <= tile):
    return function(x_BHWC)
  tops_N, rows = _cover(height, tile, overlap)
  lefts_N, columns = _cover(width, tile, overlap)
  corners_N2 = np.array([(top, left) for top in tops_N for left in lefts_N], np.int32)
  weight_HW1 = np.outer(
    _window(rows, overlap, scale, len(tops_N)), _window(columns, overlap, scale, len(lefts_N))
  )[..., None]
  total_HW1 = np.zeros((scale * height, scale * width, 1), np.float32)
  for top, left in scale * corners_N2:
    total_HW1[top : top + scale * rows, left : left + scale * columns] += weight_HW1

  def add_tile(sum_BHWC, corner):
    top, left = corner
    part_BHWC = jax.lax.dynamic_slice(
      x_BHWC, (0, top, left, 0), (batch_size, rows, columns, channels)
    )
    part_BHWC = function(part_BHWC) * weight_HW1
    start = (0, scale * top, scale * left, 0)
    before_BHWC = jax.lax.dynamic_slice(sum_BHWC, start, part_BHWC.shape)
    return jax.lax.dynamic_update_slice(sum_BHWC, before_BHWC + part_BHWC, start), None

  example = jax.eval_shape(function, x_BHWC[:, :rows, :columns])
  zeros_BHWC = jnp.zeros((batch_size, *total_HW1.shape[:2], example.shape[-1]), jnp.float32)
  sum_BHWC, _ = jax.lax.scan(add_tile, zeros_BHWC, jnp.asarray(corners_N2))
  return sum_BHWC * (1 / total_HW1)


def _cover(size: int, tile: int, overlap: int) -> tuple[np.ndarray, int]:
  """(starts, length) of the fewest equal intervals that cover `size`, spread evenly."""
  if size <= tile:
    return np.array([0]), size
  count = -(-(size - overlap) // (tile - overlap))
  return np.linspace(0, size - tile, count).round().astype(np.int32), tile


def _window(length: int, overlap: int, scale: int, count: int) -> np.ndarray:
  """float32 (scale * length,) weights in (0, 1], ramping up at both ends where there are
  neighbours."""
  if count == 1:
    return np.ones(scale * length, np.float32)
  distance = np.minimum(np.arange(scale * length), np.arange(scale * length)[::-1]) + 0.5
  return np.minimum(distance / (scale * overlap), 1).astype(np.float32)
