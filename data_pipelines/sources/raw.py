"""What every reader yields: a source is a list of shards, which are read one by one."""

import abc
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

MEDIA_BY_SUFFIX = {
  **dict.fromkeys(('.mp4', '.mov', '.m4v', '.mkv', '.webm', '.avi'), 'video'),
  **dict.fromkeys(('.jpg', '.jpeg', '.png', '.webp'), 'image'),
}


@dataclasses.dataclass(frozen=True)
class RawExample:
  """A caption and the media file it describes, as found: nothing is decoded yet."""

  key: str
  caption: str
  media: str
  data: bytes


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

  def __init__(self, path: pathlib.Path):
    self.path = path

  @abc.abstractmethod
  def shards(self) -> list[Shard]:
    """Lists the corpus without opening media; the order is a function of the file names alone."""

  @abc.abstractmethod
  def read(self, shard: Shard) -> Iterator[RawExample | Rejected]:
    """Reads one shard; every example that is listed comes out, taken or rejected."""


@dataclasses.dataclass(frozen=True)
class Listed:
  """One line of a list: a media file and its caption."""

  split: str | None
  key: str
  file: pathlib.Path
  caption: str


class ListedSource(Source):
  """A source whose captions stand in a list beside the media files."""

  @abc.abstractmethod
  def listed(self) -> list[Listed]:
    """The whole list."""

  def shards(self) -> list[Shard]:
    """Groups the list by split into shards of at most 4,096, at least 16 of them if it is long."""
    by_split: dict[str | None, list[Listed]] = {}
    for item in self.listed():
      by_split.setdefault(item.split, []).append(item)
    shards = []
    for split, items in by_split.items():
      size = min(4096, max(64, -(-len(items) // 16)))
      shards += [Shard(split, tuple(items[i : i + size])) for i in range(0, len(items), size)]
    return shards

  def read(self, shard: Shard) -> Iterator[RawExample | Rejected]:
    """Reads the listed files."""
    for item in shard.items:
      try:
        data = item.file.read_bytes()
      except OSError as error:
        yield Rejected(item.key, 'missing_file', str(error))
        continue
      yield RawExample(item.key, item.caption, media_of(item.file.name), data)


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
