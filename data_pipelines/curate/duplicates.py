"""Copies of one video or image: equal bytes, or fingerprints (prints.py) that agree.

Hashes propose them: neighbours when they are sorted, starting from several of their bits (Manku et
al. 2007), so that nothing is compared with everything; proof.py decides. A plain frame has no
print, and is a copy by its bytes alone. Whatever is more than a few bytes of each example lies in
files.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from data_pipelines.curate import columns, grouping, proof

# Scale and place (0 to 1, down and across) of the parts of a frame. Crops of the middle, of which a
# crop of 10 % of each side is the least; what is left of crops at an edge; frames without a mark.
CROPS = ((0.94, 0.5, 0.5), (0.87, 0.5, 0.5), (0.8, 0.5, 0.5))
EDGES = tuple((0.9, down, across) for down in (0.0, 1.0) for across in (0.0, 1.0))
CORNERS = tuple((0.75, down, across) for down in (0.0, 1.0) for across in (0.0, 1.0))
PARTS = (*CROPS, *EDGES, *CORNERS)

MAX_DISTANCE = 8  # Bits of 63. Unrelated pictures differ in 31, hardly any in less than 13.
ROTATION_BITS = 4
NEIGHBOURS = 16

PRINT = np.dtype(
  [
    ('frames', np.uint64, proof.NUM_FRAMES),  # Hashes; an image has one. 0 is none.
    ('parts', np.uint64, len(PARTS)),  # Of its middle frame; 0 is none.
    ('num_frames', np.uint8),
  ]
)


def groups(
  digest_ND: np.ndarray,
  prints_N: np.ndarray,
  evidence_of: Callable[[np.ndarray], Iterable[proof.Evidence]],
) -> np.ndarray:
  """Numbers the groups of copies.

  Args:
    digest_ND: of each example's bytes, as integers.
    prints_N: PRINT of each example.
    evidence_of: indices that ascend -> evidence of each; asked once, for those in a proposal.
  Returns:
    The smallest index of an example's group: its own if it has no copy.
  """
  groups = grouping.Groups(len(digest_ND))
  for first, second in _same_bytes(digest_ND):
    groups.join(first, second)
  first_P, second_P = unique_pairs(prints_N, groups)
  if len(first_P):
    _join_proved(first_P, second_P, groups, evidence_of)
  return groups.all_names()


def print_of(row: Mapping) -> np.ndarray:
  """PRINT, of shape (), of a row with schema.CURATE's `hashes` and `part_hashes`."""
  found = np.zeros((), PRINT)
  hashes, parts = row['hashes'] or [], row.get('part_hashes') or []
  found['num_frames'] = len(hashes)
  found['frames'][: len(hashes)] = hashes
  found['parts'][: len(parts)] = parts
  return found


def unique_pairs(prints_N: np.ndarray, groups: grouping.Groups) -> tuple[np.ndarray, np.ndarray]:
  """All proposals of examples that are of different groups, each once and in order.

  Returns:
    (P,), (P,): mapped from files; the first of a pair is the smaller one.
  """
  most = max(len(prints_N), grouping.BLOCK)
  found = columns.Columns(_pair_type(len(prints_N)))
  for one, other in proposals(prints_N):
    is_apart = groups.names(one) != groups.names(other)
    one, other = one[is_apart], other[is_apart]
    found.append(dict(first=np.minimum(one, other), second=np.maximum(one, other)))
    if len(found) > most:  # The same pairs come again and again.
      found = _unique(found)
      most = max(most, 2 * len(found))
  pairs = _unique(found).mapped()
  return pairs['first'], pairs['second']


def _pair_type(num_rows: int) -> np.dtype:
  return np.dtype([(name, grouping.type_for(num_rows)) for name in ('first', 'second')])


def _unique(found: columns.Columns) -> columns.Columns:
  unique, pairs = columns.Columns(found.dtype), found.mapped()
  for second, [first], num_before in grouping.neighbours([pairs['first']], 1, pairs['second']):
    is_new = np.ones(len(first), bool)
    is_new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    is_new[:num_before] = False
    unique.append(dict(first=first[is_new], second=second[is_new]))
  return unique


