"""What a corpus holds of its input: keys that were taken, and what was rejected, by version."""

import bisect
import collections
import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa
from etils import epath

from data_pipelines.corpus import schema, storage

COLUMNS = ('key', 'num_bytes')
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
    """Tar -> [the version that read it last, its state then]."""
    return self._manifest.get('units', {})

  def num_of_units(self, units: Collection[str]) -> int:
    """Examples of these tars."""
    return sum(shard['num_examples'] for shard in self._shards() if shard.get('unit') in units)

  def table(self, unit: str) -> pa.Table:
    """COLUMNS of the examples of a tar, or '' of lists."""
    if unit not in self._tables:
      paths = [
        self._output / shard['sidecar'] for shard in self._shards() if shard.get('unit', '') == unit
      ]
      read = storage.in_threads(lambda path: storage.read_table(path, COLUMNS), paths)
      self._tables[unit] = pa.concat_tables([_EMPTY, *read])
    return self._tables[unit]

  def _shards(self) -> Iterator[Mapping[str, Any]]:
    return itertools.chain.from_iterable(
      found['shards'] for found in self._manifest['splits'].values()
    )

  def rejected_by_key(self) -> dict[str, list[dict[str, Any]]]:
    """Lines of rejected/, of lists: of the last version that tried a key, if it was not taken."""
    found: dict[str, tuple[int, list[dict[str, Any]]]] = {}
    for version, line in self._lines():
      if found.get(line['key'], (-1, []))[0] < version:
        found[line['key']] = version, []
      found[line['key']][1].append(line)
    for path in sorted((self._output / 'rejected').glob('late-*.json')):
      version = int(path.stem.partition('-')[2])
      if version < len(self._manifest['versions']):
        for key in json.loads(path.read_text()):
          found.pop(key, None)
    return {key: lines for key, (_, lines) in found.items()}

  def rejected_of_units(self, units: Collection[str]) -> collections.Counter[str]:
    """Reasons of what was rejected when these tars were read last."""
    if not units:
      return collections.Counter()
    return collections.Counter(
      line['reason']
      for version, line in self._lines()
      if line.get('unit') in units and self.units[line['unit']][0] == version
    )

  def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
    """(version, line) of rejected/, but of what a run that was killed left there."""
    stops = list(itertools.accumulate(found['num_sources'] for found in self._manifest['versions']))
    for path in sorted((self._output / 'rejected').glob('*.jsonl')):
      version = bisect.bisect_right(stops, int(path.stem))
      if version < len(stops):
        for line in path.read_text().splitlines():
          yield version, json.loads(line)
