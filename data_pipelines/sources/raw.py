"""What every reader yields: a source is a list of shards, which are read one by one.

Paths are etils.epath's: local, gs:// or s3://.
"""

import abc
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from data_pipelines import user_errors
from data_pipelines.media import failures
from data_pipelines.sources import file_names, files, text

# A kill loses the shards that are under way, 10 minutes of a core at most: as many clips of 18 s at
# 18 times realtime (592x336 at 5 Mbit/s), or as many bytes at 0.4 s for a megabyte (360p).
MAX_SHARD_EXAMPLES = 512
MAX_SHARD_BYTES = 1_500_000_000
MAX_LIST_SHARDS = 50_000  # Of a longer list they are larger: a corpus has room for as many again.
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

  Keys are printable, also those of files whose names are no text. `stamp` is of the file that was
  looked at (`stamp`): another one is worth another look.
  """

  key: str
  reason: str
  detail: str = ''
  stamp: str = dataclasses.field(default='', compare=False)

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
    self.max_examples = MAX_SHARD_EXAMPLES  # Of a shard of a list.

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

  def bounded(self, shard: Shard) -> Iterator[Shard]:
    """The shard in parts that a core does in minutes, if its listing tells how large it is."""
    yield shard

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

  def unit(self, shard: Shard) -> str:
    """Within what its keys are told apart: '' is all that is listed; else a tar, by its name."""
    return ''

  def num_listed(self, shard: Shard) -> int:
    """How many examples the shard lists, told by its list and not by what `read` yields."""
    count = self.count(shard)
    assert count is not None, f'{type(self).__name__} counts no other way.'
    return count

  def differences(self, shard: Shard) -> tuple[int, int]:
    """Of what a corpus holds of a shard that was read: (how many are gone, are others now)."""
    return 0, 0

  def examples(self, shard: Shard) -> Iterator[RawExample | Rejected]:
    """As `read`; what no record could hold is rejected."""
    return map(checked, self.read(shard))


def checked(example: RawExample | Rejected) -> RawExample | Rejected:
  """The example, or why no record can hold it."""
  if isinstance(example, Rejected):
    return example
  origin = [value for value in example.origin.values() if isinstance(value, str)]
  if not example.key.isprintable() or len(example.key) > MAX_KEY:
    fault = 'bad_name', f'not printable, or longer than {MAX_KEY}'
  elif not text.is_clean(example.caption):
    fault = 'undecodable_caption', repr(example.caption[:80])
  elif len(example.caption) > MAX_CAPTION:
    fault = 'long_caption', f'{len(example.caption):,} characters'
  elif not all(map(text.is_clean, origin)):
    fault = 'bad_json', 'a value is no text'
  else:
    return example
  return rejected(example, *fault)


def rejected(example: RawExample, reason: str, detail: str) -> Rejected:
  """The example, which was read and cannot be used."""
  return Rejected(example.key, reason, detail, stamp(len(example.data), example.caption))


def stamp(num_bytes: int, caption: str) -> str:
  """Differs if a file has another size or caption; of one that cannot be opened it is -1 bytes."""
  return hashlib.sha256(json.dumps([num_bytes, caption]).encode()).hexdigest()[:12]


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
    """Of the file as it is now, see `stamp`."""
    try:
      file = files.on_disk(self.root, self.name)
      with file.open('rb'):
        num_bytes = file.stat().length
    except (OSError, ValueError):
      num_bytes = -1
    return stamp(num_bytes, self.caption)


def read_listed(
  items: Iterable[Listed | Rejected], follow_outside: bool
) -> Iterator[RawExample | Rejected]:
  """Reads listed files; one that is not there is rejected."""
  for item in items:
    found = item if isinstance(item, Rejected) else _read_file(item, follow_outside)
    if isinstance(item, Listed) and isinstance(found, Rejected):
      found = dataclasses.replace(found, stamp=item.stamp())
    yield found


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


def in_runs(
  split: str | None, items: list[Listed | Rejected], most: int = MAX_SHARD_EXAMPLES
) -> Iterator[Shard]:
  """Shards of listed files, at most so many in each."""
  size = shard_size(len(items), most)
  for first in range(0, len(items), size):
    yield Shard(split, tuple(items[first : first + size]))


def _describe(item: Listed | Rejected) -> list:
  """What the listing says of a file, as JSON: it changes if the file does."""
  if isinstance(item, Rejected):
    return [item.key, item.reason]
  return [item.split, item.key, item.num_bytes, item.caption]


class Lists(Source):
  """A source that lists files by name; a shard holds its own description of them, or the files."""

  sizes_are_known = False  # Whether the listing tells `Listed.num_bytes` anyway.

  @abc.abstractmethod
  def entries(self, shard: Shard) -> Iterator[Listed | Rejected]:
    """What a shard lists, in order; no media is opened."""

  def read(self, shard: Shard) -> Iterator[RawExample | Rejected]:
    """Reads the files."""
    yield from read_listed(self.entries(shard), self.follow_outside)


class FilesSource(Lists):
  """A source whose shards are runs of listed files, see `in_runs`."""

  sizes_are_known = True

  def entries(self, shard: Shard) -> Iterator[Listed | Rejected]:
    """The files."""
    return iter(shard.items)

  def bounded(self, shard: Shard) -> Iterator[Shard]:
    """Parts of MAX_SHARD_BYTES, and of whole files."""
    first, num_bytes = 0, 0
    for place, item in enumerate(shard.items):
      size = max(item.num_bytes, 0) if isinstance(item, Listed) else 0
      if num_bytes + size > MAX_SHARD_BYTES and place > first:
        yield Shard(shard.split, shard.items[first:place])
        first, num_bytes = place, 0
      num_bytes += size
    yield Shard(shard.split, shard.items[first:])

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

  def entries(self, shard: Shard) -> Iterator[Listed | Rejected]:
    """What the rows name."""
    first = shard.items[0]
    return self.listed(first) if isinstance(first, Rows) else iter(shard.items)

  def count(self, shard: Shard) -> int:
    """The rows."""
    first = shard.items[0]
    return first.num_rows if isinstance(first, Rows) else len(shard.items)

  def describe(self, shard: Shard) -> list:
    """The rows' digest; the media files are not looked at: there may be millions."""
    rows = shard.items[0]
    if not isinstance(rows, Rows):
      return [_describe(item) for item in shard.items]
    return [shard.split, rows.file.name, rows.offset, rows.sha256]


def _read_range(file: epath.Path, offset: int, num_bytes: int) -> bytes:
  with file.open('rb') as stream:
    stream.seek(offset)
    return stream.read(num_bytes)
