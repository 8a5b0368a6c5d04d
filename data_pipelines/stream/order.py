"""Which rows each step draws: a function of the step, without a look at any record.

Per bucket: cells -> each shuffled anew in each of its epochs -> mixed by their shares. All of it is
random access, so the position of a run is its step.
"""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import reader
from data_pipelines.index import table as table_lib
from data_pipelines.stream import mixture, shares, shuffle

VERSION = 2  # Of the order of the examples: part of the fingerprint.
Draw = tuple[int, tuple[int, int]]  # (index in the bucket's stream, (number of the cell, place)).


@dataclasses.dataclass(frozen=True)
class Standing:
  """Where a cell's draws stand.

  Attributes:
    start: place in the cell's endless epochs from which it goes on.
    first: bool (N,), which of its rows are drawn before that, once each; None: none is.
  """

  start: int = 0
  first: np.ndarray | None = None


class CellDraws:
  """index -> place in the table: a cell in shuffled epochs without end.

  Args:
    cell: whose places they are.
    seed: of the order.
    begin: the index that is drawn first.
    standing: what was drawn of it before.
  """

  def __init__(
    self, cell: table_lib.Cell, seed: int, begin: int = 0, standing: Standing | None = None
  ):
    self.cell, self.seed = cell, seed
    self._epochs = shuffle.epochs(len(cell.places), seed)
    standing = standing or Standing()
    self._begin, self._start = begin, standing.start
    self._first: np.ndarray = np.zeros(0, np.int64)
    if standing.first is not None:
      small = np.uint32 if len(cell.places) < 2**32 else np.uint64
      self._first = np.flatnonzero(standing.first).astype(small)
      self._first_order = shuffle.epochs(len(self._first), zlib.crc32(f'{seed} {begin}'.encode()))

  def __getitem__(self, index: int) -> int:
    index -= self._begin
    if index < 0:
      raise IndexError(f'{-index} draws before the stream of cell {self.cell.name!r} begins')
    if index < len(self._first):
      number = self._first[shuffle.number(self._first_order, index)]
    else:
      number = shuffle.number(self._epochs, index - len(self._first) + self._start)
    return int(self.cell.places[number])

  def standing(self, index: int) -> Standing:
    """Where it stands when it has drawn what is before an index."""
    index -= self._begin
    if index < len(self._first):
      numbers = shuffle.take(self._first_order, len(self._first), index, len(self._first))
      return Standing(self._start, _mask(len(self.cell.places), self._first[numbers]))
    return Standing(self._start + index - len(self._first))

  def left(self, index: int) -> tuple[int, np.ndarray]:
    """(number of the whole epoch that comes next, bool (N,): what the one before it has not drawn).

    Where an epoch has just ended, the one that begins is all to be drawn.

    Args:
      index: whose draw comes next.
    """
    length, standing = len(self.cell.places), self.standing(index)
    if standing.first is not None:
      return standing.start // length, standing.first
    epoch, drawn = divmod(standing.start, length)
    start = epoch * length
    if 2 * drawn < length:  # The fewer ones are looked up.
      numbers = shuffle.take(self._epochs, length, start, start + drawn)
      return epoch + 1, ~_mask(length, numbers)
    numbers = shuffle.take(self._epochs, length, start + drawn, start + length)
    return epoch + 1, _mask(length, numbers)


def _mask(length: int, numbers: np.ndarray) -> np.ndarray:
  found = np.zeros(length, bool)
  found[numbers] = True
  return found


class BucketDraws:
  """index -> Draw, of a bucket's endless stream.

  Args:
    bucket: of the draws.
    cells: of its rows.
    cell_mixture: of the cells.
    seed: of the bucket.
  """

  def __init__(
    self,
    bucket: buckets_lib.Bucket,
    cells: Sequence[table_lib.Cell],
    cell_mixture: mixture.Mixture,
    seed: int,
  ):
    self.bucket, self.seed = bucket, seed
    self.cells = [CellDraws(cell, zlib.crc32(f'{seed} {cell.name}'.encode())) for cell in cells]
    self._mixture = cell_mixture

  def __len__(self) -> int:
    return sum(len(draws.cell.places) for draws in self.cells)

  def __getitem__(self, index: int) -> Draw:
    number, position = self._mixture[index]
    return index, (number, self.cells[number][position])

  def counts(self, index: int) -> list[int]:
    """How many of the draws before an index each cell gives."""
    return self._mixture.counts(index)


