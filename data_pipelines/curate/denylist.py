"""Lists of examples: denylists of what must not be used, allowlists of all that may be.

LAION's sets link to illegal material. Its authors publish what they removed, or what stays. A list
is a CSV, JSONL or Parquet file with columns of links (url), of LAION's hashes of links (hash), or
of digests of files (sha256, md5); or a text file with one of these in each line, where lines that
begin with # are comments. CSV, JSONL and text may be compressed. A row that names nothing in one of
these forms is an error: what it should have kept out would be trained on.

Links are compared in a normal form (links.py), digests in any case, hashes as 64 bits, signed or
not. A digest is that of the file as it is here or, where the source tells, as it was downloaded.
"""

import array
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines import user_errors
from data_pipelines.curate import links
from data_pipelines.sources import tables, text

# Kind of a name -> the columns of a list, and those of a sidecar, that hold it.
COLUMNS = {
  'url': ('url',),
  'hash': ('hash', 'link_hash'),
  'sha256': ('sha256', 'source_sha256'),
  'md5': ('md5', 'source_md5'),
}
FIELDS = {
  'url': ('url',),
  'hash': ('link_hash',),
  'sha256': ('source_sha256', 'sha256'),
  'md5': ('source_md5', 'md5'),
}
_FORMS = {
  'sha256': re.compile(r'[0-9a-f]{64}', re.IGNORECASE),
  'md5': re.compile(r'[0-9a-f]{32}', re.IGNORECASE),
  'hash': re.compile(r'-?[0-9]{1,20}'),
}
_NUM_BYTES = {'sha256': 32, 'md5': 16}  # Where a digest is not in hexadecimal.
_SEVERAL = re.compile(r'\t|\s\S+://')  # Of a line: a table's, or two links.


class Lists:
  """The union of lists, each of which knows how many examples it named.

  Args:
    paths: of the files, local or in a bucket.
    kind: of the lists, as errors name them.

  Attributes:
    entries: path -> kind of name -> how many of them.
    num_named: path -> how many of the rows that `names` was asked for.

  Raises:
    ValueError: a list is empty, cannot be read, or has a row that names nothing.
  """

  def __init__(self, paths: Iterable[epath.PathLike] = (), kind: str = 'denylist'):
    self.kind = kind
    self._lists = {str(path): _load(epath.Path(path), kind) for path in paths}
    self.entries = {
      path: {kind: len(found) for kind, found in names.items()}
      for path, names in self._lists.items()
    }
    self.num_named = dict.fromkeys(self._lists, 0)
    self.kinds = {kind for names in self._lists.values() for kind in names}

  def __bool__(self) -> bool:
    return bool(self._lists)

  def names(self, row: Mapping[str, Any]) -> bool:
    """Whether any list has one of the names of a sidecar's row."""
    known = [
      (kind, _key(_normal(kind, str(row[field])) or str(row[field])))
      for kind in self.kinds
      for field in FIELDS[kind]
      if row.get(field)
    ]
    is_named = False
    for path, names in self._lists.items():
      if any(kind in names and _contains(names[kind], key) for kind, key in known):
        self.num_named[path] += 1
        is_named = True
    return is_named

  def sentences(self, num_examples: int) -> list[str]:
    """What each list has and does, for people."""
    return [
      f'{self.kind} {path}: '
      f'{", ".join(f"{number:,} {kind}" for kind, number in self.entries[path].items())}; '
      + (f'names {found:,} of {num_examples:,} examples' if found else f'NAMES NONE OF THE '
         f'{num_examples:,} EXAMPLES: is it of another set, or of other columns?')
      for path, found in self.num_named.items()
    ]  # fmt: skip

  def check_matches(self) -> None:
    """Raises ValueError if a list names no row."""
    for path, found in self.num_named.items():
      if not found:
        raise ValueError(
          f'{self.kind} {path} names none of the examples: is it of another set, or of other '
          f'columns? It has {self.entries[path]}.'
        )


