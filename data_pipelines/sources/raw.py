"""What every reader yields: a source is a list of shards, which are read one by one.

Paths are etils.epath's: local, gs:// or s3://.
"""

import abc
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from data_pipelines import user_errors
from data_pipelines.media import failures
from data_pipelines.sources import file_names, files, text

MAX_SHARD_EXAMPLES = 4096  # A read from ArrayRecord costs O(records of the shard): 6 us at 4k.
MAX_FILE_BYTES = 1 << 30  # A record has 2 GiB at most.
MAX_CAPTION = 1 << 16  # Characters.
MAX_KEY = 1024  # Characters.


@dataclasses.dataclass(frozen=True)
class RawExample:
  """A caption and the media file it describes, as found: nothing is decoded yet.

  Attributes:
    origin: what the source says of it: keys of schema.ORIGIN.
  """

  key: str
  caption: str
  media: str
  data: bytes
  origin: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass(frozen=True)
class Rejected:
  """An example that cannot be used: `reason` is a code to count by, `detail` is for people.

  Keys are printable, also those of files whose names are no text.
  """

  key: str
  reason: str
  detail: str = ''

  def __post_init__(self):
    for name, most in (('key', MAX_KEY), ('detail', 4 * MAX_KEY)):
      value = user_errors.printable(getattr(self, name)[:most])
      object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True)
class Shard:
  """A unit of work. `split` is None where the source does not say; `items` is the reader's own."""

  split: str | None
  items: tuple[Any, ...]


class Source(abc.ABC):
  """A corpus in one of the layouts people hold. Picklable: shards are read in other processes.

  Args:
    path: of the corpus.
    follow_outside: whether listed names and links may lead out of its folder.
  """

  def __init__(self, path: epath.Path, follow_outside: bool = False):
    self.path = path
    self.follow_outside = follow_outside

  @staticmethod
  @abc.abstractmethod
  def matches(path: epath.Path) -> bool:
    """Whether what lies there has this layout; it exists."""

  @abc.abstractmethod
  def shards(self) -> list[Shard]:
    """Lists the corpus without opening media; the order is a function of the file names alone."""

  @abc.abstractmethod
  def read(self, shard: Shard) -> Iterator[RawExample | Rejected]:
    """Reads one shard; every example that is listed comes out, taken or rejected."""

  @abc.abstractmethod
  def count(self, shard: Shard) -> int | None:
    """How many examples a shard lists; None if that takes reading it."""

  @abc.abstractmethod
  def describe(self, shard: Shard) -> list:
    """What the listing says of a shard, as JSON: it changes if the input does."""

  def unlisted(self) -> Iterator[str]:
    """Names of media files there that are no examples, for nothing lists them."""
    return iter(())

  def columns(self) -> dict[str, list[str]]:
    """Column names by the file that has them, for lists and tables."""
    return {}

  def count_unlisted(self) -> tuple[int, list[str]]:
    """(how many files `unlisted` names, the first few of them)."""
    number, first = 0, []
    for number, name in enumerate(self.unlisted(), 1):  # noqa: B007
      first = sorted([*first, name])[:5]
    return number, [user_errors.printable(name) for name in first]

  def num_listed(self, shard: Shard) -> int:
    """How many examples the shard lists, told by its list and not by what `read` yields."""
    count = self.count(shard)
    assert count is not None, f'{type(self).__name__} counts no other way.'
    return count

  def examples(self, shard: Shard) -> Iterator[RawExample | Rejected]:
    """As `read`; what no record could hold is rejected."""
    return map(checked, self.read(shard))


def checked(example: RawExample | Rejected) -> RawExample | Rejected:
  """The example, or why no record can hold it."""
  if isinstance(example, Rejected):
    return example
  origin = [value for value in example.origin.values() if isinstance(value, str)]
  if not example.key.isprintable() or len(example.key) > MAX_KEY:
    return Rejected(example.key, 'bad_name', f'not printable, or longer than {MAX_KEY}')
  if not text.is_clean(example.caption):
    return Rejected(example.key, 'undecodable_caption', repr(example.caption[:80]))
  if len(example.caption) > MAX_CAPTION:
    return Rejected(example.key, 'long_caption', f'{len(example.caption):,} characters')
  if not all(map(text.is_clean, origin)):
    return Rejected(example.key, 'bad_json', 'a value is no text')
  return example


@dataclasses.dataclass(frozen=True)
class Listed:
  """One line of a list: a media file, by its name relative to a folder, and its caption."""

  split: str | None
  key: str
  root: epath.Path
  name: str
  caption: str


