"""Copies of one video or image: equal bytes, or fingerprints (prints.py) that agree.

`proposals` compares hashes: neighbours when they are sorted, starting from several of their bits
(Manku et al. 2007), so that nothing is compared with everything. `is_copy` decides: patches of both
that look the same have to lie alike, up to a shift and a scale, and mirrored or not. A plain frame
has no print, and is a copy by its bytes alone.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

# Scale and place (0 to 1, down and across) of the parts of a frame. Crops of the middle, of which a
# crop of 10 % of each side is the least; what is left of crops at an edge; frames without a mark.
CROPS = ((0.94, 0.5, 0.5), (0.87, 0.5, 0.5), (0.8, 0.5, 0.5))
EDGES = tuple((0.9, down, across) for down in (0.0, 1.0) for across in (0.0, 1.0))
CORNERS = tuple((0.75, down, across) for down in (0.0, 1.0) for across in (0.0, 1.0))
PARTS = (*CROPS, *EDGES, *CORNERS)
# One record of 10 bytes for each point: the patch's hash, and x, y in 1/255 of the longer side.
POINT = np.dtype([('hash', '<u8'), ('place', np.uint8, 2)])
# Signs that mirroring flips: those of odd frequencies across.
ODD = np.uint64(sum(1 << (63 - i) for i in range(64) if i % 2))

MAX_DISTANCE = 8  # Bits of 63. Unrelated pictures differ in 31, hardly any in less than 13.
MAX_UNCERTAIN = 20  # Of frames that alone would prove nothing.
ROTATION_BITS = 4
NEIGHBOURS = 16
MAX_PATCH_DISTANCE = 14
MIN_MATCHES = 5  # Of 32 points. Of 1,600 pairs of unrelated photographs none had 2.
MIN_SPREAD = 0.06  # Of the longer side's square: a mark that two pictures have is small.
SCALES = (0.7, 1.45)
WITHIN = 5.0  # 1/255 of the longer side.
MIN_APART = 30.0  # Likewise: of two points that tell the scale.

NUM_FRAMES = 3
PRINT = np.dtype(
  [
    ('frames', np.uint64, NUM_FRAMES),  # Hashes of a video's frames; an image has one. 0 is none.
    ('parts', np.uint64, len(PARTS)),  # Of its middle frame; 0 is none.
    ('num_frames', np.uint8),
  ]
)


@dataclasses.dataclass(frozen=True)
class Evidence:
  """What decides whether two examples are copies: of each of 1 or 3 frames, hash and points."""

  hashes: Sequence[int]
  points: Sequence[np.ndarray]

  @classmethod
  def of(cls, row: Mapping) -> 'Evidence':
    """Of a row with schema.CURATE's `hashes` and `points`."""
    points = [np.frombuffer(found, POINT) for found in row['points'] or []]
    return cls(row['hashes'] or [], points)


def groups(
  digest_ND: np.ndarray,
  prints_N: np.ndarray,
  evidence_of: Callable[[np.ndarray], Mapping[int, Evidence]],
) -> np.ndarray:
  """Numbers the groups of copies.

  Args:
    digest_ND: of each example's bytes, as integers.
    prints_N: PRINT of each example.
    evidence_of: indices that ascend -> evidence of each; asked once, for those in a proposal.
  Returns:
    int64, the smallest index of an example's group: its own if it has no copy.
  """
  group_N = joined(np.arange(len(digest_ND)), [same_bytes(digest_ND)])
  pairs_P2 = unique_pairs(prints_N, group_N)
  if not len(pairs_P2):
    return group_N
  return proved(pairs_P2, group_N, evidence_of(np.unique(pairs_P2)))


def print_of(row: Mapping) -> np.ndarray:
  """PRINT, of shape (), of a row with schema.CURATE's `hashes` and `part_hashes`."""
  found = np.zeros((), PRINT)
  hashes, parts = row['hashes'] or [], row.get('part_hashes') or []
  found['num_frames'] = len(hashes)
  found['frames'][: len(hashes)] = hashes
  found['parts'][: len(parts)] = parts
  return found


