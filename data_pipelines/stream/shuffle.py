"""Endless shuffled epochs as a random-access dataset: the order is a function of (seed, index).

Memory does not grow with the length: 6,000,000,000 items take 9 us per index and no table.
"""

from typing import cast

import grain
import numpy as np

MAX_PERMUTED = 1 << 16  # Up to here a permutation is held, of 8 bytes per item.


def epochs(length: int, seed: int) -> 'Epochs':
  """0 .. length - 1 in an order that differs each epoch, without end; each epoch has each once."""
  if length <= MAX_PERMUTED:
    return _Permutations(length, seed)
  if _shuffle_is_broken(length):
    # The last one keeps its place at the end of each epoch.
    parts = [
      grain.MapDataset.range(length - 1).seed(seed).shuffle(),
      grain.MapDataset.range(length - 1, length),
    ]
    return grain.MapDataset.concatenate(parts).repeat()
  return grain.MapDataset.range(length).seed(seed).shuffle().repeat()


class _Permutations:
  """Shuffles few items: there Grain's shuffle is slow (7 ms per index for 4 items, measured)."""

  def __init__(self, length: int, seed: int):
    self.length = length
    self.seed = seed
    self.cached: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

  def __getitem__(self, index: int) -> np.integer:
    epoch, position = divmod(index, self.length)
    cached_epoch, order = self.cached
    if cached_epoch != epoch:
      order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
      self.cached = (epoch, order)
    return order[position]


def number(order: 'Epochs', index: int) -> int:
  """The number at a place of `epochs`."""
  return int(cast(np.integer, order[index]))  # Nothing is filtered, so not None.


def take(order: 'Epochs', length: int, start: int, stop: int) -> np.ndarray:
  """Numbers at the places start .. stop - 1 of `epochs`, which lie in one epoch; int64.

  Of few items at once; of many, 9 us each.
  """
  if isinstance(order, _Permutations):
    order[start - start % length]  # Holds the permutation of the epoch.
    first = start % length
    return order.cached[1][first : first + stop - start]
  return np.fromiter((order[i] for i in range(start, stop)), np.int64, stop - start)


Epochs = grain.MapDataset | _Permutations


def _shuffle_is_broken(length: int) -> bool:
  """Grain 0.2.18 repeats an element of 2^k + 1, for even k >= 16, and leaves out another."""
  bits = (length - 1).bit_length() - 1
  return length - 1 == 1 << bits and bits >= 16 and bits % 2 == 0
