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

from data_pipelines.index import table as table_lib
from data_pipelines.stream import earlier, history
from data_pipelines.stream import order as order_lib

_SPANS = 2**20  # More shots than a video has.


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
    num_changed = num_first = 0
    for cell in draws.cells:
      keys = _keys(after, cell.cell, starts)
      standing = group.same(name, cell, keys)
      if standing is None:
        standing = group.rest(name, cell, keys)
        num_changed += 1
        num_first += 0 if standing.first is None else int(standing.first.sum())
      standings[name, cell.cell.name] = standing
    logging.info(
      'bucket %r: of %d cells %d changed; %d rows come first, that are new or left of the epochs '
      'under way.', name, len(draws.cells), num_changed, num_first,
    )  # fmt: skip
  return history.Change(step, origin, after.order.fingerprint, standings)


class _Group:
  """The cells of a bucket's group before a change: (draws, how many, keys), by bucket and name."""

  def __init__(self) -> None:
    self.cells: dict[tuple[str, str], tuple[order_lib.CellDraws, int, np.ndarray]] = {}

  def same(
    self, bucket: str, cell: order_lib.CellDraws, keys: np.ndarray
  ) -> order_lib.Standing | None:
    """Where the cell of this bucket and name stands, if its rows and its order are the same."""
    draws, count, old = self.cells.get((bucket, cell.cell.name), (None, 0, keys))
    if draws is None or draws.seed != cell.seed or not np.array_equal(old, keys):
      return None
    return draws.standing(count)

  def rest(self, bucket: str, cell: order_lib.CellDraws, keys: np.ndarray) -> order_lib.Standing:
    """Where a cell of other rows begins: with what is left of these, or new to the group."""
    epochs, left, known = self._pooled
    first = np.isin(keys, left) | ~np.isin(keys, known)
    epoch = epochs.get((bucket, cell.cell.name), 1)
    if first.all():
      return order_lib.Standing((epoch - 1) * len(first))
    return order_lib.Standing(epoch * len(first), first)

  @functools.cached_property
  def _pooled(self) -> tuple[dict[tuple[str, str], int], np.ndarray, np.ndarray]:
    """(number of each cell's next whole epoch, keys that these have left before it, all keys)."""
    epochs, left, known = {}, [], []
    for names, (draws, count, keys) in self.cells.items():
      epochs[names], mask = draws.left(count)
      left.append(keys[mask])
      known.append(keys)
    return epochs, np.concatenate(left), np.concatenate(known)


def _groups(before: history.Side, starts: Mapping[str, int], step: int) -> dict[str, _Group]:
  """By name of the group, what a stream has drawn before a step; keys are of the `starts`."""
  found: dict[str, _Group] = {}
  for draws, counts in zip(before.order.buckets, before.order.counts(step), strict=True):
    group = found.setdefault(draws.bucket.group, _Group())
    for cell, count in zip(draws.cells, counts, strict=True):
      keys = _keys(before, cell.cell, starts)
      group.cells[draws.bucket.name, cell.cell.name] = cell, count, keys
  return found


def _keys(side: history.Side, cell: table_lib.Cell, starts: Mapping[str, int]) -> np.ndarray:
  """int64 (N,): a row and shot of each place of a cell, alike in both streams; -1 where the corpus
  has no start."""
  table = side.order.table
  places = cell.places
  part = slice(places.start, places.stop) if isinstance(places, range) else places
  if table.rows is None:
    rows = np.arange(places.start, places.stop) if isinstance(places, range) else places
  else:
    rows = table.rows[part]
  rows = history.renumbered(rows, side.corpora, starts)
  spans = table.columns['span'][part] if 'span' in table.columns else 0
  return np.where(rows < 0, -1, rows * _SPANS + spans)
