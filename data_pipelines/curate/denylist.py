"""Examples that must not be used: LAION's sets link to illegal material, so a list is mandatory.

Re-LAION's authors publish what they removed. A list is a Parquet or CSV file with a column of links
(url), of LAION's hashes (hash) or of sha256 digests (sha256), or a text file with one of these per
line. All are compared as text.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow.parquet
from etils import epath

from data_pipelines.corpus import storage
from data_pipelines.sources import columns, raw

KEYS = ('url', 'hash', 'sha256', 'md5')
FIELDS = ('url', 'link_hash', 'source_sha256', 'sha256')  # Of a sidecar's row.


def load(paths: Iterable[epath.PathLike]) -> frozenset[str]:
  """The union of lists; raises ValueError if one is empty or has no column to compare."""
  denied: set[str] = set()
  for path in map(epath.Path, paths):
    if not path.exists():
      raise ValueError(f'denylist {path} does not exist.')
    found = {str(value).strip() for value in _values(path) if value}
    if not found:
      raise ValueError(f'denylist {path} is empty.')
    denied |= found
  return frozenset(denied)


def is_denied(row: Mapping, denied: frozenset[str]) -> bool:
  """True if any of the row's names is listed."""
  return any(row.get(field) in denied for field in FIELDS)


def _values(path: epath.Path) -> Iterable[Any]:
  if path.suffix == '.parquet':
    with path.open('rb') as file:
      names = _known(path, pyarrow.parquet.read_schema(file).names)
    table = storage.read_table(path, names)
    return (value for name in names for value in table[name].to_pylist())
  if path.suffix == '.csv':
    with raw.open_text(path) as lines:
      reader = csv.DictReader(lines)
      names = _known(path, reader.fieldnames or [])
      return [row[name] for row in reader for name in names]
  return path.read_text().splitlines()


def _known(path: epath.Path, found: Sequence[str]) -> list[str]:
  names = [name for name in (columns.find(found, (key,)) for key in KEYS) if name]
  if not names:
    raise ValueError(f'denylist {path} has columns {list(found)}; it needs one of {KEYS}.')
  return names
