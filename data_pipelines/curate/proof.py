"""Proof that two examples are copies: patches of both that look the same lie alike.

They lie alike up to a shift and a scale, and mirrored or not. A plain frame has no patches.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data_pipelines.curate import columns

NUM_FRAMES = 3  # Of a video; an image has one.
MAX_POINTS = 32  # Of a frame.
# One record of 10 bytes for each point: the patch's hash, and x, y in 1/255 of the longer side.
POINT = np.dtype([('hash', '<u8'), ('place', np.uint8, 2)])
# Signs that mirroring flips: those of odd frequencies across.
ODD = np.uint64(sum(1 << (63 - i) for i in range(64) if i % 2))

MAX_UNCERTAIN = 20  # Bits of 63 of frames that alone would prove nothing.
MAX_PATCH_DISTANCE = 14
MIN_MATCHES = 5  # Of 32 points. Of 1,600 pairs of unrelated photographs none had 2.
MIN_SPREAD = 0.06  # Of the longer side's square: a mark that two pictures have is small.
SCALES = (0.7, 1.45)
WITHIN = 5.0  # 1/255 of the longer side.
MIN_APART = 30.0  # Likewise: of two points that tell the scale.

_STORED = np.dtype(
  [
    ('hashes', np.uint64, NUM_FRAMES),
    ('num_frames', np.uint8),
    ('num_points', np.uint8, NUM_FRAMES),
    ('points', POINT, (NUM_FRAMES, MAX_POINTS)),
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


class Store:
  """Evidence of examples, by their places, in a file of 1 KB each."""

  def __init__(self, found: Iterable[Evidence]):
    stored = columns.Columns(_STORED)
    for evidence in found:
      one = np.zeros(1, _STORED)
      one['num_frames'] = count = len(evidence.points)
      one['hashes'][0, :count] = evidence.hashes
      for frame, points in enumerate(evidence.points):
        one['num_points'][0, frame] = len(points)
        one['points'][0, frame, : len(points)] = points
      stored.append(one)
    self._stored = stored.mapped()

  def __getitem__(self, place: int) -> Evidence:
    one = {name: values[place] for name, values in self._stored.items()}
    count = int(one['num_frames'])
    counts = one['num_points'][:count].tolist()
    points = [one['points'][frame, :num] for frame, num in enumerate(counts)]
    return Evidence(one['hashes'][:count].tolist(), points)


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
