"""Columns by name, in any order and case; what is missing is named with its nearest neighbour."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data_pipelines.sources import tables, text

# schema.ORIGIN by the names that LAION's tables, img2dataset and video2dataset give it.
ORIGIN_ALIASES = {
  'url': ('url',),
  'license': ('license',),
  'nsfw': ('nsfw',),
  'similarity': ('similarity',),
  'watermark': ('pwatermark',),
  'unsafe': ('punsafe',),
  'link_hash': ('hash',),
  'source_sha256': ('sha256',),
  'source_md5': ('md5',),
}
# What a site says of a picture by X-Robots-Tag. img2dataset itself keeps no header: it does not
# download such pictures, and its table says so (DISALLOWED); who asks it to leaves no trace.
ROBOTS = ('x-robots-tag', 'robots-tag', 'robots')
HEADERS = ('headers', 'http-headers', 'response-headers')
OPT_OUTS = ('noai', 'noimageai')
DISALLOWED = 'X-Robots-Tag'  # In img2dataset's error_message.
NUMBERS = ('similarity', 'watermark', 'unsafe')


def csv_header(file: epath.Path) -> tuple[list[str], str]:
  """(names of the columns, delimiter) of a CSV; raises ValueError with its name if it is none."""
  try:
    return tables.csv_header(next(iter(text.Lines(file)), ''))
  except ValueError as error:
    raise ValueError(f'{file} cannot be read: {error}.') from error


def require(file: Any, found: Sequence[str], needed: Sequence[str], layout: str) -> None:
  """Raises ValueError, with a hint, if a needed column is not among those found.

  Args:
    file: that has the columns, as the error names it.
    found: its columns.
    needed: columns that it should have.
    layout: that needs them, as the error names it.
  """
  for name in needed:
    if name not in found:
      near = difflib.get_close_matches(name, found, n=1)
      hint = f'; rename {near[0]!r}?' if near else ''
      raise ValueError(f'{file} has columns {list(found)} but {layout} needs {name!r}{hint}')


def find(found: Sequence[str], aliases: Sequence[str]) -> str | None:
  """The column that is one of the aliases, whatever its case; the first alias wins."""
  by_lower = {name.lower(): name for name in found}
  return next((by_lower[alias] for alias in aliases if alias in by_lower), None)


def value(row: Mapping[str, Any], aliases: Sequence[str]) -> Any:
  """Of the first of the aliases that says something; else of the first that is a column, or None.

  Null, '' and what is no number (NaN) say nothing.
  """
  by_lower = {name.lower(): found for name, found in row.items()}
  found = [by_lower[alias] for alias in aliases if alias in by_lower]
  return next((one for one in found if not _is_nothing(one)), found[0] if found else None)


def _is_nothing(found: Any) -> bool:
  return found is None or found == '' or (isinstance(found, float) and math.isnan(found))


def origin_of(row: Mapping[str, Any]) -> dict[str, Any]:
  """What a row of a table says of an example, by the names of schema.ORIGIN.

  Raises:
    ValueError: a value is a list or an object.
  """
  origin: dict[str, Any] = {}
  for name, aliases in ORIGIN_ALIASES.items():
    found = value(row, aliases)
    if _is_nothing(found):
      continue
    if isinstance(found, (list, dict)):
      raise ValueError(f'{name} is a {type(found).__name__}: {str(found)[:80]}')
    origin[name] = _number(found) if name in NUMBERS else str(found)
  return origin


def opt_out(row: Mapping[str, Any]) -> str:
  """What of an example's columns forbids its use for AI, or ''; columns may hold all headers."""
  for column, found in row.items():
    name = column.lower().replace('_', '-')
    if name in HEADERS and (said := opt_out(_headers(found))):
      return said
    if name in ROBOTS and set(re.split(r'[^a-z]+', str(found).lower())) & set(OPT_OUTS):
      return f'{column}: {found}'
  return ''


def _headers(found: Any) -> Mapping[str, Any]:
  """HTTP's headers: an object, its JSON, or lines."""
  if isinstance(found, Mapping):
    return found
  try:
    return tables.parse_json(str(found))
  except ValueError:
    lines = (line.partition(':') for line in str(found).splitlines())
    return {name.strip(): value for name, _, value in lines}


def _number(value: Any) -> float | None:
  """Null is what is not known: no number, or none that is finite."""
  try:
    number = float(value)
  except (ValueError, OverflowError):
    return None
  return number if math.isfinite(number) else None
