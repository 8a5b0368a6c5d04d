"""The files of a tar, grouped by webdataset's keys from its headers, before any of them is read.

A header is not trusted: sizes, kinds, names and order are checked, and a member that belongs to no
example is rejected by its name.
"""

import bz2
import contextlib
import dataclasses
import gzip
import lzma
import pathlib
import re
import tarfile
from collections.abc import Container, Generator, Mapping
from typing import IO, Any, cast

from data_pipelines.media import errors
from data_pipelines.sources import file_names, files, raw, tables

KEY = re.compile(r'((?:.*/)?[^./][^./]*)\.([^/]*)', re.DOTALL)
BOUNDS = {  # Bytes of the small members.
  '.txt': ('long_caption', 4 * raw.MAX_CAPTION + 4),
  '.json': ('bad_json', tables.MAX_JSON_BYTES),
}


@dataclasses.dataclass(frozen=True)
class Member:
  """A file in a tar: its name, its place among the others, and where its bytes are."""

  name: str
  place: int
  offset: int
  size: int


class Tar:
  """What the headers of a tar say, before any of its files is read.

  Attributes:
    groups: {key: {suffix: member}} in the order in which the keys come first.
    rejected: members that belong to none of them, and the tar if it is damaged.
  """

  def __init__(self, archive: tarfile.TarFile | None, name: str, failure: str = ''):
    self.groups: dict[str, dict[str, Member]] = {}
    self.rejected: list[raw.Rejected] = []
    self._dropped: dict[str, dict[str, Member]] = {}
    self._stream = cast(IO[bytes], archive.fileobj) if archive else None
    keys: dict[str, list[tuple[str, Member]]] = {}
    try:
      if archive:
        failure = self._scan(archive, keys)
    except Exception as error:  # tarfile and the decompressors raise what they like.
      failure = f'{type(error).__name__}: {error}'
    if failure:
      self.rejected.append(raw.Rejected(name, 'truncated_tar', failure))
      last = next(reversed(keys), '')
      # The json may be in what is lost, and may forbid the example.
      if last and '.json' not in dict(keys[last]):
        self.rejected.append(raw.Rejected(last, 'truncated_tar', 'its last files may be lost'))
        del keys[last]
    for key, members in keys.items():
      self._group(key, members)

  @classmethod
  @contextlib.contextmanager
  def open(cls, file: pathlib.Path) -> Generator['Tar', None, None]:
    """Opens a tar, compressed or not; one that cannot be read has rejected itself."""
    try:
      archive = tarfile.open(file)  # noqa: SIM115
    except Exception as error:  # As above.
      yield cls(None, file.name, f'{type(error).__name__}: {error}')
      return
    with archive:
      yield cls(archive, file.name)

  def num_examples(self) -> int:
    """Examples that the tar names."""
    return len(self.groups) + len(self.rejected)

  def left_of(self, rows: Mapping[str, Any], held: Container[str] = ()) -> dict[str, Any]:
    """The rows of its table that no example is of, here or among those that are held."""
    known = {row_of(key, rows) for key in (*self.groups, *self._dropped)}
    return {key: row for key, row in rows.items() if key not in known and key not in held}

  def drop(self, held: Mapping[str, int]) -> tuple[int, int]:
    """Leaves out what is held: bytes of media by key.

    Returns:
      How many of these are not here, and of how many that are the media has another size.
    """
    self._dropped = {key: self.groups.pop(key) for key in held if key in self.groups}
    media = {
      key: next((m.size for s, m in group.items() if s in file_names.MEDIA_BY_SUFFIX), -1)
      for key, group in self._dropped.items()
    }
    return len(held) - len(media), sum(held[key] != size for key, size in media.items())

  def read(self, members: Mapping[str, Member]) -> dict[str, bytes]:
    """Bytes by suffix, of those that an example needs; raises DecodeError for one too large."""
    found = dict.fromkeys(members, b'')
    for suffix, member in members.items():
      if suffix not in BOUNDS and suffix not in file_names.MEDIA_BY_SUFFIX:
        continue
      reason, bound = BOUNDS.get(suffix, ('too_large', raw.MAX_FILE_BYTES))
      if member.size > bound:
        raise errors.DecodeError(reason, f'{member.name} has {member.size:,} bytes')
      stream = cast(IO[bytes], self._stream)
      stream.seek(member.offset)
      found[suffix] = stream.read(member.size)
      if len(found[suffix]) < member.size:
        raise errors.DecodeError('truncated_tar', f'{member.name} is cut')
    return found

  def _scan(self, archive: tarfile.TarFile, keys: dict[str, list[tuple[str, Member]]]) -> str:
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
      match = KEY.fullmatch(file_names.composed(header.name))
      if reason or not match:
        detail = 'folder/key.suffix is read' if not reason else ''
        self.rejected.append(raw.Rejected(header.name, reason or 'no_key', detail))
        continue
      member = Member(header.name, place, header.offset_data, header.size)
      keys.setdefault(match[1], []).append((f'.{match[2].lower()}', member))
    stream = cast(IO[bytes], archive.fileobj)
    stream.seek(end)
    tail = stream.read(1 << 20)
    if len(tail) < tarfile.BLOCKSIZE:
      return 'unexpected end of data'
    return 'what follows is no header' if tail.strip(b'\0') else ''

  def _group(self, key: str, members: list[tuple[str, Member]]) -> None:
    """Makes the members of one key a group, or rejects them by name."""

    def reject(rejected: list[Member], reason: str, detail: str) -> None:
      names = [member.name for member in rejected] or [key]
      self.rejected.extend(raw.Rejected(name, reason, detail) for name in names)

    suffixes = [suffix for suffix, _ in members]
    media = [(s, member) for s, member in members if file_names.media_of(member.name)]
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
    chosen = next(
      (s for s in plain if file_names.MEDIA_BY_SUFFIX[s] == 'video'), (plain or [''])[0]
    )
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


def row_of(key: str, rows: Mapping[str, Any]) -> str:
  """The key of an example's row in the table beside its tar, which may not know of folders."""
  return key if key in rows else key.rpartition('/')[2]


def _refused(header: tarfile.TarInfo) -> str | None:
  """Why a member is rejected; '' if it is not, None if it is passed over."""
  name = header.name
  is_about = files.is_document(name) and not file_names.media_of(name)
  if header.isdir() or file_names.is_litter(name) or is_about or re.match(r'__[^/]*__($|/)', name):
    return None
  if not header.isreg() or header.issparse():
    return 'not_a_file'
  parts = pathlib.PurePosixPath(name).parts
  return 'unsafe_name' if name.startswith('/') or '..' in parts else ''
