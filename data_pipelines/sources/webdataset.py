"""Tars of webdataset, as img2dataset and video2dataset write them: {key}.jpg or .mp4, .txt, .json.

As in webdataset the key is the folder and the name up to its first dot, and the rest the suffix.
The caption is the text, or without one the json's. A failed download is a row of NNNNN.parquet,
beside NNNNN.tar, without members (img2dataset) or json and txt without media (video2dataset). Both
become rejections, as do members that cannot be told apart, and what a truncated tar has lost.
"""

import bz2
import contextlib
import dataclasses
import gzip
import lzma
import pathlib
import re
import tarfile
import tempfile
from collections.abc import Generator, Iterator, Mapping
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines.media import errors, failures
from data_pipelines.sources import columns, files, raw, tables, text

TARS = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz')
CAPTIONS = ('caption', 'text', 'prompt')  # Of a json, where there is no txt.
_KEY = re.compile(r'((?:.*/)?[^./][^./]*)\.([^/]*)', re.DOTALL)
_BOUNDS = {  # Bytes of the small members.
  '.txt': ('long_caption', 4 * raw.MAX_CAPTION + 4),
  '.json': ('bad_json', tables.MAX_JSON_BYTES),
}


class WebDataset(raw.Source):
  """A folder of tars, or one tar: a shard each. Folders named train and val tell the split."""

  def __init__(self, path: epath.Path):
    super().__init__(path)
    self._num_listed: dict[str, int] = {}  # Of tars that were read.

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
    try:
      rows = _rows_by_key(_table(tar))
    except pa.ArrowException as error:  # It may forbid some of the examples.
      self._num_listed[str(tar)] = 1
      yield raw.Rejected(tar.name, 'damaged_table', f'{_table(tar).name}: {error}')
      return
    with _local(tar) as file, _Tar.open(file) as headers:
      self._num_listed[str(tar)] = headers.num_listed(rows)
      yield from headers.rejected
      for key, members in headers.groups.items():
        row = rows.pop(key, None) or rows.pop(key.rpartition('/')[2], {})
        try:
          example = _example(key, headers.read(members), row)
        except Exception as error:  # One example never ends a command.
          lost = failures.of(error)
          example = raw.Rejected(key, lost.reason, lost.detail)
        yield example
    for key, row in rows.items():
      reason = 'missing_media' if row['status'] == 'success' else 'failed_download'
      yield raw.Rejected(key, reason, str(row.get('error_message') or row['status']))

  def num_listed(self, shard: raw.Shard) -> int:
    """Keys of the tar's headers and of the table beside it, and members that belong to no key."""
    (tar,) = shard.items
    if str(tar) not in self._num_listed:
      next(self.read(shard), None)
    return self._num_listed[str(tar)]

  def count(self, shard: raw.Shard) -> int | None:
    """The rows of the table beside the tar, failed downloads among them; None without it."""
    table = _table(shard.items[0])
    if not table.exists():
      return None
    with contextlib.suppress(pa.ArrowException), table.open('rb') as file:
      return pyarrow.parquet.read_metadata(file).num_rows
    return None

  def describe(self, shard: raw.Shard) -> list:
    """Name and size of the tar."""
    (tar,) = shard.items
    return [shard.split, tar.relative_to(self.path.parent).as_posix(), tar.stat().length]

  def columns(self) -> dict[str, list[str]]:
    """Of the first table; all are written by one program."""
    found = [_table(tar) for tar in _tars(self.path)[:1]]
    return {table.name: table_columns(table) for table in found if table.exists()}


def table_columns(table: epath.Path) -> list[str]:
  """Column names of a Parquet file."""
  with table.open('rb') as file:
    return pyarrow.parquet.read_schema(file).names


def _is_tar(name: str) -> bool:
  return name.lower().endswith(TARS) and not raw.is_litter(name)


def _tars(path: epath.Path) -> list[epath.Path]:
  if path.is_file():
    return [path] if _is_tar(path.name) else []
  found = [sorted(path.glob(pattern)) for pattern in ('*.t*', '*/*.t*')]
  return [file for files in found for file in files if _is_tar(file.name)]


def _table(tar: epath.Path) -> epath.Path:
  """NNNNN.parquet beside NNNNN.tar."""
  suffix = next(suffix for suffix in TARS if tar.name.lower().endswith(suffix))
  return tar.with_name(f'{tar.name[: -len(suffix)]}.parquet')


def _split(path: epath.Path, tar: epath.Path) -> str | None:
  return raw.split_of(tar.parent.name) if tar.parent != path else None


