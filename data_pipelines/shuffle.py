"""Endless shuffled epochs as a random-access dataset: the order is a function of (seed, index)."""

import grain
import numpy as np


def epochs(rows: np.ndarray, seed: int) -> grain.MapDataset:
  """All rows in an order that differs each epoch, without end; each epoch has each row once."""
  if len(rows) <= 1 << 16:
    return grain.MapDataset.range(2**62).map(_Permutations(rows, seed))
  dataset = grain.MapDataset.source(rows).seed(seed)
  if _shuffle_is_broken(len(rows)):
    # The last row keeps its place at the end of each epoch.
    parts = [dataset[: len(rows) - 1].shuffle(), dataset[len(rows) - 1 :]]
    return grain.MapDataset.concatenate(parts).repeat()
  return dataset.shuffle().repeat()


class _Permutations:
  """Shuffles few rows: there Grain's shuffle is slow (7 ms per index for 4 rows, measured)."""

  def __init__(self, rows, seed):
    self.rows = rows
    self.seed = seed
    self.cached = (-1, None)

  def __call__(self, index):
    epoch, position = divmod(index, len(self.rows))
    cached_epoch, order = self.cached
    if cached_epoch != epoch:
      order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
      self.cached = (epoch, order)
    return order[position]


def _shuffle_is_broken(length):
  """Grain 0.2.18 repeats an element of 2^k + 1, for even k >= 16, and leaves out another."""
  bits = (length - 1).bit_length() - 1
  return length - 1 == 1 << bits and bits >= 16 and bits % 2 == 0
