"""Copies of one video or image: equal bytes, or frames that look the same.

A frame's hash is 64 signs of its low frequencies (pHash), which scaling and encoding barely touch.
Candidates are neighbours when hashes are sorted, starting from several of their bits (Manku et al.
2007), so that nothing is compared with everything; they are copies if all their hashes are near.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from data_pipelines.curate import grouping

SIDE = 32
MAX_DISTANCE = 6  # Bits of 64, per frame. Unrelated frames differ in 32, re-encoded ones in 0 to 4.
ROTATION_BITS = 4
NEIGHBOURS = 16


def frame_hash(frame_HWC: np.ndarray) -> int:
  """64 bits of a uint8 BGR frame."""
  grey = cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2GRAY)
  small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
  low = cv2.dct(small)[:8, :8].ravel()
  low[0] = 0  # Brightness alone.
  bits = low > np.median(low[1:])
  return int(np.packbits(bits).view('>u8')[0])


def groups(digest_ND: np.ndarray, hashes_NF: np.ndarray, num_hashes_N: np.ndarray) -> np.ndarray:
  """Numbers the groups of copies.

  Args:
    digest_ND: of each example's bytes, as integers.
    hashes_NF: uint64, of each example's frames, from the left.
    num_hashes_N: how many it has; only examples with as many are compared.
  Returns:
    The smallest index of an example's group: its own if it has no copy.
  """
  groups = grouping.Groups(len(digest_ND))
  for first, second in _same_bytes(digest_ND):
    groups.join(first, second)
  for count in range(1, int(num_hashes_N.max(initial=0)) + 1):
    rows = np.flatnonzero(num_hashes_N == count).astype(np.uint32)
    for first, second in _near_pairs(hashes_NF, rows, count):
      groups.join(first, second)
  return groups.all_names()


def _same_bytes(digest_ND: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields arrays of pairs of indices whose digests are equal."""
  for rows, keys, _ in grouping.neighbours(list(digest_ND.T), 1):
    is_same = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    yield rows[:-1][is_same], rows[1:][is_same]


def _near_pairs(
  hashes_NF: np.ndarray, rows: np.ndarray, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields arrays of pairs of those rows whose first `count` hashes differ by at most MAX_DISTANCE
  bits each."""
  # The middle frame names the candidates, and every frame decides. Up to 6 wrong bits leave 9 in a
  # row that are right, from where sorting brings two copies together; 20 in a row are usual.
  middle = hashes_NF[rows, count // 2]
  for shift in range(0, 64, ROTATION_BITS):
    rotated = middle
    if shift:
      rotated = middle << np.uint64(shift)
      rotated |= middle >> np.uint64(64 - shift)
    for places, [in_order], num_before in grouping.neighbours([rotated], NEIGHBOURS):
      firsts, seconds = [], []
      for step in range(1, NEIGHBOURS + 1):
        start = max(num_before, step)  # The pairs before were in the block before.
        near = np.bitwise_count(in_order[start - step : -step] ^ in_order[start:]) <= MAX_DISTANCE
        first = rows[places[start - step : -step][near]]
        second = rows[places[start:][near]]
        distance = np.bitwise_count(hashes_NF[first, :count] ^ hashes_NF[second, :count])
        near = (distance <= MAX_DISTANCE).all(axis=1)
        firsts.append(first[near])
        seconds.append(second[near])
      yield np.concatenate(firsts), np.concatenate(seconds)
