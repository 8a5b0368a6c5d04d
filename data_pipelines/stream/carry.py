"""What a stream carries across a change of its data: each row is drawn once per epoch all the same.

The stream before the change is asked what the epochs under way have left. In the stream after it

- a cell of the same rows goes on in the same order;
- of another cell, the rows that its bucket's group has left of these epochs, and rows that are new
  to the group, come first, in an order of their own; then its epochs are whole again.

A row is known by its corpus, its place in that and its shot: so corpora may grow at their ends, and
be indexed anew.
"""

import functools
import logging
from collections.abc import Mapping

import numpy as np

from data_pipelines.stream import earlier, history
from data_pipelines.stream import order as order_lib

_SPANS = 2**20  # More shots than a video has.


class _Cell:
  """A cell of a stream, whose rows are known by keys that mean the same in both streams.

  Args:
    side: the stream.
    draws: of the cell.
    starts: first row of each corpus in the numbers of the stream after the change, by name.
    count: how many draws it has given.
  """

  def __init__(
    self, side: history.Side, draws: order_lib.CellDraws, starts: Mapping[str, int], count: int = 0
  ):
    self.draws, self.count = draws, count
    self._side, self._starts = side, starts

  @functools.cached_property
  def keys(self) -> np.ndarray:
    """int64 (N,): row and shot of each place; -1 where the corpus has no start."""
    table, places = self._side.order.table, self.draws.cell.places
    part = slice(places.start, places.stop) if isinstance(places, range) else places
    if table.rows is not None:
      rows = table.rows[part]
    else:
      rows = np.arange(places.start, places.stop) if isinstance(places, range) else places
    rows = history.renumbered(rows, self._side.corpora, self._starts)
    spans = table.columns['span'][part] if 'span' in table.columns else 0
    return np.where(rows < 0, -1, rows * _SPANS + spans)

  def draws_as(self, other: '_Cell') -> bool:
    """Whether both are the same rows in the same order."""
    mine, its = self.draws, other.draws
    if mine.seed != its.seed or len(mine.cell.places) != len(its.cell.places):
      return False
    tables = [cell._side.order.table.fingerprint for cell in (self, other)]
    if tables[0] == tables[1] and np.array_equal(mine.cell.places, its.cell.places):
      return True  # Without a look at what may be a billion rows.
    return np.array_equal(self.keys, other.keys)


class _Group:
  """The cells of a bucket's group before a change, by names of bucket and cell."""

  def __init__(self) -> None:
    self.cells: dict[tuple[str, str], _Cell] = {}

  def same(self, names: tuple[str, str], cell: _Cell) -> order_lib.Standing | None:
    """Where the cell of these names stands, if it is the same."""
    old = self.cells.get(names)
    return old.draws.standing(old.count) if old and old.draws_as(cell) else None

  def rest(self, names: tuple[str, str], cell: _Cell) -> order_lib.Standing:
    """Where another cell begins: with its rows that these have left, or that are new to them."""
    epochs, left, known = self._pooled
    first = np.isin(cell.keys, left) | ~np.isin(cell.keys, known)
    epoch = epochs.get(names, 1)
    if first.all():
      return order_lib.Standing((epoch - 1) * len(first))
    return order_lib.Standing(epoch * len(first), first)

  @functools.cached_property
  def _pooled(self) -> tuple[dict[tuple[str, str], int], np.ndarray, np.ndarray]:
    """(number of each cell's next whole epoch, keys that these have left before it, all keys)."""
    epochs, left, known = {}, [], []
    for names, cell in self.cells.items():
      epochs[names], mask = cell.draws.left(cell.count)
      left.append(cell.keys[mask])
      known.append(cell.keys)
    return epochs, np.concatenate(left), np.concatenate(known)


def between(
  before: history.Side, origin: history.Origin, after: history.Side, step: int
) -> history.Change:
  """The change from one stream to another; logs what it comes to.

  Args:
    before: with its own changes.
    origin: that `before` is made from.
    after: without a change.
    step: that is drawn next.
  """
  same = earlier.continued(after.corpora, origin.corpora)
  for name in sorted({*before.corpora.names, *after.corpora.names}.difference(same)):
    logging.info('corpus %r is not in both: its rows are new, or drawn no more.', name)
  starts = history.starts_of(after.corpora)
  groups = _groups(before, {name: starts[name] for name in same}, step)
  standings = {}
  for draws in after.order.buckets:
    name = draws.bucket.name
    group = groups.get(draws.bucket.group)
    if group is None:
      logging.warning('bucket %r is new, or has another name: its epochs begin anew.', name)
      continue
    rests = []
    for each in draws.cells:
      names, cell = (name, each.cell.name), _Cell(after, each, starts)
      standing = group.same(names, cell)
      if standing is None:
        standing = group.rest(names, cell)
        rests.append(len(cell.keys) if standing.first is None else int(standing.first.sum()))
      standings[names] = standing
    logging.info(
      'bucket %r: of %d cells %d changed; of these %d rows come first, which are new or left of '
      'the epochs under way.', name, len(draws.cells), len(rests), sum(rests),
    )  # fmt: skip
  return history.Change(step, origin, after.order.fingerprint, standings)


def _groups(before: history.Side, starts: Mapping[str, int], step: int) -> dict[str, _Group]:
  """By name of the group, what a stream has drawn before a step."""
  found: dict[str, _Group] = {}
  for draws, counts in zip(before.order.buckets, before.order.counts(step), strict=True):
    group = found.setdefault(draws.bucket.group, _Group())
    for each, count in zip(draws.cells, counts, strict=True):
      group.cells[draws.bucket.name, each.cell.name] = _Cell(before, each, starts, count)
  return found
