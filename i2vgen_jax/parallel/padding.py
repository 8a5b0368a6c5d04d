"""Steps of one size: another number of rows would compile a program again."""

from collections.abc import Iterator

import numpy as np


def steps_of_rows(total: int, size: int, shards: int = 1) -> Iterator[tuple[np.ndarray, int]]:
  """(row numbers, how many of them count) of each step over 0..total-1, in order.

  All steps have the same number of rows; the last row fills up the last step.

  Args:
    total: rows in all.
    size: rows of a step, rounded up to a multiple of `shards`.
    shards: parts that a step is divided into, such as mesh.batch_shards.
  """
  size = -(-size // shards) * shards
  for start in range(0, total, size):
    yield np.minimum(np.arange(start, start + size), total - 1), min(size, total - start)