def proposals(prints_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields arrays of pairs of indices that may be copies: (first, second), first < second.

  Args:
    prints_N: PRINT. Images are compared with images, videos with videos. Of a video the middle
      frames are compared whole, mirrored and by parts; the other two, of which a trim at one end
      leaves one in its place, as they are.
  """
  for count in np.unique(prints_N['num_frames'][prints_N['num_frames'] > 0]).tolist():
    rows = np.flatnonzero(prints_N['num_frames'] == count)
    frames, parts = prints_N['frames'][rows], prints_N['parts'][rows]
    middle = frames[:, count // 2]
    num_crops = len(CROPS) + len(EDGES)
    mirrored = np.where(middle > 0, middle ^ ODD, np.uint64(0))
    lists = [np.column_stack([middle, mirrored, parts[:, :num_crops]])]
    lists += [parts[:, [i]] for i in range(num_crops, parts.shape[1])]
    lists += [frames[:, [i]] for i in range(count) if i != count // 2]
    for hashes_NH in lists:
      for first, second in _near_pairs(hashes_NH):
        yield rows[np.minimum(first, second)], rows[np.maximum(first, second)]


def _near_pairs(hashes_NH: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields arrays of pairs of rows any of whose hashes differ by at most MAX_DISTANCE bits."""
  # 8 wrong bits leave 7 in a row that are right, from where sorting may bring two copies together;
  # 20 in a row are usual.
  row_M = np.repeat(np.arange(len(hashes_NH)), hashes_NH.shape[1])
  hashes_M = hashes_NH.ravel()
  row_M, hashes_M = row_M[hashes_M > 0], hashes_M[hashes_M > 0]
  for shift in range(0, 64, ROTATION_BITS):
    left, right = np.uint64(shift), np.uint64(64 - shift)
    rotated = hashes_M if shift == 0 else (hashes_M << left) | (hashes_M >> right)
    order = np.argsort(rotated, kind='stable')
    in_order, row_in_order = hashes_M[order], row_M[order]
    for step in range(1, NEIGHBOURS + 1):
      near = np.bitwise_count(in_order[:-step] ^ in_order[step:]) <= MAX_DISTANCE
      first, second = row_in_order[:-step][near], row_in_order[step:][near]
      other = first != second
      yield first[other], second[other]


def unique_pairs(prints_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
  """(P, 2): all proposals, each once, of examples that are of different groups."""
  num, found, fresh, num_fresh = len(prints_N), np.zeros(0, np.int64), [], 0
  for first, second in proposals(prints_N):
    is_other = group_N[first] != group_N[second]
    fresh.append(first[is_other] * num + second[is_other])
    num_fresh += len(fresh[-1])
    if num_fresh > num:  # The same pairs come again and again.
      found, fresh, num_fresh = np.unique(np.concatenate([found, *fresh])), [], 0
  found = np.unique(np.concatenate([found, *fresh]))
  return np.stack(np.divmod(found, num), axis=1)


def proved(
  pairs_P2: np.ndarray, group_N: np.ndarray, evidence: Mapping[int, Evidence]
) -> np.ndarray:
  """The groups after the pairs that are copies became one; others of a group need no proof.

  Args:
    pairs_P2: of `unique_pairs`.
    group_N: as of `joined`.
    evidence: of each example that is in a pair.
  """
  leader = dict(zip(*[np.unique(pairs_P2)] * 2, strict=True))

  def group(index: int) -> int:
    while leader[index] != index:
      leader[index] = leader[leader[index]]
      index = leader[index]
    return index

  for first, second in pairs_P2.tolist():
    one, other = group(first), group(second)
    if one != other and is_copy(evidence[first], evidence[second]):
      leader[max(one, other)] = min(one, other)
  members = np.array(list(leader), np.int64)
  return joined(group_N, [(members, np.array([group(m) for m in members.tolist()], np.int64))])


def is_copy(one: Evidence, other: Evidence) -> bool:
  """Whether the frames of two examples show the same.

  Of a video two of three frames have to agree, or one, if the others may: a trim moves them.
  """
  if not one.points or len(one.points) != len(other.points):
    return False
  for mask in (np.uint64(0), ODD):
    pairs = zip(one.points, other.points, strict=True)
    num_alike = sum(_agree(first, second, mask) for first, second in pairs)
    distances = [
      (np.uint64(first) ^ np.uint64(second) ^ (mask if first and second else np.uint64(0)))
      for first, second in zip(one.hashes, other.hashes, strict=True)
    ]
    may_be = max(np.bitwise_count(distances)) <= MAX_UNCERTAIN
    if num_alike >= min(2, len(one.points)) or (num_alike and may_be):
      return True
  return False


def _agree(one: np.ndarray, other: np.ndarray, mask: np.uint64) -> bool:
  """Whether enough POINTs look alike and lie alike; mask is ODD for a mirrored picture."""
  if not len(one) or not len(other):
    return False
  distance = np.bitwise_count(one['hash'][:, None] ^ mask ^ other['hash'])
  is_best = (distance == distance.min(axis=1, keepdims=True)) & (distance == distance.min(axis=0))
  i, j = np.nonzero(is_best & (distance <= MAX_PATCH_DISTANCE))
  if len(i) < MIN_MATCHES:
    return False
  from_N2, to_N2 = one['place'][i].astype(np.float32), other['place'][j].astype(np.float32)
  if mask:
    from_N2[:, 0] *= -1
  # Each two matches tell a scale and a shift; those of one picture agree with one such.
  apart = np.linalg.norm(from_N2[:, None] - from_N2, axis=-1)
  scale = np.linalg.norm(to_N2[:, None] - to_N2, axis=-1) / np.maximum(apart, 1e-6)
  is_told = (apart > MIN_APART) & (scale > SCALES[0]) & (scale < SCALES[1])
  a, b = np.nonzero(np.triu(is_told))
  if not len(a):
    return False
  scale_H1 = scale[a, b][:, None]
  shift_H2 = (to_N2[a] + to_N2[b] - scale_H1 * (from_N2[a] + from_N2[b])) / 2
  error_HN = np.linalg.norm(from_N2 * scale_H1[..., None] + shift_H2[:, None] - to_N2, axis=-1)
  best = (error_HN < WITHIN)[(error_HN < WITHIN).sum(axis=1).argmax()]
  if min(len(set(i[best])), len(set(j[best]))) < MIN_MATCHES:
    return False
  return float(np.prod(np.ptp(from_N2[best], axis=0) / 255)) >= MIN_SPREAD


def same_bytes(digest_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of indices of equal digests (integers): (first, second)."""
  order_N = np.lexsort(digest_ND.T)
  is_same = (digest_ND[order_N[1:]] == digest_ND[order_N[:-1]]).all(axis=1)
  return order_N[:-1][is_same], order_N[1:][is_same]


def joined(group_N: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
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
