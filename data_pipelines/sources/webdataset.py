"""Tars of img2dataset and video2dataset: {key}.jpg or .mp4, {key}.txt and {key}.json.

A failed download is a row of NNNNN.parquet, beside NNNNN.tar, without members (img2dataset) or json
and txt without media (video2dataset). Both become rejections, as does the last example of a
truncated tar.
"""

import json
import pathlib
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, cast

import pyarrow.parquet
from etils import epath

from data_pipelines.sources import columns, raw


class WebDataset(raw.Source):
  """A folder of tars, or one tar: a shard each. Folders named train and val tell the split."""

  @staticmethod
  def matches(path: epath.Path) -> bool:
    """True if there is a tar here or one level below."""
    return bool(_tars(path))

  def shards(self) -> list[raw.Shard]:
    """One shard per tar."""
    return [raw.Shard(_split(self.path, tar), (tar,)) for tar in _tars(self.path)]

  def read(self, shard: raw.Shard) -> Iterator[raw.RawExample | raw.Rejected]:
    """Reads a tar in order, then names the downloads that failed."""
    (tar,) = shard.items
    rows = _rows_by_key(tar.with_suffix('.parquet'))
    failed = {
      key: str(row.get('error_message') or row['status'])
      for key, row in rows.items()
      if row['status'] != 'success'
    }
    for key, members in _groups(tar):
      if members is None:
        yield raw.Rejected(key, 'truncated_tar', str(tar))
      else:
        yield _example(key, members, failed.pop(key, ''), rows.get(key, {}))
    for key, message in failed.items():
      yield raw.Rejected(key, 'failed_download', message)

  def count(self, shard: raw.Shard) -> int | None:
    """The rows of the table beside the tar, failed downloads among them; None without it."""
    table = shard.items[0].with_suffix('.parquet')
    if not table.exists():
      return None
    with table.open('rb') as file:
      return pyarrow.parquet.read_metadata(file).num_rows

  def describe(self, shard: raw.Shard) -> list:
    """Name and size of the tar."""
    (tar,) = shard.items
    return [shard.split, tar.relative_to(self.path.parent).as_posix(), tar.stat().length]

  def columns(self) -> dict[str, list[str]]:
    """Of the first table; all are written by one program."""
    tables = [tar.with_suffix('.parquet') for tar in _tars(self.path)[:1]]
    return {table.name: table_columns(table) for table in tables if table.exists()}


def table_columns(table: epath.Path) -> list[str]:
  """Column names of a Parquet file."""
  with table.open('rb') as file:
    return pyarrow.parquet.read_schema(file).names


def _tars(path: epath.Path) -> list[epath.Path]:
  if path.is_file():
    return [path] if path.suffix == '.tar' else []
  return sorted(path.glob('*.tar')) + sorted(path.glob('*/*.tar'))


def _split(path: epath.Path, tar: epath.Path) -> str | None:
  return raw.split_of(tar.parent.name) if tar.parent != path else None


def _groups(tar: epath.Path) -> Iterator[tuple[str, dict[str, bytes] | None]]:
  """Yields (key, {suffix: bytes}) per example; (tar's name, None) if the tar ends too early."""
  key, end = '', 0
  members: dict[str, bytes] = {}
  try:
    with tar.open('rb') as stream, tarfile.open(fileobj=stream) as file:
      for member in file:
        if not member.isfile():
          continue
        stem, _, suffix = pathlib.PurePath(member.name).name.partition('.')
        if stem != key and members:
          yield key, members
          members = {}
        key = stem
        data = cast(IO[bytes], file.extractfile(member)).read()
        if len(data) < member.size:
          raise tarfile.ReadError('unexpected end of data')
        members[f'.{suffix.lower()}'] = data
        end = file.offset  # Of this member; two empty blocks follow the last.
      if tar.stat().length < end + tarfile.BLOCKSIZE:
        raise tarfile.ReadError('unexpected end of data')
  except (tarfile.TarError, EOFError, OSError):
    if members:
      yield key, members
    yield tar.name, None
    return
  if members:
    yield key, members


def _example(
  key: str, members: Mapping[str, bytes], failure: str, row: Mapping[str, Any]
) -> raw.RawExample | raw.Rejected:
  media = next((suffix for suffix in members if suffix in raw.MEDIA_BY_SUFFIX), None)
  if media is None:
    detail = failure or _json(members).get('error_message') or f'members: {sorted(members)}'
    return raw.Rejected(key, 'failed_download' if failure else 'missing_media', str(detail))
  for needed in ('.txt', '.json'):
    if needed not in members:
      return raw.Rejected(key, f'missing_{needed[1:]}', f'members: {sorted(members)}')
  caption = members['.txt'].decode('utf-8', errors='replace')
  origin = columns.origin_of(_json(members)) | columns.origin_of(row)
  return raw.RawExample(key, caption, raw.MEDIA_BY_SUFFIX[media], members[media], origin)


def _json(members: Mapping[str, bytes]) -> dict[str, Any]:
  try:
    found = json.loads(members.get('.json', b'{}'))
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _rows_by_key(table: epath.Path) -> dict[str, dict[str, Any]]:
  """The rows of img2dataset's or video2dataset's table; none if it is not theirs."""
  found = table_columns(table) if table.exists() else []
  if not {'key', 'status'} & set(found):
    return {}
  columns.require(table, found, ('key', 'status'), 'img2dataset')
  with table.open('rb') as file:
    rows = pyarrow.parquet.read_table(file).to_pylist()
  return {str(row['key']): row for row in rows}