@contextlib.contextmanager
def _local(tar: epath.Path) -> Generator[pathlib.Path, None, None]:
  """The tar as a local file: members are read where they lie, which in a bucket is slow."""
  if '://' not in str(tar):
    yield pathlib.Path(tar)
    return
  with tempfile.TemporaryDirectory() as folder:
    tar.copy(epath.Path(folder) / tar.name)
    yield pathlib.Path(folder, tar.name)


@dataclasses.dataclass(frozen=True)
class _Member:
  """A file in a tar: its name, its place among the others, and where its bytes are."""

  name: str
  place: int
  offset: int
  size: int


class _Tar:
  """What the headers of a tar say, before any of its files is read.

  Attributes:
    groups: {key: {suffix: member}} in the order in which the keys come first.
    rejected: members that belong to none of them, and the tar if it is damaged.
  """

  def __init__(self, archive: tarfile.TarFile | None, name: str, failure: str = ''):
    self.groups: dict[str, dict[str, _Member]] = {}
    self.rejected: list[raw.Rejected] = []
    self._stream = cast(IO[bytes], archive.fileobj) if archive else None
    keys: dict[str, list[tuple[str, _Member]]] = {}
    try:
      if archive:
        failure = self._scan(archive, keys)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
      failure = str(error)
    if failure:
      self.rejected.append(raw.Rejected(name, 'truncated_tar', failure))
      last = next(reversed(keys), '')
      if last and not any(
        suffix == '.json' for suffix, _ in keys[last]
      ):  # It may be in what is lost.
        self.rejected.append(raw.Rejected(last, 'truncated_tar', 'its last files may be lost'))
        del keys[last]
    for key, members in keys.items():
      self._group(key, members)

  @classmethod
  @contextlib.contextmanager
  def open(cls, file: pathlib.Path) -> Generator['_Tar', None, None]:
    """Opens a tar, compressed or not; none that cannot be read raises."""
    try:
      archive = tarfile.open(file)  # noqa: SIM115
    except (tarfile.TarError, EOFError, OSError) as error:
      yield cls(None, file.name, str(error))
      return
    with archive:
      yield cls(archive, file.name)

  def num_listed(self, rows: Mapping[str, Any]) -> int:
    """Examples that the tar and the rows of its table name."""
    known = {key.rpartition('/')[2] for key in self.groups} | set(self.groups)
    return len(self.groups) + len(self.rejected) + len(set(rows) - known)

  def read(self, members: Mapping[str, _Member]) -> dict[str, bytes]:
    """Bytes by suffix, of those that an example needs; raises DecodeError for one too large."""
    found = dict.fromkeys(members, b'')
    for suffix, member in members.items():
      if suffix not in _BOUNDS and suffix not in raw.MEDIA_BY_SUFFIX:
        continue
      reason, bound = _BOUNDS.get(suffix, ('too_large', raw.MAX_FILE_BYTES))
      if member.size > bound:
        raise errors.DecodeError(reason, f'{member.name} has {member.size:,} bytes')
      stream = cast(IO[bytes], self._stream)
      stream.seek(member.offset)
      found[suffix] = stream.read(member.size)
      if len(found[suffix]) < member.size:
        raise errors.DecodeError('truncated_tar', f'{member.name} is cut')
    return found

  def _scan(self, archive: tarfile.TarFile, keys: dict[str, list[tuple[str, _Member]]]) -> str:
    """Fills `keys`; returns how the tar is damaged, if it is."""
    end = 0
    for place, header in enumerate(archive):
      # pyrefly: ignore[missing-attribute]  # Its list of all members, which would fill memory.
      archive.members = []
      if header.size < 0 or archive.offset <= end:
        return f'{header.name}: a size of {header.size}'
      end = archive.offset  # Of this member; two empty blocks follow the last.
      reason = _refused(header)
      if reason is None:
        continue
      match = _KEY.fullmatch(header.name)
      if reason or not match:
        detail = 'folder/key.suffix is read' if not reason else ''
        self.rejected.append(raw.Rejected(header.name, reason or 'no_key', detail))
        continue
      member = _Member(header.name, place, header.offset_data, header.size)
      keys.setdefault(match[1], []).append((f'.{match[2].lower()}', member))
    stream = cast(IO[bytes], archive.fileobj)
    stream.seek(end)
    tail = stream.read(1 << 20)
    if len(tail) < tarfile.BLOCKSIZE:
      return 'unexpected end of data'
    return 'what follows is no header' if tail.strip(b'\0') else ''

  def _group(self, key: str, members: list[tuple[str, _Member]]) -> None:
    """Makes the members of one key a group, or rejects them by name."""

    def reject(rejected: list[_Member], reason: str, detail: str) -> None:
      names = [member.name for member in rejected] or [key]
      self.rejected.extend(raw.Rejected(name, reason, detail) for name in names)

    suffixes = [suffix for suffix, _ in members]
    media = [(s, member) for s, member in members if raw.media_of(member.name)]
    twice = sorted({suffix for suffix in suffixes if suffixes.count(suffix) > 1})
    if twice:
      merged = [member for suffix, member in media if suffix in twice]
      reject(merged, 'duplicate_member', f'key {key!r} has {", ".join(twice)} more than once')
      return
    dotted = [member for suffix, member in media if suffix.count('.') > 1]
    reject(dotted, 'dotted_name', f'its key is {key!r}, up to the first dot') if dotted else None
    plain = [suffix for suffix, _ in media if suffix.count('.') == 1]
    if dotted and not plain:
      return
    chosen = next((s for s in plain if raw.MEDIA_BY_SUFFIX[s] == 'video'), (plain or [''])[0])
    others = [member for s, member in media if s in plain and s != chosen]
    reject(others, 'second_media', f'{key}{chosen} is taken') if others else None
    places = [member.place for _, member in members]
    is_apart = max(places) - min(places) >= len(places)
    if is_apart and isinstance(self._stream, (gzip.GzipFile, bz2.BZ2File, lzma.LZMAFile)):
      reject([], 'not_adjacent', 'its files lie apart in a compressed tar: unpack that')
      return
    self.groups[key] = {
      suffix: member for suffix, member in members if suffix not in plain or suffix == chosen
    }


