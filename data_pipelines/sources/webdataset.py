"""Tars of webdataset, as img2dataset and video2dataset write them: {key}.jpg or .mp4, .txt, .json.

As in webdataset the key is the folder and the name up to its first dot, and the rest the suffix.
The caption is the text, or without one the json's. A failed download is a row of NNNNN.parquet,
beside NNNNN.tar, without members (img2dataset) or json and txt without media (video2dataset). Both
become rejections, as do members that cannot be told apart, and what a truncated tar has lost.
"""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines.media import failures
from data_pipelines.sources import columns, file_names, files, raw, tables, tars, text

TARS = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz')
CAPTIONS = ('caption', 'text', 'prompt')  # Of a json, where there is no txt.
_CONFLICT = 'rows that differ'  # Stands for the status of an example that has them.


@dataclasses.dataclass(frozen=True)
class Grown:
  """A tar of which some examples are held already.

  Attributes:
    tar: the file.
    held: bytes of the held media by key.
  """

  tar: epath.Path
  held: Mapping[str, int]


class WebDataset(raw.Source):
  """A folder of tars, or one tar: a shard each. Folders named train and val tell the split."""

  def __init__(self, path: epath.Path, follow_outside: bool = False):
    super().__init__(path, follow_outside)
    self._num_listed: dict[str, int] = {}  # Of tars that were read.
    self._differences: dict[str, tuple[int, int]] = {}  # Likewise.

  @staticmethod
  def matches(path: epath.Path) -> bool:
    """True if there is a tar here or one level below; or anywhere, and media nowhere."""
    if path.is_file():
      return _is_tar(path.name)
    patterns = ('*.[tT]*', '*/*.[tT]*')
    if any(_is_tar(file.name) for pattern in patterns for file in files.matching(path, pattern)):
      return True
    is_found = False
    for name in files.walk(path):
      if file_names.media_of(name):
        return False
      is_found = is_found or _is_tar(name)
    return is_found

  def shards(self) -> list[raw.Shard]:
    """One shard per tar."""
    return [raw.Shard(_split(self.path, tar), (tar,)) for tar in _tars(self.path)]

  def read(self, shard: raw.Shard) -> Iterator[raw.RawExample | raw.Rejected]:
    """Reads a tar in order, then names the downloads that failed; not what is held already."""
    tar, held = _tar_of(shard), _held_of(shard)
    try:
      rows, again = _rows_by_key(_table(tar))
    except pa.ArrowException as error:  # It may forbid some of the examples.
      self._num_listed[str(tar)] = 1
      yield raw.Rejected(tar.name, 'damaged_table', f'{_table(tar).name}: {error}')
      return
    with _local(tar) as file, tars.Tar.open(file) as headers:
      self._differences[str(tar)] = headers.drop(held)
      left = headers.left_of(rows, held)
      self._num_listed[str(tar)] = headers.num_examples() + len(again) + len(left)
      yield from [*headers.rejected, *again]
      for key, members in headers.groups.items():
        named = tars.row_of(key, rows)
        row = rows.get(named, {})  # Of all folders' examples that it may mean: it may forbid one.
        try:
          example = _example(key, headers.read(members), row, self.takes_opted_out)
        except Exception as error:  # One example never ends a command.
          lost = failures.of(error)
          example = raw.Rejected(key, lost.reason, lost.detail)
        yield example
    for key, row in left.items():
      yield (
        _failed(key, row)
        if row['status'] != 'success'
        else raw.Rejected(key, 'missing_media', str(row.get('error_message') or row['status']))
      )

  def num_listed(self, shard: raw.Shard) -> int:
    """Keys of the tar's headers and of the table beside it, and members that belong to no key."""
    tar = _tar_of(shard)
    if str(tar) not in self._num_listed:
      next(self.read(shard), None)
    return self._num_listed[str(tar)]

  def unit(self, shard: raw.Shard) -> str:
    """The tar: another one may use its keys for other files."""
    return self._name(_tar_of(shard))

  def _name(self, tar: epath.Path) -> str:
    return tar.name if tar == self.path else tar.relative_to(self.path).as_posix()

  def state(self, shard: raw.Shard) -> list:
    """What differs once a tar, or the table beside it, is another one or can be read at last."""
    tar = _tar_of(shard)
    both = tar, _table(tar)
    found = [_size(file) for file in both]
    return found if '://' in str(tar) else [*found, *(os.access(file, os.R_OK) for file in both)]

  def grown(self, shard: raw.Shard, held: Mapping[str, int]) -> raw.Shard:
    """The shard without what is held: bytes of media by key."""
    return raw.Shard(shard.split, (Grown(_tar_of(shard), held),))

  def differences(self, shard: raw.Shard) -> tuple[int, int]:
    """Of what is held: how many examples the tar no longer has, and of how many of them the media
    has another size."""
    return self._differences.get(str(_tar_of(shard)), (0, 0))

  def count(self, shard: raw.Shard) -> int | None:
    """The rows of the table beside the tar, failed downloads among them; None without it."""
    table = _table(_tar_of(shard))
    if not table.exists():
      return None
    with contextlib.suppress(pa.ArrowException), table.open('rb') as file:
      return pyarrow.parquet.read_metadata(file).num_rows
    return None

  def describe(self, shard: raw.Shard) -> list:
    """Name and size of the tar."""
    tar = _tar_of(shard)
    return [shard.split, tar.relative_to(self.path.parent).as_posix(), tar.stat().length]

  def unlisted(self) -> Iterator[str]:
    """Media files beside the tars."""
    return files.unlisted(self.path, ())

  def columns(self) -> dict[str, list[str]]:
    """Of the first table; all are written by one program."""
    found = [_table(tar) for tar in _tars(self.path)[:1]]
    return {table.name: tables.parquet_columns(table) for table in found if table.exists()}


