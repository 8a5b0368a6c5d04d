"""Copies of one video or image: equal bytes, or frames that look the same.

A frame's hash is 64 signs of its low frequencies (pHash), which scaling and encoding barely touch.
Candidates are neighbours when hashes are sorted, starting from several of their bits (Manku et al.
2007), so that nothing is compared with everything; they are copies if all their hashes are near.
"""

from collections.abc import Sequence

import cv2
import numpy as np

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


def groups(sha256: Sequence[str], hashes: Sequence[Sequence[int]]) -> np.ndarray:
  """Numbers the groups of copies.

  Args:
    sha256: of each example's bytes.
    hashes: of each example's frames; only examples with as many are compared.
  Returns:
    int64, the smallest index of an example's group: its own if it has no copy.
  """
  parent = list(range(len(sha256)))

  def root(index):
    while parent[index] != index:
      parent[index] = parent[parent[index]]
      index = parent[index]
    return index

  def join(first, second):
    first, second = root(first), root(second)
    parent[max(first, second)] = min(first, second)

  by_digest: dict[str, int] = {}
  for index, digest in enumerate(sha256):
    join(by_digest.setdefault(digest, index), index)
  for count in {len(item) for item in hashes} - {0}:
    rows = np.array([i for i, item in enumerate(hashes) if len(item) == count])
    values = np.array([hashes[i] for i in rows], np.uint64)
    for first, second in _near_pairs(values):
      join(int(rows[first]), int(rows[second]))
  return np.array([root(index) for index in range(len(parent))], np.int64)


def _near_pairs(hashes_NF):
  """Yields index pairs whose F hashes all differ by at most MAX_DISTANCE bits."""
  # The middle frame names the candidates, and every frame decides. Up to 6 wrong bits leave 9 in a
  # row that are right, from where sorting brings two copies together; 20 in a row are usual.
  middle = hashes_NF[:, hashes_NF.shape[1] // 2]
  for shift in range(0, 64, ROTATION_BITS):
    left, right = np.uint64(shift), np.uint64(64 - shift)
    rotated = middle if shift == 0 else (middle << left) | (middle >> right)
    order = np.argsort(rotated, kind='stable')
    for step in range(1, NEIGHBOURS + 1):
      first, second = order[:-step], order[step:]
      distance = np.bitwise_count(hashes_NF[first] ^ hashes_NF[second])
      near = (distance <= MAX_DISTANCE).all(axis=1)
      yield from zip(first[near].tolist(), second[near].tolist(), strict=True)
