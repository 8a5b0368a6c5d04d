"""Lists of media files: how one is cut to shards, and how the files that it names are read.

A list is a file with a row for each, or what lies in a folder.
"""

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator

from etils import epath

from data_pipelines import user_errors
from data_pipelines.media import failures
from data_pipelines.sources import file_names, files, raw, text

# A kill loses the shards that are under way, 10 minutes of a core at most: as many clips of 18 s at
# 18 times realtime (592x336 at 5 Mbit/s), or as many bytes at 0.4 s for a megabyte (360p).
MAX_SHARD_EXAMPLES = 512
MAX_SHARD_BYTES = 1_500_000_000
MAX_LIST_SHARDS = 50_000  # Of a longer list they are larger: a corpus has room for as many again.


@dataclasses.dataclass(frozen=True)
class Listed:
  """One line of a list: a media file, by its name relative to a folder, and its caption."""

  split: str | None
  key: str
  root: epath.Path
  name: str
  caption: str

  @functools.cached_property
  def num_bytes(self) -> int:
    """Of the file when it was first asked for; -1 if it was not there."""
    try:
      return files.on_disk(self.root, self.name).stat().length
    except (OSError, ValueError):
      return -1

  def stamp(self) -> str:
    """Of the file as it is now, see `raw.stamp`."""
    try:
      file = files.on_disk(self.root, self.name)
      with file.open('rb'):
        num_bytes = file.stat().length
    except (OSError, ValueError):
      num_bytes = -1
    return raw.stamp(num_bytes, self.caption)


def read_listed(
  items: Iterable[Listed | raw.Rejected], follow_outside: bool
) -> Iterator[raw.RawExample | raw.Rejected]:
  """Reads listed files; one that is not there is rejected."""
  for item in items:
    found = item if isinstance(item, raw.Rejected) else _read_file(item, follow_outside)
    if isinstance(item, Listed) and isinstance(found, raw.Rejected):
      found = dataclasses.replace(found, stamp=found.stamp or item.stamp())
    yield found


def _read_file(item: Listed, follow_outside: bool) -> raw.RawExample | raw.Rejected:
  if not item.key.isprintable():
    return raw.Rejected(item.key, 'bad_name', 'the name of the file is not printable, or not UTF-8')
  try:
    media = file_names.media_of(item.name)
    if media is None:
      return raw.Rejected(item.key, 'unknown_format', file_names.SUFFIXES)
    file = files.on_disk(item.root, item.name)
    if not follow_outside and files.is_link_out(file, item.root):
      return raw.Rejected(item.key, 'unsafe_name', f'a link that leads out of {item.root}')
    with file.open('rb') as stream:
      data = stream.read(raw.MAX_FILE_BYTES + 1)
    if len(data) > raw.MAX_FILE_BYTES:
      return raw.Rejected(item.key, 'too_large', f'more than {raw.MAX_FILE_BYTES:,} bytes')
    return raw.RawExample(item.key, item.caption, media, data)
  except OSError as error:
    gone = raw.stamp(-1, item.caption)  # Also if it comes before anybody looks again.
    return raw.Rejected(item.key, 'missing_file', user_errors.reason(error), gone)
  except Exception as error:  # One file never ends a command.
    lost = failures.of(error)
    return raw.Rejected(item.key, lost.reason, lost.detail)


def read_caption(file: epath.Path, key: str) -> str | raw.Rejected:
  """The text of a caption's own file, or why the example of that key has none."""
  try:
    with file.open('rb') as stream:
      data = stream.read(4 * raw.MAX_CAPTION + 4)  # A character has four bytes at most.
    if len(data) > 4 * raw.MAX_CAPTION:
      return raw.Rejected(
        key, 'long_caption', f'{file.name} has more than {raw.MAX_CAPTION:,} characters'
      )
    return text.decode(data).strip()
  except OSError as error:
    return raw.Rejected(key, 'no_caption', f'{file.name}: {user_errors.reason(error)}')
  except ValueError as error:
    return raw.Rejected(key, 'undecodable_caption', f'{file.name}: {error}')


def in_runs(
  split: str | None, items: list[Listed | raw.Rejected], most: int = MAX_SHARD_EXAMPLES
) -> Iterator[raw.Shard]:
  """Shards of listed files, at most so many in each."""
  size = shard_size(len(items), most)
  for first in range(0, len(items), size):
    yield raw.Shard(split, tuple(items[first : first + size]))


def _describe(item: Listed | raw.Rejected) -> list:
  """What the listing says of a file, as JSON: it changes if the file does."""
  if isinstance(item, raw.Rejected):
    return [item.key, item.reason]
  return [item.split, item.key, item.num_bytes, item.caption]


