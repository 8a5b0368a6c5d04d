"""Numbers of more rows than memory has room for: columns in files, which are mapped into memory."""

import tempfile

import numpy as np


class Columns:
  """Rows of a structured type, a file for each field, which goes with its map.

  Args:
    dtype: names the columns; a column may have several numbers a row, or be structured itself.
  """

  def __init__(self, dtype: np.dtype):
    self.dtype = dtype
    self._files = {name: tempfile.TemporaryFile() for name in dtype.names or ()}  # In TMPDIR.
    self._num_rows = 0

  def __len__(self) -> int:
    return self._num_rows

  def append(self, rows: np.ndarray | dict[str, np.ndarray]) -> None:
    """Adds rows: a structured array, or a column for each name."""
    columns = {name: rows[name] for name in self._files}
    for name, file in self._files.items():
      file.write(np.ascontiguousarray(columns[name], self.dtype[name].base).data)
    [num_rows] = {len(column) for column in columns.values()}
    self._num_rows += num_rows

  def mapped(self) -> dict[str, np.ndarray]:
    """The columns, one row for each that was added; read-only. No more may be added."""
    return {name: self._mapped(name) for name in self._files}

  def _mapped(self, name: str) -> np.ndarray:
    dtype, file = self.dtype[name], self._files[name]
    if not self._num_rows:
      return np.zeros((0, *dtype.shape), dtype.base)
    with file:
      file.flush()
      return np.asarray(np.memmap(file, dtype.base, 'r', shape=(self._num_rows, *dtype.shape)))