def _tar_of(shard: raw.Shard) -> epath.Path:
  first = shard.items[0]
  return first.tar if isinstance(first, Grown) else first


def _size(file: epath.Path) -> int:
  """Bytes; -1 if there is none."""
  try:
    return file.stat().length
  except FileNotFoundError:
    return -1


def _held_of(shard: raw.Shard) -> Mapping[str, int]:
  first = shard.items[0]
  return first.held if isinstance(first, Grown) else {}


def _is_tar(name: str) -> bool:
  return name.lower().endswith(TARS) and not file_names.is_litter(name)


def _tars(path: epath.Path) -> list[epath.Path]:
  """At any depth, those nearest first."""
  if path.is_file():
    return [path] if _is_tar(path.name) else []
  names = [pathlib.PurePosixPath(name) for name in files.walk(path) if _is_tar(name)]
  return [path / str(name) for name in sorted(names, key=lambda name: (len(name.parts), name))]


def _table(tar: epath.Path) -> epath.Path:
  """NNNNN.parquet beside NNNNN.tar."""
  suffix = next(suffix for suffix in TARS if tar.name.lower().endswith(suffix))
  return tar.with_name(f'{tar.name[: -len(suffix)]}.parquet')


def _split(path: epath.Path, tar: epath.Path) -> str | None:
  """By the nearest folder between them that tells it."""
  folders = tar.relative_to(path).parts[:-1] if tar != path else ()
  return next(filter(None, map(file_names.split_of, reversed(folders))), None)


@contextlib.contextmanager
def _local(tar: epath.Path) -> Generator[pathlib.Path, None, None]:
  """The tar as a local file: members are read where they lie, which in a bucket is slow."""
  if '://' not in str(tar):
    yield pathlib.Path(tar)
    return
  with tempfile.TemporaryDirectory() as folder:
    tar.copy(epath.Path(folder) / tar.name)
    yield pathlib.Path(folder, tar.name)


def _example(
  key: str, members: Mapping[str, bytes], row: Mapping[str, Any], takes_opted_out: bool
) -> raw.RawExample | raw.Rejected:
  if row.get('status') == _CONFLICT:
    return raw.Rejected(key, 'duplicate_row', 'the table has rows of it that differ')
  media = next((suffix for suffix in members if suffix in file_names.MEDIA_BY_SUFFIX), None)
  try:
    known = tables.parse_json(text.decode(members['.json'])) if '.json' in members else {}
    origin = columns.origin_of(known) | columns.origin_of(row)
  except ValueError as error:
    if media is not None:  # What it says may forbid the example.
      return raw.Rejected(key, 'bad_json', str(error))
    known, origin = {}, {}
  if media is None:
    return _without_media(key, members, known, row)
  said = columns.opt_out(known) or columns.opt_out(row)
  if said and not takes_opted_out:
    return raw.Rejected(key, 'opted_out', said)
  if '.txt' in members:
    try:
      caption = text.decode(members['.txt'])
    except ValueError as error:
      return raw.Rejected(key, 'undecodable_caption', str(error))
  else:
    caption = columns.value(known, CAPTIONS)
    if not isinstance(caption, str):
      return raw.Rejected(key, 'missing_txt', f'members: {sorted(members)}')
  return raw.RawExample(key, caption, file_names.MEDIA_BY_SUFFIX[media], members[media], origin)


def _failed(key: str, row: Mapping[str, Any]) -> raw.Rejected:
  """A download that failed, or that its site forbids."""
  detail = str(row.get('error_message') or row['status'])
  is_forbidden = columns.DISALLOWED in detail
  return raw.Rejected(key, 'opted_out' if is_forbidden else 'failed_download', detail)


def _without_media(
  key: str, members: Mapping[str, bytes], known: Mapping[str, Any], row: Mapping[str, Any]
) -> raw.Rejected:
  if row and row['status'] != 'success':
    return _failed(key, row)
  detail = str(known.get('error_message') or f'members: {sorted(members)}')
  is_other = set(members) - set(tars.BOUNDS)
  return raw.Rejected(key, 'unknown_format' if is_other else 'missing_media', detail)


def _rows_by_key(table: epath.Path) -> tuple[dict[str, dict[str, Any]], list[raw.Rejected]]:
  """(one row for each key, the further ones) of a table; none if it is not img2dataset's."""
  found = tables.parquet_columns(table) if table.exists() else []
  if not {'key', 'status'} & set(found):
    return {}, []
  columns.require(table, found, ('key', 'status'), 'img2dataset')
  with table.open('rb') as file:
    rows = pyarrow.parquet.read_table(file).to_pylist()
  by_key: dict[str, dict[str, Any]] = {}
  again = []
  for row in rows:
    key = file_names.composed(str(row['key']))
    first = by_key.setdefault(key, row)
    if first is not row:
      again.append(raw.Rejected(key, 'duplicate_row', f'{table.name} has a row of it already'))
      if first != row:
        by_key[key] = dict(first, status=_CONFLICT)
  return by_key, again
