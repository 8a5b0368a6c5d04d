"""Copies of one video or image: equal bytes, or frames that look the same.

A frame's hash is 64 signs of its low frequencies (pHash), which scaling and encoding barely touch.
Candidates are neighbours when hashes are sorted, starting from several of their bits (Manku et al.
2007), so that nothing is compared with everything; they are copies if all their hashes are near.
"""

from collections.abc import Iterator, Sequence

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


def groups(digest_ND: np.ndarray, hashes_NF: np.ndarray, num_hashes_N: np.ndarray) -> np.ndarray:
  """Numbers the groups of copies.

  Args:
    digest_ND: of each example's bytes, as integers.
    hashes_NF: uint64, of each example's frames, from the left.
    num_hashes_N: how many it has; only examples with as many are compared.
  Returns:
    int64, the smallest index of an example's group: its own if it has no copy.
  """
  group_N = np.arange(len(digest_ND))
  order_N = np.lexsort(digest_ND.T)
  is_same = (digest_ND[order_N[1:]] == digest_ND[order_N[:-1]]).all(axis=1)
  group_N = _joined(group_N, [(order_N[:-1][is_same], order_N[1:][is_same])])
  for count in np.unique(num_hashes_N[num_hashes_N > 0]).tolist():
    rows = np.flatnonzero(num_hashes_N == count)
    pairs, num_pairs = [], 0
    for first, second in _near_pairs(hashes_NF[rows, :count]):
      pairs.append((rows[first], rows[second]))
      num_pairs += len(first)
      if num_pairs > len(group_N):  # Where much is alike, pairs are many more than examples.
        group_N, pairs, num_pairs = _joined(group_N, pairs), [], 0
    group_N = _joined(group_N, pairs)
  return group_N


def _joined(group_N: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
  """The groups after those of each pair became one; each is named by its smallest index."""
  from scipy import sparse
  from scipy.sparse import csgraph

  index_N = np.arange(len(group_N))
  first = np.concatenate([index_N, *(first for first, _ in pairs)])
  second = np.concatenate([group_N, *(second for _, second in pairs)])
  graph = sparse.coo_array((np.ones(len(first), bool), (first, second)), (len(group_N),) * 2)
  _, label_N = csgraph.connected_components(graph, directed=False)
  _, smallest = np.unique(label_N, return_index=True)
  return smallest[label_N]


def _near_pairs(hashes_NF: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields arrays of pairs of indices whose F hashes all differ by at most MAX_DISTANCE bits."""
  # The middle frame names the candidates, and every frame decides. Up to 6 wrong bits leave 9 in a
  # row that are right, from where sorting brings two copies together; 20 in a row are usual.
  middle = hashes_NF[:, hashes_NF.shape[1] // 2]
  for shift in range(0, 64, ROTATION_BITS):
    left, right = np.uint64(shift), np.uint64(64 - shift)
    rotated = middle if shift == 0 else (middle << left) | (middle >> right)
    order = np.argsort(rotated, kind='stable')
    in_order = middle[order]
    for step in range(1, NEIGHBOURS + 1):
      near = np.bitwise_count(in_order[:-step] ^ in_order[step:]) <= MAX_DISTANCE
      first, second = order[:-step][near], order[step:][near]
      distance = np.bitwise_count(hashes_NF[first] ^ hashes_NF[second])
      near = (distance <= MAX_DISTANCE).all(axis=1)
      yield first[near], second[near]