def _normal(kind: str, value: str) -> str | None:
  """A name in the form in which it is compared; None if it is none of that kind."""
  if kind == 'url':
    return links.normal(value)
  if not _FORMS[kind].fullmatch(value.strip()):
    return None
  if kind != 'hash':
    return value.strip().lower()
  return str(int(value) % 2**64) if -(2**63) <= int(value) < 2**64 else None


def _kind_of(line: str) -> str | None:
  """The kind of name that a line of a text file is."""
  for kind, form in _FORMS.items():
    if form.fullmatch(line):
      return kind
  return 'url' if links.normal(line) else None


def _key(name: str) -> int:
  """A name in 8 bytes: of 1e9 in a list and 1e8 asked for, two are taken for one once in 200."""
  return hash(name)


def _contains(keys_N: np.ndarray, key: int) -> bool:
  place = int(np.searchsorted(keys_N, key))
  return place < len(keys_N) and bool(keys_N[place] == key)


def _load(path: epath.Path, kind: str) -> dict[str, np.ndarray]:
  """Kind of name -> the names, as sorted keys."""
  if not path.exists():
    raise ValueError(f'{kind} {path} does not exist: check the path.')
  found: dict[str, array.array] = {}
  try:
    for number, names in _rows(path):
      if not names:
        raise ValueError(f'row {number} names nothing')
      for name_kind, value in names:
        name = _normal(name_kind, value)
        if name is None:
          raise ValueError(
            f'row {number} has the {name_kind} {user_errors.printable(value)[:200]!r}'
          )
        found.setdefault(name_kind, array.array('q')).append(_key(name))
  except (ValueError, OSError, EOFError, pa.ArrowException) as error:
    raise ValueError(f'{kind} {path} cannot be used: {user_errors.reason(error)}.') from error
  if not found:
    raise ValueError(f'{kind} {path} is empty.')
  return {name_kind: np.unique(np.array(keys)) for name_kind, keys in found.items()}


def _rows(path: epath.Path) -> Iterator[tuple[int, list[tuple[str, str]]]]:
  """(number, (kind, name) of each of its names) of each row that is not empty."""
  suffix = text.bare_suffix(path.name)
  if suffix == '.parquet':
    with path.open('rb') as file:
      names = _known(pyarrow.parquet.read_schema(file).names)
    rows = tables.parquet_rows(path, [column for _, column in names])
  elif suffix in ('.csv', '.tsv'):
    found, rows = tables.csv_rows(text.open_lines(path))
    names = _known(found)
  elif suffix in ('.jsonl', '.ndjson'):
    rows, names = tables.jsonl_rows(text.open_lines(path)), None
  else:
    yield from _lines(path)
    return
  for row in rows:
    if row.fault:
      raise ValueError(f'row {row.number}: {row.fault}')
    columns_of = _known(list(row.values)) if names is None else names
    values = ((kind, row.values.get(column)) for kind, column in columns_of)
    yield row.number, [(kind, _text(kind, value)) for kind, value in values if value or value == 0]


def _text(kind: str, value: Any) -> str:
  """The text of a table's value; Parquet may have digests as their bytes, and text as bytes."""
  if not isinstance(value, bytes):
    return str(value)
  is_digest = kind in _NUM_BYTES and len(value) == _NUM_BYTES[kind]
  return value.hex() if is_digest else value.decode(errors='surrogateescape')


def _lines(path: epath.Path) -> Iterator[tuple[int, list[tuple[str, str]]]]:
  for number, line in enumerate(text.open_lines(path), 1):
    name = line.strip()
    if not name or name.startswith('#'):
      continue
    kind = _kind_of(name)
    if kind is None or _SEVERAL.search(name):
      raise ValueError(
        f'line {number} is {user_errors.printable(name)[:200]!r}, no link, sha256, md5 or hash '
        '(a table should end in .csv, .tsv, .jsonl or .parquet)'
      )
    yield number, [(kind, name)]


def _known(found: Sequence[str]) -> list[tuple[str, str]]:
  """(kind, column) of the columns that hold names."""
  names = [
    (kind, name) for kind, known in COLUMNS.items() for name in found if name.lower() in known
  ]
  if not names:
    raise ValueError(f'it has columns {list(found)} and needs one of {tuple(COLUMNS)}')
  return names
