"""What a corpus holds of its input: keys that were taken, and what was rejected, by version."""

import bisect
import collections
import functools
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from etils import epath

from data_pipelines.corpus import reader, retries, schema, storage

COLUMNS = ('key', 'num_bytes')
_FILES_HELD = 256  # Of rejected/, while they are read.
_EMPTY = pa.schema([schema.SIDECAR.field(name) for name in COLUMNS]).empty_table()


class Held:
  """A corpus, as its manifest tells it.

  Args:
    output: its folder.
    manifest: of it.
  """

  def __init__(self, output: epath.Path, manifest: Mapping[str, Any]):
    self._output = output
    self._manifest = manifest
    self._tables: dict[str, pa.Table] = {}

  @property
  def num_examples(self) -> int:
    """All of them."""
    return sum(found['num_examples'] for found in self._manifest['splits'].values())

  @property
  def units(self) -> Mapping[str, Any]:
    """Tar -> [number of its file in rejected/ when it was read last, its state then]."""
    return self._manifest.get('units', {})

  def num_of_units(self, units: Collection[str]) -> int:
    """Examples of these tars."""
    return sum(shard['num_examples'] for unit in units for shard in self._shards.get(unit, ()))

  def table(self, unit: str) -> pa.Table:
    """COLUMNS of the examples of a tar, or '' of lists."""
    if unit not in self._tables:
      paths = [self._output / shard['sidecar'] for shard in self._shards.get(unit, ())]
      read = storage.in_threads(lambda path: storage.read_table(path, COLUMNS), paths)
      self._tables[unit] = pa.concat_tables([_EMPTY, *read])
    return self._tables[unit]

  @functools.cached_property
  def _shards(self) -> Mapping[str, list[Mapping[str, Any]]]:
    """By tar."""
    found = collections.defaultdict(list)
    for _, shard in reader.shards_of(self._manifest):
      found[shard.get('unit', '')].append(shard)
    return found

  def rejected_by_key(self) -> dict[str, list[dict[str, Any]]]:
    """Lines of rejected/, of lists: of the last version that tried a key, if it was not taken."""
    found: dict[str, tuple[int, list[dict[str, Any]]]] = {}
    for version, line in self._lines():
      if found.get(line['key'], (-1, []))[0] < version:
        found[line['key']] = version, []
      found[line['key']][1].append(line)
    for path in rejected_files(self._output):
      if path.suffix == '.json' and number_of(path) < len(self._manifest['versions']):
        for key in json.loads(retries.call(path.read_text)):
          found.pop(key, None)
    return {key: lines for key, (_, lines) in found.items()}

  def rejected_of_units(self, units: Collection[str]) -> collections.Counter[str]:
    """Reasons of what was rejected when these tars were read last."""
    paths = [rejected_name(self._output, self.units[unit][0]) for unit in units]
    return collections.Counter(line['reason'] for lines in _read(paths) for line in lines)

  def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
    """(version, line) of rejected/, but of what a run that was killed left there."""
    stops = list(itertools.accumulate(found['num_sources'] for found in self._manifest['versions']))
    paths = [path for path in rejected_files(self._output) if path.suffix == '.jsonl']
    for path, lines in zip(paths, _read(paths), strict=True):
      version = bisect.bisect_right(stops, number_of(path))
      if version < len(stops):
        yield from ((version, line) for line in lines)


def rejected_files(output: epath.Path) -> list[epath.Path]:
  """All of rejected/, in the order of their numbers."""
  folder = output / 'rejected'
  found = folder.iterdir() if folder.exists() else ()
  return sorted((path for path in found if path.suffix in ('.json', '.jsonl')), key=number_of)


def number_of(path: epath.Path) -> int:
  """Of the part of the input that the lines are of, or of the version that took keys late."""
  return int(path.stem.removeprefix('late-'))


def late_name(output: epath.Path, version: int) -> epath.Path:
  """The file of keys that were rejected before and that a version has taken."""
  return output / 'rejected' / f'late-{version:05d}.json'


def rejected_name(output: epath.Path, number: int) -> epath.Path:
  """The file of what was rejected of a part of the input, if anything was."""
  return output / 'rejected' / f'{number:05d}.jsonl'


def _read(paths: Sequence[epath.Path]) -> Iterator[list[dict[str, Any]]]:
  """The lines of each file, several at a time; none of one that is not there."""
  for start in range(0, len(paths), _FILES_HELD):
    yield from storage.in_threads(_lines_of, paths[start : start + _FILES_HELD])


def _lines_of(path: epath.Path) -> list[dict[str, Any]]:
  try:
    return [json.loads(line) for line in retries.call(path.read_text).splitlines()]
  except FileNotFoundError:
    return []
