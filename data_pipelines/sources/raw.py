"""What every reader yields: a source is a list of shards, which are read one by one.

Paths are etils.epath's: local, gs:// or s3://.
"""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from data_pipelines import user_errors
from data_pipelines.sources import text

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


def reason_text(reason: str, detail: str) -> str:
  """Why an example cannot be used, for people: the code alone where there is no detail."""
  return f'{reason}: {detail}' if detail else reason


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
    self.takes_opted_out = False  # Also what its site forbids to use for AI, where that is told.

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
