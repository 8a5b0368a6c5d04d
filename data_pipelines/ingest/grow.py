"""What of an input is new to a corpus: by key, and of what was rejected if its file has changed.

Nothing is decoded. An example whose key the corpus holds stays as it was ingested, whatever became
of its file or caption, and so does one that the input no longer has.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute

from data_pipelines.corpus import schema, storage
from data_pipelines.ingest import held as held_lib
from data_pipelines.ingest import plan as plan_lib
from data_pipelines.sources import lists, raw, webdataset

MAX_CHANGED = 8  # Files of other bytes than the corpus', if these are more than half.


@dataclasses.dataclass
class Todo:
  """What a run does.

  Attributes:
    shards: of the input; none if the corpus has it all.
    identity: of this work.
    late: keys, of lists, that were rejected and are tried again or no longer listed.
    retried: what was rejected before and is tried again, by reason.
    forgotten: likewise, of what is no longer listed.
    num_vanished: examples of the corpus that the input no longer lists.
    num_changed: those whose file has another size.
    num_again: those of tars that are read again.
    is_relisted: whether the listing differs from that of the last run.
    units: state of each tar.
  """

  shards: list[raw.Shard]
  identity: str = ''
  late: set[str] = dataclasses.field(default_factory=set)
  retried: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  forgotten: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  num_vanished: int = 0
  num_changed: int = 0
  num_again: int = 0
  is_relisted: bool = False
  units: dict[str, list] = dataclasses.field(default_factory=dict)

  def sentences(self) -> Iterator[str]:
    """What of the corpus differs from the input, a line each."""
    if self.num_vanished:
      yield f'{self.num_vanished:,} examples are no longer in the input; they stay in the corpus'
    if self.num_changed:
      yield f'{self.num_changed:,} files have other bytes now; the corpus keeps what it has'
    if self.is_relisted and not (self.shards or self.num_vanished or self.num_changed):
      yield 'the input is listed otherwise, as with other captions; the corpus keeps what it has'


def todo(plan: plan_lib.Plan) -> Todo:
  """All of the input, or what the corpus lacks.

  Raises:
    ValueError: the corpus is of other input, or cannot grow.
  """
  manifest, source = plan.manifest, plan.source
  if manifest is None:
    found = Todo(plan.shards, plan.identity)
    if isinstance(source, webdataset.WebDataset):
      found.units = _states(source, plan.shards)
    return found
  is_same = manifest['identity'] == plan.identity
  if 'versions' not in manifest:
    if not is_same:
      raise ValueError(
        f'{plan.output} holds a corpus of other input or options. It cannot grow: an older version '
        'named its shards by their number. Ingest the whole input into another --output; or what '
        'is new alone, and give both corpora to training and `index`.'
      )
    return Todo([])
  held = held_lib.Held(plan.output, manifest)
  if isinstance(source, webdataset.WebDataset):
    found, num_known = _of_tars(source, plan.shards, held)
  else:
    assert isinstance(source, lists.Lists)
    found, num_known = _Lists(source, held, is_same).todo(plan.shards)
  if not is_same and not num_known:
    raise ValueError(
      f'{plan.output} holds a corpus of other input: none of its {held.num_examples:,} examples is '
      f'in {source.path}. Give another --output; training and `index` take several corpora.'
    )
  check_files(plan, found.num_changed, num_known)
  num_shards = max(len(split['shards']) for split in manifest['splits'].values())
  if num_shards + len(found.shards) > schema.MAX_SHARDS:
    raise ValueError(
      f'{plan.output} would have more than {schema.MAX_SHARDS:,} shards: ingest what is new into '
      'another --output; training and `index` take several corpora.'
    )
  found.is_relisted = not is_same
  described = [
    [source.describe(shard), found.units.get(source.unit(shard))] for shard in found.shards
  ]
  text = json.dumps([plan.identity, manifest['fingerprint'], len(manifest['versions']), described])
  found.identity = hashlib.sha256(text.encode()).hexdigest()[:16]
  return found


def check_files(plan: plan_lib.Plan, num_others: int, num_known: int) -> None:
  """Raises ValueError if too many of the known examples are others now: two downloads by
  img2dataset, for example, have the same names for other files."""
  if num_others >= MAX_CHANGED and 2 * num_others > num_known:
    raise ValueError(
      f'{plan.output} holds a corpus of other input, or of these files before they were changed: '
      f'{num_others:,} of the {num_known:,} examples whose names {plan.source.path} has too are '
      'not there any more or have other bytes. Give another --output.'
    )


def _of_tars(
  source: webdataset.WebDataset, shards: Sequence[raw.Shard], held: held_lib.Held
) -> tuple[Todo, int]:
  """(tars that are new or were changed, how many there were before)."""
  states = _states(source, shards)
  found = Todo([], units=states)
  again = set()
  for shard in shards:
    unit = source.unit(shard)
    if unit not in held.units:
      found.shards.append(shard)
    elif held.units[unit][1] != states[unit]:
      again.add(unit)
      known = dict(zip(*held.table(unit).to_pydict().values(), strict=True))
      found.shards.append(source.grown(shard, known))
  found.num_again = held.num_of_units(again)
  found.retried = held.rejected_of_units(again)
  found.num_vanished = held.num_of_units(held.units.keys() - states.keys())
  return found, len(held.units.keys() & states.keys())


def _states(source: webdataset.WebDataset, shards: Sequence[raw.Shard]) -> dict[str, list]:
  """Of each tar."""
  return dict(zip(map(source.unit, shards), storage.in_threads(source.state, shards), strict=True))


class _Lists:
  """What lists have that a corpus has not.

  Args:
    source: the input.
    held: the corpus.
    is_same: whether the lists are those of the last run: then only files may have come.
  """

  def __init__(self, source: lists.Lists, held: held_lib.Held, is_same: bool):
    self._source = source
    self._held = held
    self._is_same = is_same
    self._lines = held.rejected_by_key()
    self._todo = Todo([])

  def todo(self, shards: Sequence[raw.Shard]) -> tuple[Todo, int]:
    """(what is new, how many rows there are whose key the corpus holds)."""
    if self._is_same and not self._lines:
      return self._todo, 0
    asked = [self._asked(shard) for shard in shards]
    if not any(map(len, asked)):
      return self._todo, 0
    listed = pa.concat_arrays([pa.array([], pa.large_string()), *asked])
    known = self._held.table('')
    held_keys = known['key'].cast(pa.large_string()).combine_chunks()
    # pyrefly: ignore[missing-attribute]  # pyarrow makes its kernels' functions at import.
    places = pa.compute.index_in(listed, held_keys)
    self._add(shards, [len(keys) for keys in asked], listed, places)
    if not self._is_same:
      self._forget(listed)
      # pyrefly: ignore[missing-attribute]
      are_listed = pa.compute.is_in(held_keys, listed)
      self._todo.num_vanished = len(known) - are_listed.true_count
      if self._source.sizes_are_known:
        self._todo.num_changed = self._num_changed(shards, known['num_bytes'].take(places))
    return self._todo, len(listed) - places.null_count

  def _asked(self, shard: raw.Shard) -> pa.Array:
    """Keys of what a shard lists; or only of what was rejected, and is worth another try."""
    entries = self._source.entries(shard)
    if self._is_same:
      entries = (e for e in entries if _key(e) in self._lines and self._is_worth(e))
    return pa.array(map(_key, entries), pa.large_string())

  def _add(
    self, shards: Sequence[raw.Shard], lengths: Sequence[int], listed: pa.Array, places: pa.Array
  ) -> None:
    """Makes shards of what has no place in the corpus: whole ones where all is new."""
    left: dict[str | None, list[lists.Listed | raw.Rejected]] = {}
    start = 0
    for shard, length in zip(shards, lengths, strict=True):
      found, keys = places.slice(start, length), listed.slice(start, length)
      start += length
      if not found.null_count:
        continue
      new = set(keys.filter(found.is_null()).to_pylist())
      entries = list(self._source.entries(shard))
      chosen = [entry for entry in entries if _key(entry) in new and self._is_worth(entry)]
      self._count_late(chosen)
      if len(chosen) == len(entries):
        self._todo.shards.append(shard)
      else:
        left.setdefault(shard.split, []).extend(chosen)
    for split, items in left.items():
      for run in lists.in_runs(split, items, self._source.max_examples):
        self._todo.shards.extend(self._source.bounded(run))

  def _forget(self, listed: pa.Array) -> None:
    """What was rejected and is not listed any more: it is gone, or is named otherwise, as a row is
    by its line and a caption by its file as long as there is no media."""
    keys = pa.array(list(self._lines), pa.large_string())
    # pyrefly: ignore[missing-attribute]
    are_gone = pa.compute.invert(pa.compute.is_in(keys, listed))
    for key in keys.filter(are_gone).to_pylist():
      self._todo.late.add(key)
      self._todo.forgotten.update(line['reason'] for line in self._lines[key])

  def _count_late(self, entries: Sequence[lists.Listed | raw.Rejected]) -> None:
    for entry in entries:
      if lines := self._lines.get(_key(entry)):
        self._todo.late.add(_key(entry))
        self._todo.retried[lines[0]['reason']] += 1

  def _is_worth(self, entry: lists.Listed | raw.Rejected) -> bool:
    """Whether it was not rejected before, or is another now."""
    lines = self._lines.get(_key(entry), ())
    if not lines:
      return True
    stamp = entry.stamp() if isinstance(entry, lists.Listed) else entry.stamp
    return all(line.get('stamp', '') != stamp for line in lines)

  def _num_changed(self, shards: Sequence[raw.Shard], sizes: pa.ChunkedArray) -> int:
    """How many files have another size than the corpus holds; null is what it does not hold."""
    entries = itertools.chain.from_iterable(map(self._source.entries, shards))
    return sum(
      isinstance(entry, lists.Listed) and size is not None and entry.num_bytes not in (-1, size)
      for entry, size in zip(entries, sizes.to_pylist(), strict=True)
    )


def _key(entry: lists.Listed | raw.Rejected) -> str:
  """As rejected/ has it, if it is not printable."""
  return entry.key if entry.key.isprintable() else raw.Rejected(entry.key, '').key
