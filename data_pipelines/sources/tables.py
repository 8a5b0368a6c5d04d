"""Rows of CSV, JSONL and Parquet files with their numbers: each row comes out, whole or as faulty.

CSV is strict: a row of another width than the header, and a quote that is not closed or stands
where none may, make a row faulty. Reading goes on behind the first line of such a row, so that an
open quote costs one row and not the rest of the file. Bytes that are no text come as text.py has
them.
"""

import collections
import csv
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines.sources import text

DELIMITERS = ',;\t'
MAX_JSON_BYTES = 1 << 20
MAX_JSON_DEPTH = 32


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a table.

  Attributes:
    number: of its first line in the file, from 1; in Parquet, of the row.
    values: by column; None if it is faulty.
    fault: what is wrong with it.
    end: number of the line behind it, in a CSV.
  """

  number: int
  values: Any
  fault: str = ''
  end: int = 0


class Csv:
  """Rows of a CSV, read from its lines.

  Args:
    lines: of the file, behind the header.
    header: names of the columns.
    delimiter: between fields.
    number: of the first of the lines.
  """

  def __init__(self, lines: Iterable[str], header: Sequence[str], delimiter: str, number: int = 2):
    self._lines = iter(lines)
    self._header = header
    self._delimiter = delimiter
    self._next = number
    self._taken: list[str] = []  # By the row that is read.
    self._again: collections.deque[str] = collections.deque()

  def __iter__(self) -> Iterator[Row]:
    reader = self._reader()
    while True:
      self._taken.clear()
      try:
        fields, fault = next(reader), ''
      except StopIteration:
        return
      except csv.Error as error:
        fields, fault = None, f'{error}: is a quote open?'
        self._again.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]
        reader = self._reader()
      number, self._next = self._next, self._next + len(self._taken)
      if fields == []:  # An empty line.
        continue
      if fields is not None:
        fault = self._fault(fields)
      values = None if fault else dict(zip(self._header, fields or (), strict=True))
      yield Row(number, values, fault, self._next)

  def _reader(self) -> Any:
    options = dict(delimiter=self._delimiter, strict=True, skipinitialspace=True)
    return csv.reader(self._feed(), **options)

  def _feed(self) -> Iterator[str]:
    while True:
      line = self._again.popleft() if self._again else next(self._lines, None)
      if line is None:
        return
      self._taken.append(line)
      yield line

  def _fault(self, fields: Sequence[str]) -> str:
    if len(fields) != len(self._header):
      return f'{len(fields)} fields, not {len(self._header)}: is a comma not quoted?'
    return ''


def csv_header(line: str) -> tuple[list[str], str]:
  """(names of the columns, delimiter) of a CSV's first line.

  Raises:
    ValueError: the line is no text or no CSV, or names a column twice.
  """
  delimiter = max(DELIMITERS, key=line.count)
  reader = csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=True)
  try:
    names = [name.strip() for name in next(reader, [])]
  except csv.Error as error:
    raise ValueError(f'its first line is no CSV: {error}') from error
  if not text.is_clean(line):
    raise ValueError('its first line is not UTF-8: save it as UTF-8')
  twice = sorted({name for name in names if names.count(name) > 1 and name})
  if twice:
    raise ValueError(f'it has columns of one name: {twice}')
  return names, delimiter


def csv_rows(lines: Iterable[str]) -> tuple[list[str], Csv]:
  """(names of the columns, rows of values in that order) of a whole CSV."""
  lines = iter(lines)
  header, delimiter = csv_header(next(lines, ''))
  return header, Csv(lines, header, delimiter)


def jsonl_rows(lines: Iterable[str]) -> Iterator[Row]:
  """Rows of JSON objects, one a line; empty lines are none."""
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      found = parse_json(line)
    except ValueError as error:
      yield Row(number, None, str(error))
    else:
      yield Row(number, found)


def parquet_columns(file: epath.Path) -> list[str]:
  """Column names of a Parquet file; raises pa.ArrowInvalid, a ValueError, if it is damaged."""
  try:
    with file.open('rb') as stream:
      return pyarrow.parquet.read_schema(stream).names
  except pa.ArrowException as error:
    raise pa.ArrowInvalid(f'{file} cannot be read: {error}') from error


def parquet_rows(file: epath.Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
  """Rows of a Parquet file."""
  number = 0
  with file.open('rb') as stream:
    table = pyarrow.parquet.ParquetFile(stream)
    for batch in table.iter_batches(columns=list(columns) if columns is not None else None):
      for values in batch.to_pylist():
        number += 1
        yield Row(number, values)


_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def parse_json(source: str) -> dict[str, Any]:
  """A JSON object; raises ValueError for any other text, and for one too large or too deep."""
  if len(source) > MAX_JSON_BYTES:
    raise ValueError(f'{len(source):,} characters of JSON, more than {MAX_JSON_BYTES:,}.')
  if source.count('[') + source.count('{') > MAX_JSON_DEPTH:
    depth = 0
    for character in re.sub(r'[^][{}]', '', _STRINGS.sub('', source)):
      depth += 1 if character in '[{' else -1
      if depth > MAX_JSON_DEPTH:
        raise ValueError(f'JSON nested deeper than {MAX_JSON_DEPTH}.')
  try:
    found = json.loads(source)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'no JSON: {error}') from error
  if not isinstance(found, dict):
    raise ValueError(f'JSON of a {type(found).__name__}, not of an object.')
  return found
