"""Sorting and grouping more rows than memory has room for.

DuckDB sorts what is more than a block, and writes to disk what exceeds MAX_SORTED; groups take four
bytes per row.
"""

import functools
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

BLOCK = 1 << 20  # Rows that are worked on at a time.
MAX_SORTED = 4 << 30  # Bytes of memory for sorting.


def blocks(num_rows: int) -> Iterator[slice]:
  """Slices of BLOCK rows, in order."""
  for start in range(0, num_rows, BLOCK):
    yield slice(start, min(start + BLOCK, num_rows))


def neighbours(
  keys: Sequence[np.ndarray], reach: int, numbers: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, list[np.ndarray], int]]:
  """The rows in the order of the first key, then of the next, at last of their numbers, in blocks.

  Args:
    keys: unsigned (N,) each, of all rows.
    reach: rows of the block before that begin each block but the first.
    numbers: unsigned (N,), of the rows; a number may come again. They count from 0 if None.
  Yields:
    (int64 (B,), numbers of the rows; their keys, (B,) each; how many were in the block before).
  """
  columns = {f'key_{i}': key for i, key in enumerate(keys)}
  if numbers is None:
    numbers = np.arange(len(keys[0]), dtype=type_for(len(keys[0])))
  columns['row'] = numbers
  if len(numbers) <= BLOCK:
    order = np.lexsort([*reversed(columns.values())])
    yield numbers[order].astype(np.int64), [np.asarray(key)[order] for key in keys], 0
    return
  names = ', '.join(columns)
  with _database().cursor() as db:
    db.execute(f"SET memory_limit = '{MAX_SORTED // 2**20}MiB'")
    db.register('columns', columns)
    reader = db.sql(f'SELECT {names} FROM columns ORDER BY {names}').to_arrow_reader(BLOCK)
    before: dict[str, np.ndarray] = {name: column[:0] for name, column in columns.items()}
    for batch in reader:
      found = {
        name: np.concatenate([before[name], batch.column(name).to_numpy(zero_copy_only=False)])
        for name in columns
      }
      num_before = len(before['row'])
      before = {name: values[-reach:] for name, values in found.items()}
      yield found.pop('row').astype(np.int64), list(found.values()), num_before


@functools.cache
def _database() -> Any:
  import duckdb  # Only for those who compare.

  db = duckdb.connect()
  folder = pathlib.Path(tempfile.gettempdir(), f'sorting-{os.getpid()}')  # Made when it is needed.
  db.execute(f"SET temp_directory = '{folder}'")
  db.execute(f'SET threads = {len(os.sched_getaffinity(0))}')
  return db


class Groups:
  """Rows in groups, each of which is named by its smallest row; at first each row is alone."""

  def __init__(self, num_rows: int):
    # The row itself, or a smaller one of its group.
    self._leader_N = np.arange(num_rows, dtype=type_for(num_rows))

  def join(self, first: np.ndarray, second: np.ndarray) -> None:
    """Makes the groups of each pair one.

    Args:
      first: (P,), rows.
      second: likewise.
    """
    one, other = self.names(first), self.names(second)
    apart = one != other
    if not apart.any():
      return
    from scipy import sparse
    from scipy.sparse import csgraph

    rows, places = np.unique(np.concatenate([one[apart], other[apart]]), return_inverse=True)
    ends = np.split(places, 2)
    graph = sparse.coo_array((np.ones(len(ends[0]), bool), tuple(ends)), (len(rows),) * 2)
    _, label = csgraph.connected_components(graph, directed=False)
    _, smallest = np.unique(label, return_index=True)
    self._leader_N[rows] = rows[smallest[label]]

  def are_one(self, first: int, second: int) -> bool:
    """Whether two rows are of one group."""
    return self._name(first) == self._name(second)

  def join_two(self, first: int, second: int) -> None:
    """Makes the groups of two rows one."""
    one, other = self._name(first), self._name(second)
    self._leader_N[max(one, other)] = min(one, other)

  def _name(self, row: int) -> int:
    leader_N = self._leader_N
    while (leader := leader_N[row]) != row:
      leader_N[row] = leader_N[leader]  # The next way is shorter.
      row = int(leader)
    return row

  def names(self, rows: np.ndarray | slice) -> np.ndarray:
    """The smallest row of the group of each of the rows."""
    found = self._leader_N[rows]
    while True:
      leaders = self._leader_N[found]
      if (leaders == found).all():
        self._leader_N[rows] = found  # The next way is shorter.
        return found
      found = leaders

  def all_names(self) -> np.ndarray:
    """The smallest row of the group of every row, (N,); without a copy: join no more."""
    for block in blocks(len(self._leader_N)):
      self.names(block)
    return self._leader_N


def type_for(num_rows: int) -> type[np.unsignedinteger]:
  """What holds the number of any of so many rows."""
  return np.uint32 if num_rows < 2**32 else np.uint64