class Order:
  """step -> (number of its bucket, the draws of its global batch).

  Args:
    table: whose places are drawn.
    buckets: shapes of the steps.
    names: of the corpora.
    seed: of the run.
    sources: weights of the corpora, as of TrainStream.
    phases: likewise.

  Attributes:
    table: that was given.
    buckets: BucketDraws of those that are drawn: all but aspects that no example has.
    described: what the fingerprint tells, but for the phases.
    phases: as the fingerprint tells them.
    fingerprint: of the order alone: of no caption, cache or field.
  """

  def __init__(
    self,
    table: table_lib.Table,
    buckets: Sequence[buckets_lib.Bucket],
    names: Sequence[str],
    seed: int,
    sources: Mapping[str, float] | None = None,
    phases: Sequence[Mapping[str, Any]] = (),
  ):
    groups = buckets_lib.groups(buckets)
    weights = {name: sum(one.weight for one in members) for name, members in groups.items()}
    planned = mixture.read_phases(phases, weights, sources or {}, names)
    drawn = shares.plan(table, buckets, planned)
    self.table = table
    self._steps = shares.Steps(drawn, planned)
    self.buckets: list[BucketDraws] = []
    for number, one in enumerate(drawn):
      # Its phases begin at the bucket's own draws.
      starts = [self._steps.counts(p.start)[number] * one.bucket.batch_size for p in planned]
      phased = zip(starts, one.shares, strict=True)
      cell_mixture = mixture.Mixture([(start, each) for start, each in phased if each.any()])
      bucket_seed = zlib.crc32(f'{seed} {one.bucket.name}'.encode())
      self.buckets.append(BucketDraws(one.bucket, one.cells, cell_mixture, bucket_seed))
    self.described = [VERSION, table.fingerprint, *(b.described() for b in buckets), seed]
    self.phases = [dataclasses.astuple(phase) for phase in planned]
    self.fingerprint = digest([*self.described, self.phases])

  def __getitem__(self, step: int) -> tuple[int, range]:
    """(number of the bucket, indices in its stream) of a step's global batch."""
    number, batch = self._steps[step]
    size = self.buckets[number].bucket.batch_size
    return number, range(batch * size, (batch + 1) * size)

  def bucket(self, step: int) -> buckets_lib.Bucket:
    """Of a step."""
    return self.buckets[self[step][0]].bucket

  def rows(self, step: int) -> list[int]:
    """The rows of the corpora that a step draws."""
    number, indices = self[step]
    return [self.table.row(self.buckets[number][i][1][1]) for i in indices]

  def counts(self, step: int) -> list[list[int]]:
    """How many of the draws before a step each bucket's cells give."""
    counts = self._steps.counts(step)
    return [
      draws.counts(count * draws.bucket.batch_size)
      for draws, count in zip(self.buckets, counts, strict=True)
    ]

  def go_on(self, step: int, standings: Mapping[tuple[str, str], Standing]) -> None:
    """Begins at a step, with cells whose epochs are under way.

    Args:
      step: that is drawn first.
      standings: by names of bucket and cell; a cell that is not named begins anew.
    """
    for draws, counts in zip(self.buckets, self.counts(step), strict=True):
      draws.cells = [
        CellDraws(each.cell, each.seed, begin, standings.get((draws.bucket.name, each.cell.name)))
        for each, begin in zip(draws.cells, counts, strict=True)
      ]


def open_table(corpora: reader.Corpora, index: str) -> table_lib.Table:
  """The table of an index, or of all rows if index is ''; raises ValueError as table.read."""
  return table_lib.read(index, corpora) if index else table_lib.whole(corpora)


def from_config(config: Mapping[str, Any], corpora: reader.Corpora) -> Order:
  """The order of a run's config, before any change of it; raises ValueError as TrainStream."""
  data = config['data']
  table = open_table(corpora, data.get('index', ''))
  weights = (data.get('sources') or {}, data.get('phases') or ())
  return Order(table, buckets_lib.from_config(config), corpora.names, config['seed'], *weights)


def digest(described: Any) -> str:
  """16 hex digits that change with what is described, for JSON."""
  return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
