"""Where a cache's shard holds the shots of videos: of a record, the first one that is drawn lies at
its record's own place, and its others behind all records of the shard.
"""

import functools

import numpy as np

from data_pipelines.corpus import reader
from data_pipelines.index import table as table_lib

_SPANS = 2**20  # More than a video has.


class Slots:
  """The places of a table in the shards of a cache of its corpora.

  Args:
    corpora: whose shards they are.
    table: of the corpora; what it draws of them is cached.
  """

  def __init__(self, corpora: reader.Corpora, table: table_lib.Table):
    self._corpora, self._table = corpora, table
    self._keys = self._places = np.zeros(0, np.int64)
    if 'span' not in table.columns:
      return
    rows = np.asarray(table.rows, np.int64)
    keys = rows * _SPANS + np.asarray(table.columns['span'], np.int64)
    order = np.argsort(keys)
    is_other = np.diff(rows[order], prepend=-1) == 0
    self._places = order[is_other]
    self._keys = keys[self._places]

  def find(self, shard: str, record: int, span: int) -> int:
    """The place in a cache's shard of a shot that the table draws.

    Args:
      shard: the corpus's file of records.
      record: place in that file.
      span: which shot of the record (decoder.Request).
    """
    if not len(self._keys):
      return record
    rows = self._corpora.rows_of(shard)
    key = (rows.start + record) * _SPANS + span
    first, found = np.searchsorted(self._keys, [rows.start * _SPANS, key])
    is_other = found < len(self._keys) and self._keys[found] == key
    return len(rows) + int(found - first) if is_other else record

  def places(self, shard: str) -> np.ndarray:
    """What each record of a cache's shard is of: a place in the table, -1 for none; int64."""
    rows = self._corpora.rows_of(shard)
    first, last = np.searchsorted(self._keys, [rows.start * _SPANS, rows.stop * _SPANS])
    return np.concatenate([self._own[rows.start : rows.stop], self._places[first:last]])

  @functools.cached_property
  def _own(self) -> np.ndarray:
    """By row, the place of the first of its shots that is drawn."""
    rows = np.arange(len(self._corpora)) if self._table.rows is None else self._table.rows
    is_own = np.ones(len(rows), bool)
    is_own[self._places] = False
    own_N = np.full(len(self._corpora), -1)
    own_N[rows[is_own]] = np.flatnonzero(is_own)
    return own_N
