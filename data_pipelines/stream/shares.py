"""How often each bucket is drawn, and each of its cells, from phase to phase.

The aspects of a bucket share its steps as the bucket's own draws fall on their examples: without an
index in proportion to how many each has, with one as the shares of the cells say. So the steps of a
group are where they are without aspects, an example is drawn as often, and an epoch of the group is
one of each aspect.
"""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from data_pipelines.corpus import aspects
from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.index import table as table_lib
from data_pipelines.stream import mixture


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A bucket that is drawn.

  Attributes:
    bucket: the shape.
    cells: of the rows that fill it.
    weights: of the bucket within its group in each phase; 0 where it rests.
    shares: of the draws of the group that each cell gets in each phase.
  """

  bucket: buckets_lib.Bucket
  cells: list[table_lib.Cell]
  weights: list[float] = dataclasses.field(default_factory=list)
  shares: list[np.ndarray] = dataclasses.field(default_factory=list)


def plan(
  table: table_lib.Table, buckets: Sequence[buckets_lib.Bucket], phases: Sequence[mixture.Phase]
) -> list[Drawn]:
  """The buckets in their order, but for aspects that no example has in any phase.

  Args:
    table: whose rows are drawn.
    buckets: of the run.
    phases: of mixture.read_phases, whose buckets are named by their groups.
  Raises:
    ValueError: no row fills a bucket or any of its aspects, or it is drawn in no phase.
  """
  groups = buckets_lib.groups(buckets)
  sizes = {name: members[0].batch_size for name, members in groups.items()}
  by_source = any(phase.sources for phase in phases)
  found = []
  for name, members in groups.items():
    drawn = [Drawn(bucket, table.filling(bucket, by_source)) for bucket in members]
    pooled = _pooled(drawn)
    if not pooled:
      raise ValueError(table.nothing_fits(members[0]))
    for phase in phases:
      draws = {group: weight * sizes[group] for group, weight in phase.buckets.items()}
      shares = np.zeros(len(pooled))
      if name in draws:
        try:
          shares = table.shares(pooled, draws[name] / sum(draws.values()), phase.sources)
        except ValueError as error:
          raise ValueError(f'bucket {name!r} from step {phase.start} on: {error}') from error
      _add_phase(drawn, pooled, shares)
    if not any(any(one.weights) for one in drawn):
      raise ValueError(f'bucket {name!r} is drawn in no phase: leave it out of data.buckets.')
    _tell(table, name, drawn)
    found += drawn
  return [one for one in found if any(one.weights)]


def _pooled(drawn: Sequence[Drawn]) -> list[table_lib.Cell]:
  """The cells of all aspects together, each with as many places as they have of it."""
  if len(drawn) == 1:
    return drawn[0].cells
  counts: dict[tuple[str, str], int] = {}
  for one in drawn:
    for cell in one.cells:
      key = (cell.name, cell.source)
      counts[key] = counts.get(key, 0) + len(cell.places)
  return [table_lib.Cell(name, range(num), source) for (name, source), num in counts.items()]


def _add_phase(
  drawn: Sequence[Drawn], pooled: Sequence[table_lib.Cell], shares: np.ndarray
) -> None:
  """Adds a phase to the aspects of a group.

  Args:
    drawn: the aspects.
    pooled: of `_pooled`.
    shares: of these cells; all 0 where the group rests.
  """
  if len(drawn) == 1:
    drawn[0].weights.append(float(shares.any()))
    drawn[0].shares.append(shares)
    return
  per_row = {
    (cell.name, cell.source): share / len(cell.places)
    for cell, share in zip(pooled, shares, strict=True)
  }
  for one in drawn:
    mine = np.array([per_row[cell.name, cell.source] * len(cell.places) for cell in one.cells])
    one.weights.append(float(mine.sum()))
    one.shares.append(mine)


class Steps:
  """step -> (number of the bucket, index in that bucket's stream of batches).

  Args:
    drawn: of `plan`.
    phases: that they were planned for.
  """

  def __init__(self, drawn: Sequence[Drawn], phases: Sequence[mixture.Phase]):
    members_of: dict[str, list[int]] = {}
    for number, one in enumerate(drawn):
      members_of.setdefault(one.bucket.group, []).append(number)
    self._numbers = list(members_of.values())
    self._groups = mixture.Mixture(
      [(phase.start, [phase.buckets.get(name, 0.0) for name in members_of]) for phase in phases]
    )
    self._aspects = []
    for group, members in enumerate(self._numbers):
      weights = [[drawn[number].weights[i] for number in members] for i in range(len(phases))]
      starts = [self._groups.counts(phase.start)[group] for phase in phases]
      self._aspects.append(
        mixture.Mixture([each for each in zip(starts, weights, strict=True) if any(each[1])])
      )

  def __getitem__(self, step: int) -> tuple[int, int]:
    group, index = self._groups[step]
    aspect, index = self._aspects[group][index]
    return self._numbers[group][aspect], index

  def counts(self, step: int) -> list[int]:
    """How many of the steps before `step` each bucket gets, by number."""
    found = [0] * sum(map(len, self._numbers))
    for group, count in enumerate(self._groups.counts(step)):
      for number, each in zip(
        self._numbers[group], self._aspects[group].counts(count), strict=True
      ):
        found[number] = each
    return found


def _tell(table: table_lib.Table, name: str, drawn: Sequence[Drawn]) -> None:
  """Logs what each aspect of a group has."""
  bucket = drawn[0].bucket
  if bucket.framing is None:
    return
  counts = aspects.text_of(table.count(bucket.framing, bucket.media))
  logging.info('%ss by aspect for bucket %r, and left out: %s', bucket.media, name, counts)
  for one in drawn:
    num = sum(len(cell.places) for cell in one.cells)
    if 0 < num < one.bucket.batch_size:
      logging.warning(
        'bucket %r has %d examples for batches of %d, which so hold each several times. Leave the '
        'aspect out of data.aspects, or use a smaller batch.',
        one.bucket.name, num, one.bucket.batch_size,
      )  # fmt: skip