def _refused(header: tarfile.TarInfo) -> str | None:
  """Why a member is rejected; '' if it is not, None if it is passed over."""
  name = header.name
  is_about = files.is_document(name) and not raw.media_of(name)
  if header.isdir() or raw.is_litter(name) or is_about or re.match(r'__[^/]*__($|/)', name):
    return None
  if not header.isreg() or header.issparse():
    return 'not_a_file'
  parts = pathlib.PurePosixPath(name).parts
  return 'unsafe_name' if name.startswith('/') or '..' in parts else ''


def _example(
  key: str, members: Mapping[str, bytes], row: Mapping[str, Any]
) -> raw.RawExample | raw.Rejected:
  media = next((suffix for suffix in members if suffix in raw.MEDIA_BY_SUFFIX), None)
  try:
    known = tables.parse_json(text.decode(members['.json'])) if '.json' in members else {}
    origin = columns.origin_of(known) | columns.origin_of(row)
  except ValueError as error:
    if media is not None:  # What it says may forbid the example.
      return raw.Rejected(key, 'bad_json', str(error))
    known, origin = {}, {}
  if media is None:
    return _without_media(key, members, known, row)
  if '.txt' in members:
    try:
      caption = text.decode(members['.txt'])
    except ValueError as error:
      return raw.Rejected(key, 'undecodable_caption', str(error))
  else:
    column = columns.find(list(known), CAPTIONS)
    caption = known[column] if column else None
    if not isinstance(caption, str):
      return raw.Rejected(key, 'missing_txt', f'members: {sorted(members)}')
  return raw.RawExample(key, caption, raw.MEDIA_BY_SUFFIX[media], members[media], origin)


def _without_media(
  key: str, members: Mapping[str, bytes], known: Mapping[str, Any], row: Mapping[str, Any]
) -> raw.Rejected:
  if row and row['status'] != 'success':
    return raw.Rejected(key, 'failed_download', str(row.get('error_message') or row['status']))
  detail = str(known.get('error_message') or f'members: {sorted(members)}')
  is_other = set(members) - set(_BOUNDS)
  return raw.Rejected(key, 'unknown_format' if is_other else 'missing_media', detail)


def _rows_by_key(table: epath.Path) -> dict[str, dict[str, Any]]:
  """The rows of img2dataset's or video2dataset's table; none if it is not theirs."""
  found = table_columns(table) if table.exists() else []
  if not {'key', 'status'} & set(found):
    return {}
  columns.require(table, found, ('key', 'status'), 'img2dataset')
  with table.open('rb') as file:
    rows = pyarrow.parquet.read_table(file).to_pylist()
  return {str(row['key']): row for row in rows}
