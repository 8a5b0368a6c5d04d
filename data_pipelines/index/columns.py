"""The columns of an index: made one at a time, so that memory holds no row twice."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_pipelines.corpus import schema
from data_pipelines.index import table as table_lib

DTYPES = dict(first_time=np.float64, duration=np.float64, fps=np.float32)


class Columns(Mapping):
  """What is written of the rows, in their order; each column is made when it is asked for."""

  def __init__(self, rows: Mapping[str, np.ndarray], order: np.ndarray):
    self._rows, self._order = rows, order
    self._types: dict[str, Any] = dict(DTYPES)
    if _is_cropped(rows):
      self._types['content'] = np.float32
    self._types['order'] = rows['row'].dtype

  def add(self, name: str, dtype: Any) -> None:
    """One more of the rows' columns."""
    self._types[name] = dtype

  def __getitem__(self, name: str) -> np.ndarray:
    dtype, order = self._types[name], self._order
    if name == 'content':
      return np.stack([self._rows[side][order] for side in schema.CONTENT], axis=1).astype(dtype)
    return self._rows[dict(order='row', span='span_id').get(name, name)][order].astype(
      dtype, copy=False
    )

  def __iter__(self) -> Iterator[str]:
    return iter(self._types)

  def __len__(self) -> int:
    return len(self._types)


def _is_cropped(rows: Mapping[str, np.ndarray]) -> bool:
  """Whether any of the rows is not a whole frame (schema.CONTENT)."""
  if not set(schema.CONTENT) <= set(rows):
    return False
  whole = zip(schema.CONTENT, table_lib.WHOLE, strict=True)
  return any((rows[name] != value).any() for name, value in whole)