class Lists(raw.Source):
  """A source that lists files by name; a shard holds its own description of them, or the files."""

  max_examples = MAX_SHARD_EXAMPLES  # Of a shard.
  sizes_are_known = False  # Whether the listing tells `Listed.num_bytes` anyway.

  @abc.abstractmethod
  def entries(self, shard: raw.Shard) -> Iterator[Listed | raw.Rejected]:
    """What a shard lists, in order; no media is opened."""

  def read(self, shard: raw.Shard) -> Iterator[raw.RawExample | raw.Rejected]:
    """Reads the files."""
    yield from read_listed(self.entries(shard), self.follow_outside)


class FilesSource(Lists):
  """A source whose shards are runs of listed files, see `in_runs`."""

  sizes_are_known = True

  def entries(self, shard: raw.Shard) -> Iterator[Listed | raw.Rejected]:
    """The files."""
    return iter(shard.items)

  def bounded(self, shard: raw.Shard) -> Iterator[raw.Shard]:
    """Parts of MAX_SHARD_BYTES, and of whole files."""
    first, num_bytes = 0, 0
    for place, item in enumerate(shard.items):
      size = max(item.num_bytes, 0) if isinstance(item, Listed) else 0
      if num_bytes + size > MAX_SHARD_BYTES and place > first:
        yield raw.Shard(shard.split, shard.items[first:place])
        first, num_bytes = place, 0
      num_bytes += size
    yield raw.Shard(shard.split, shard.items[first:])

  def count(self, shard: raw.Shard) -> int:
    """The files, and what is rejected by its name."""
    return len(shard.items)

  def describe(self, shard: raw.Shard) -> list:
    """Names, sizes and captions."""
    return [_describe(item) for item in shard.items]


@dataclasses.dataclass(frozen=True)
class Rows:
  """A run of rows in a list file, found by offset: a list of ten million is never in memory.

  Attributes:
    number: of its first line in the file, from 1.
  """

  file: epath.Path
  offset: int
  num_bytes: int
  num_rows: int
  sha256: str
  number: int = 1

  def lines(self) -> text.Lines:
    """Its lines as they stand in the file."""
    return text.Lines(self.file, self.offset, self.num_bytes)


def split_rows(
  file: epath.Path, ends: list[tuple[int, int]], most: int = MAX_SHARD_EXAMPLES
) -> list[Rows]:
  """Cuts a list file into shards.

  Args:
    file: the list.
    ends: where the first row starts, and then where each row ends: byte, number of the next line.
    most: rows of a shard.
  """
  num_rows = len(ends) - 1
  size = shard_size(num_rows, most)
  ranges = []
  for first in range(0, num_rows, size):
    last = min(first + size, num_rows)
    offset, number = ends[first]
    num_bytes = ends[last][0] - offset
    digest = hashlib.sha256(_read_range(file, offset, num_bytes)).hexdigest()
    ranges.append(Rows(file, offset, num_bytes, last - first, digest, number))
  return ranges


def shard_size(num_examples: int, most: int = MAX_SHARD_EXAMPLES) -> int:
  """Examples per shard of a list: at most `most`, and at least 16 shards if the list is long."""
  most = max(most, -(-num_examples // MAX_LIST_SHARDS))
  return min(most, max(64, -(-num_examples // 16)))


class RowsSource(Lists):
  """A source whose list files are read row by row; a shard is one run of `Rows`, or of the files
  of some rows."""

  @abc.abstractmethod
  def listed(self, rows: Rows) -> Iterator[Listed | raw.Rejected]:
    """Parses a run of rows."""

  @abc.abstractmethod
  def names(self, rows: Rows) -> Iterator[str]:
    """Of files that a run of rows may mean, relative to the list's folder."""

  def unlisted(self) -> Iterator[str]:
    """Media files that no list names."""
    runs = (shard.items[0] for shard in self.shards())
    names = (
      (rows.file.parent / name).relative_to(self.path).as_posix()
      for rows in runs for name in self.names(rows)
    )  # fmt: skip
    return files.unlisted(self.path, names) if self.path.is_dir() else iter(())

  def entries(self, shard: raw.Shard) -> Iterator[Listed | raw.Rejected]:
    """What the rows name."""
    first = shard.items[0]
    return self.listed(first) if isinstance(first, Rows) else iter(shard.items)

  def count(self, shard: raw.Shard) -> int:
    """The rows."""
    first = shard.items[0]
    return first.num_rows if isinstance(first, Rows) else len(shard.items)

  def describe(self, shard: raw.Shard) -> list:
    """The rows' digest; the media files are not looked at: there may be millions."""
    rows = shard.items[0]
    if not isinstance(rows, Rows):
      return [_describe(item) for item in shard.items]
    return [shard.split, rows.file.name, rows.offset, rows.sha256]


def _read_range(file: epath.Path, offset: int, num_bytes: int) -> bytes:
  with file.open('rb') as stream:
    stream.seek(offset)
    return stream.read(num_bytes)