def read_listed(
  items: Iterable[Listed | Rejected], follow_outside: bool
) -> Iterator[RawExample | Rejected]:
  """Reads listed files; one that is not there is rejected."""
  for item in items:
    yield item if isinstance(item, Rejected) else _read_file(item, follow_outside)


def _read_file(item: Listed, follow_outside: bool) -> RawExample | Rejected:
  if not item.key.isprintable():
    return Rejected(item.key, 'bad_name', 'the name of the file is not printable, or not UTF-8')
  try:
    media = file_names.media_of(item.name)
    if media is None:
      return Rejected(item.key, 'unknown_format', file_names.SUFFIXES)
    file = files.on_disk(item.root, item.name)
    if not follow_outside and files.is_link_out(file, item.root):
      return Rejected(item.key, 'unsafe_name', f'a link that leads out of {item.root}')
    with file.open('rb') as stream:
      data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
      return Rejected(item.key, 'too_large', f'more than {MAX_FILE_BYTES:,} bytes')
    return RawExample(item.key, item.caption, media, data)
  except OSError as error:
    return Rejected(item.key, 'missing_file', str(error))
  except Exception as error:  # One file never ends a command.
    lost = failures.of(error)
    return Rejected(item.key, lost.reason, lost.detail)


def read_caption(file: epath.Path, key: str) -> str | Rejected:
  """The text of a caption's own file, or why the example of that key has none."""
  try:
    with file.open('rb') as stream:
      data = stream.read(4 * MAX_CAPTION + 4)  # A character has four bytes at most.
    if len(data) > 4 * MAX_CAPTION:
      return Rejected(key, 'long_caption', f'{file.name} has more than {MAX_CAPTION:,} characters')
    return text.decode(data).strip()
  except OSError as error:
    return Rejected(key, 'no_caption', str(error))
  except ValueError as error:
    return Rejected(key, 'undecodable_caption', f'{file.name}: {error}')


def in_runs(split: str | None, items: list[Listed | Rejected]) -> Iterator[Shard]:
  """Shards of listed files."""
  size = shard_size(len(items))
  for first in range(0, len(items), size):
    yield Shard(split, tuple(items[first : first + size]))


def _describe(item: Listed | Rejected) -> list:
  """What the listing says of a file, as JSON: it changes if the file does."""
  if isinstance(item, Rejected):
    return [item.key, item.reason]
  try:
    size = files.on_disk(item.root, item.name).stat().length
  except (OSError, ValueError):
    size = -1
  return [item.split, item.key, size, item.caption]


class FilesSource(Source):
  """A source whose shards are runs of listed files, see `in_runs`."""

  def read(self, shard: Shard) -> Iterator[RawExample | Rejected]:
    """Reads the files."""
    return read_listed(shard.items, self.follow_outside)

  def count(self, shard: Shard) -> int:
    """The files, and what is rejected by its name."""
    return len(shard.items)

  def describe(self, shard: Shard) -> list:
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


def split_rows(file: epath.Path, ends: list[tuple[int, int]]) -> list[Rows]:
  """Cuts a list file into shards.

  Args:
    file: the list.
    ends: where the first row starts, and then where each row ends: byte, number of the next line.
  """
  num_rows = len(ends) - 1
  size = shard_size(num_rows)
  ranges = []
  for first in range(0, num_rows, size):
    last = min(first + size, num_rows)
    offset, number = ends[first]
    num_bytes = ends[last][0] - offset
    digest = hashlib.sha256(_read_range(file, offset, num_bytes)).hexdigest()
    ranges.append(Rows(file, offset, num_bytes, last - first, digest, number))
  return ranges


def shard_size(num_examples: int) -> int:
  """Examples per shard of a list: at most 4,096, and at least 16 shards if the list is long."""
  return min(MAX_SHARD_EXAMPLES, max(64, -(-num_examples // 16)))


class RowsSource(Source):
  """A source whose list files are read row by row; a shard is one run of `Rows`."""

  @abc.abstractmethod
  def listed(self, rows: Rows) -> Iterator[Listed | Rejected]:
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

  def read(self, shard: Shard) -> Iterator[RawExample | Rejected]:
    """Reads the files that the rows name."""
    yield from read_listed(self.listed(shard.items[0]), self.follow_outside)

  def count(self, shard: Shard) -> int:
    """The rows."""
    return shard.items[0].num_rows

  def describe(self, shard: Shard) -> list:
    """The rows' digest; the media files are not looked at: there may be millions."""
    rows = shard.items[0]
    return [shard.split, rows.file.name, rows.offset, rows.sha256]


def _read_range(file: epath.Path, offset: int, num_bytes: int) -> bytes:
  with file.open('rb') as stream:
    stream.seek(offset)
    return stream.read(num_bytes)
