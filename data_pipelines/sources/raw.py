"""What every reader yields: a source is a list of shards, which are read one by one.

Paths are etils.epath's: local, gs:// or s3://.
"""

import abc
import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from etils import epath

MEDIA_BY_SUFFIX = {
  **dict.fromkeys(('.mp4', '.mov', '.m4v', '.mkv', '.webm', '.avi'), 'video'),
  **dict.fromkeys(('.jpg', '.jpeg', '.png', '.webp'), 'image'),
}
MAX_SHARD_EXAMPLES = 4096  # A read from ArrayRecord costs O(records of the shard): 6 us at 4k.


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
  """An example that cannot be used: `reason` is a code to count by, `detail` is for people."""

  key: str
  reason: str
  detail: str = ''


@dataclasses.dataclass(frozen=True)
class Shard:
  """A unit of work. `split` is None where the source does not say; `items` is the reader's own."""

  split: str | None
  items: tuple[Any, ...]


class Source(abc.ABC):
  """A corpus in one of the layouts people hold. Picklable: shards are read in other processes."""

  def __init__(self, path: epath.Path):
    self.path = path

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

  def columns(self) -> dict[str, list[str]]:
    """Column names by the file that has them, for lists and tables."""
    return {}


@dataclasses.dataclass(frozen=True)
class Listed:
  """One line of a list: a media file and its caption."""

  split: str | None
  key: str
  file: epath.Path
  caption: str


def read_listed(items: Iterable[Listed]) -> Iterator[RawExample | Rejected]:
  """Reads listed files; one that is not there is rejected."""
  for item in items:
    try:
      data = item.file.read_bytes()
    except OSError as error:
      yield Rejected(item.key, 'missing_file', str(error))
    else:
      yield RawExample(item.key, item.caption, media_of(item.file.name), data)


@dataclasses.dataclass(frozen=True)
class Rows:
  """A run of rows in a list file, found by offset: a list of ten million is never in memory."""

  file: epath.Path
  offset: int
  num_bytes: int
  num_rows: int
  sha256: str

  def text(self) -> str:
    """The rows as they stand in the file."""
    return _read_range(self.file, self.offset, self.num_bytes).decode('utf-8', errors='replace')


def split_rows(file: epath.Path, ends: list[int]) -> list[Rows]:
  """Cuts a list file into shards.

  Args:
    file: the list.
    ends: where the first row starts, and then where each row ends, in bytes.
  """
  num_rows = len(ends) - 1
  size = shard_size(num_rows)
  ranges = []
  for first in range(0, num_rows, size):
    last = min(first + size, num_rows)
    num_bytes = ends[last] - ends[first]
    digest = hashlib.sha256(_read_range(file, ends[first], num_bytes)).hexdigest()
    ranges.append(Rows(file, ends[first], num_bytes, last - first, digest))
  return ranges


def shard_size(num_examples: int) -> int:
  """Examples per shard of a list: at most 4,096, and at least 16 shards if the list is long."""
  return min(MAX_SHARD_EXAMPLES, max(64, -(-num_examples // 16)))


class RowsSource(Source):
  """A source whose list files are read row by row; a shard is one run of `Rows`."""

  @abc.abstractmethod
  def listed(self, rows: Rows) -> Iterator[Listed]:
    """Parses a run of rows."""

  def read(self, shard: Shard) -> Iterator[RawExample | Rejected]:
    """Reads the files that the rows name."""
    yield from read_listed(self.listed(shard.items[0]))

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


def open_text(file: epath.Path) -> TextIO:
  """Opens UTF-8 text, keeping its line ends; what is not UTF-8 becomes a replacement character."""
  return io.TextIOWrapper(file.open('rb'), encoding='utf-8', errors='replace', newline='')


def media_of(name: str) -> str:
  """'video' or 'image', by the file's suffix."""
  suffix = pathlib.PurePath(name).suffix.lower()
  if suffix not in MEDIA_BY_SUFFIX:
    raise ValueError(f'{name}: suffix {suffix!r} is not one of {", ".join(MEDIA_BY_SUFFIX)}.')
  return MEDIA_BY_SUFFIX[suffix]


def split_of(name: str) -> str | None:
  """The split that a file or folder name tells, as in results_2M_val.csv; None if it tells none."""
  words = pathlib.PurePath(name).stem.lower().replace('-', '_').split('_')
  if {'val', 'validation', 'test'} & set(words):
    return 'validation'
  return 'train' if 'train' in words else None