def proposals(prints_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields arrays of pairs of indices that may be copies; the same pair may come several times.

  Args:
    prints_N: PRINT. Images are compared with images, videos with videos. Of a video the middle
      frames are compared whole, mirrored and by parts; the other two, of which a trim at one end
      leaves one in its place, as they are.
  """
  for count in range(1, proof.NUM_FRAMES + 1):
    for number in range(len(_compared(prints_N[:0], count))):
      yield from _near_pairs(prints_N, count, number)


def _compared(prints_B: np.ndarray, count: int) -> list[np.ndarray]:
  """Hashes that are compared with one another, of examples of `count` frames: (B, H) each."""
  frames, parts = prints_B['frames'], prints_B['parts']
  middle, num_crops = frames[:, count // 2], len(CROPS) + len(EDGES)
  mirrored = np.where(middle > 0, middle ^ proof.ODD, np.uint64(0))
  found = [np.column_stack([middle, mirrored, parts[:, :num_crops]])]
  found += [parts[:, [i]] for i in range(num_crops, len(PARTS))]
  return found + [frames[:, [i]] for i in range(count) if i != count // 2]


def _near_pairs(
  prints_N: np.ndarray, count: int, number: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields arrays of pairs of examples of `count` frames, any of whose hashes in that list of
  _compared differ by at most MAX_DISTANCE bits."""
  listed = columns.Columns(np.dtype([('hash', np.uint64), ('row', _pair_type(len(prints_N))[0])]))
  for block in grouping.blocks(len(prints_N)):
    rows = np.flatnonzero(prints_N['num_frames'][block] == count)
    hashes_BH = _compared(prints_N[block][rows], count)[number]
    is_there = hashes_BH > 0
    listed.append(dict(hash=hashes_BH[is_there], row=block.start + rows[np.nonzero(is_there)[0]]))
  found = listed.mapped()
  if len(listed) < 2:
    return
  # 8 wrong bits leave 7 in a row that are right, from where sorting may bring two copies together;
  # 20 in a row are usual.
  for shift in range(0, 64, ROTATION_BITS):
    rotated = _rotated(found['hash'], shift)
    for rows, [hashes], num_before in grouping.neighbours([rotated], NEIGHBOURS, found['row']):
      for step in range(1, NEIGHBOURS + 1):
        start = max(num_before, step)  # The pairs before were in the block before.
        near = np.bitwise_count(hashes[start - step : -step] ^ hashes[start:]) <= MAX_DISTANCE
        first, second = rows[start - step : -step][near], rows[start:][near]
        other = first != second
        yield first[other], second[other]


def _rotated(hash_M: np.ndarray, shift: int) -> np.ndarray:
  """The hashes with their first bits last, in a file."""
  if not shift:
    return hash_M
  found = columns.Columns(np.dtype([('hash', np.uint64)]))
  for block in grouping.blocks(len(hash_M)):
    rotated = hash_M[block] << np.uint64(shift)
    rotated |= hash_M[block] >> np.uint64(64 - shift)
    found.append(dict(hash=rotated))
  return found.mapped()['hash']


def _join_proved(
  first_P: np.ndarray,
  second_P: np.ndarray,
  groups: grouping.Groups,
  evidence_of: Callable[[np.ndarray], Iterable[proof.Evidence]],
) -> None:
  """Makes the groups of pairs that are copies one; others of a group need no proof."""
  is_proposed_N = np.zeros(1 + int(second_P.max()), bool)
  for block in grouping.blocks(len(first_P)):
    is_proposed_N[first_P[block]] = is_proposed_N[second_P[block]] = True
  rows = np.flatnonzero(is_proposed_N)
  evidence = proof.Store(evidence_of(rows))
  for block in grouping.blocks(len(first_P)):
    pairs = first_P[block], second_P[block]
    places = (np.searchsorted(rows, ends) for ends in pairs)
    for first, second, one, other in zip(*map(np.ndarray.tolist, (*pairs, *places)), strict=True):
      if not groups.are_one(first, second) and proof.is_copy(evidence[one], evidence[other]):
        groups.join_two(first, second)


def _same_bytes(digest_ND: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields arrays of pairs of indices whose digests are equal."""
  for rows, keys, _ in grouping.neighbours(list(digest_ND.T), 1):
    is_same = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    yield rows[:-1][is_same], rows[1:][is_same]
