"""Ingested corpora on a disk or in a bucket, opened for random access: records, and the sidecars'
columns.
"""

import bisect
import collections
import concurrent.futures
import dataclasses
import errno
import functools
import itertools
import shlex
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from etils import epath
from google.protobuf import message

from data_pipelines import user_errors
from data_pipelines.corpus import (
  buckets,
  disk_cache,
  remote_records,
  retries,
  rows,
  schema,
  storage,
)
from data_pipelines.media.errors import DecodeError

TEXTS = ('key', 'caption', 'media')
# Records that are read from a disk before the first of them is decoded. Reading one at a time in
# between makes decoding clips of 64x64 7 % slower.
NUM_READ_AHEAD = 8
MAX_WAITING = 1 << 28  # Bytes of records from a bucket that nobody has asked for yet.
# What the stream asks of each row; `media` as its place in schema.MEDIA.
COLUMNS = ('media', 'first_time', 'duration', 'fps')


@dataclasses.dataclass(frozen=True)
class Remote:
  """What helps to read shards in buckets; picklable.

  Attributes:
    layouts: of shards by path: one that is among them is opened by one request, another by two.
    cache: of what was read, on the local disk; None for none.
  """

  layouts: Mapping[str, remote_records.Layout] = dataclasses.field(default_factory=dict)
  cache: disk_cache.DiskCache | None = None


class Corpora:
  """One split of one or more corpora, as one table: rows are numbered through.

  In memory are the names of the shards, and `columns` (25 bytes per row) once they are asked for.

  Attributes:
    names: of the corpora, in the order of their rows: sorted, however they were given.
    directories: their folders, by name.
    fingerprints: one per corpus; each changes with any byte of any of its records.
    earlier: of each corpus, the fingerprints that it had before it grew.
    sidecars: paths of the shards' sidecars, in the order of their rows.
    remote: what a manifest tells of shards in buckets.
    starts: first row of each shard, and at the end the number of rows.
    corpus_starts: the same of each corpus.
  """

  def __init__(self, directories: epath.PathLike | Mapping[str, epath.PathLike], split: str):
    if not isinstance(directories, Mapping):
      directories = {'corpus': directories}
    self.names = tuple(sorted(directories))
    self.directories = {name: epath.Path(directories[name]) for name in self.names}
    self.fingerprints: list[str] = []
    self.earlier: list[list[str]] = []
    self.sidecars: list[epath.Path] = []
    layouts: dict[str, remote_records.Layout] = {}
    self._shards: list[str] = []
    self._gathered: list[tuple[epath.Path | None, slice]] = []
    lengths: list[int] = []
    self.corpus_starts = [0]
    for directory in self.directories.values():
      manifest = read_manifest(directory)
      if split not in manifest['splits']:
        raise ValueError(
          f'{directory} has no split {split!r}, only {tuple(manifest["splits"])}: for a '
          'held-out split ingest the input with --validation_fraction into another --output.'
        )
      self.fingerprints.append(manifest['fingerprint'])
      versions = [version['fingerprint'] for version in manifest.get('versions', ())]
      self.earlier.append([known for known in versions if known != manifest['fingerprint']])
      found = manifest['splits'][split]
      start = len(self._shards)
      for shard in found['shards']:
        self._shards.append(f'{directory}/{shard["records"]}')
        self.sidecars.append(directory / shard['sidecar'])
        lengths.append(shard['num_examples'])
        if 'footer' in shard and not storage.is_local(directory):
          layout = remote_records.Layout(shard['size'], shard['footer'], shard['sha256'])
          layouts[self._shards[-1]] = layout
      self.corpus_starts.append(sum(lengths))
      shards = slice(start, len(self._shards))
      self._gathered.append((directory / found['rows'] if 'rows' in found else None, shards))
      if 'rows' not in found:
        _check_lengths(self.sidecars[shards], lengths[shards])
    self.remote = Remote(layouts)
    self.starts = list(itertools.accumulate(lengths, initial=0))

  def __len__(self) -> int:
    return self.starts[-1]

  @functools.cached_property
  def columns(self) -> dict[str, np.ndarray]:
    """COLUMNS of all rows, one array each; `fps` is buckets.dense_rate's."""
    table = self._read([*COLUMNS, 'longest_gap'])
    # pyrefly: ignore[missing-attribute]  # pyarrow makes its kernels' functions at import.
    media = pa.compute.index_in(table['media'], pa.array(schema.MEDIA)).cast(pa.uint8())
    found = {name: table[name].to_numpy() for name in table.column_names if name != 'media'}
    found['fps'] = buckets.dense_rate(found['fps'], found.pop('longest_gap'))
    return dict(media=media.to_numpy(), **found)

  @functools.cached_property
  def sizes(self) -> dict[str, np.ndarray]:
    """height and width of all rows, int32 pixels: for buckets by aspect alone."""
    table = self._read(['height', 'width'])
    return {name: table[name].to_numpy() for name in table.column_names}

  def _read(self, columns: Sequence[str]) -> pa.Table:
    """Columns of rows.COLUMNS of all rows."""
    tables = []
    for path, shards in self._gathered:
      if path is None:
        tables.append(rows.of_sidecars(self.sidecars[shards]).select(columns))
        continue
      found = storage.read_table(path, columns)
      length = self.starts[shards.stop] - self.starts[shards.start]
      if len(found) < length:
        raise ValueError(f'{path} has {len(found)} rows for {length} records.')
      tables.append(
        found.slice(0, length)
      )  # The corpus may have grown since its manifest was read.
    return pa.concat_tables(tables)

  def locate(self, row: int | np.integer) -> tuple[str, int]:
    """(shard's file of records, place in it) of a row."""
    shard = bisect.bisect_right(self.starts, row) - 1
    return self._shards[shard], int(row) - self.starts[shard]

  def rows_of(self, shard: str) -> range:
    """The rows of a shard, by its file of records."""
    number = self._numbers[shard]
    return range(self.starts[number], self.starts[number + 1])

  @functools.cached_property
  def _numbers(self) -> dict[str, int]:
    return {shard: number for number, shard in enumerate(self._shards)}

  def key(self, row: int | np.integer) -> str:
    """The row's key by its sidecar, which can be read where the record cannot."""
    shard = bisect.bisect_right(self.starts, row) - 1
    keys = storage.read_table(self.sidecars[shard], ['key'])['key']
    return keys[int(row) - self.starts[shard]].as_py()


class Records:
  """Reads records from shards, of which the last few used stay open.

  In a bucket each record is one ranged request; of an open shard 64 KiB and 20 bytes per record are
  held.

  Args:
    texts: features of a record that are str.
    data: features that are bytes.
    remote: of Corpora; None if nothing is known.
  """

  MAX_OPEN = 256  # Files per process; an open shard of 10,000 records holds 0.7 MB.

  def __init__(
    self,
    texts: Sequence[str] = TEXTS,
    data: Sequence[str] = ('data',),
    remote: Remote | None = None,
  ):
    from tensorflow_datasets.proto import tf_example_pb2

    self._texts, self._data = texts, data
    self._remote = remote or Remote()
    # pyrefly: ignore[missing-attribute]  # Protobuf makes the classes at import.
    self._example = tf_example_pb2.Example
    self._readers: collections.OrderedDict[str, Any] = collections.OrderedDict()
    self._lock = threading.Lock()
    self._opening: dict[str, threading.Lock] = {}

  def read_ahead(self, places: Iterable[tuple[str, int]]) -> Iterator[dict | DecodeError]:
    """Yields the records of (shard, record)s in order, read before they are asked for.

    From a disk, NUM_READ_AHEAD at a time; from a bucket, storage.IN_FLIGHT and no more than
    MAX_WAITING bytes.
    """
    waiting = iter(places)
    while several := list(itertools.islice(waiting, NUM_READ_AHEAD)):
      if not all(storage.is_local(shard) for shard, _ in several):
        yield from self._read_at_once(itertools.chain(several, waiting))
        return
      yield from [self.read_or_error(*place) for place in several]

  def _read_at_once(self, places: Iterator[tuple[str, int]]) -> Iterator[dict | DecodeError]:
    asked: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(storage.IN_FLIGHT) as pool:
      while True:
        while len(asked) < storage.IN_FLIGHT and _num_bytes(asked) < MAX_WAITING:
          place = next(places, None)
          if place is None:
            break
          asked.append(pool.submit(self.read_or_error, *place))
        if not asked:
          return
        yield asked.popleft().result()

  def read_or_error(self, shard: str, record: int) -> dict | DecodeError:
    """As `read`, but a DecodeError is returned."""
    try:
      return self.read(shard, record)
    except DecodeError as error:
      return error

  def read(self, shard: str, record: int) -> dict:
    """The record: its texts as str, its data as bytes; verified by the hashes of its chunk.

    Raises:
      DecodeError: the shard's file is damaged there, or gone.
      StorageError: the disk or bucket does not answer, or the whole corpus is gone.
    """
    try:
      [serialized] = retries.call(self._read, shard, record)
      found = self._example.FromString(serialized).features.feature
      values = {name: found[name].bytes_list.value[0] for name in (*self._texts, *self._data)}
    except (RuntimeError, FileNotFoundError, ValueError, LookupError, message.DecodeError) as error:
      raise DecodeError('record', user_errors.reason(error)) from error
    texts = {name: values[name].decode('utf-8', errors='replace') for name in self._texts}
    return values | texts

  def _read(self, shard: str, record: int) -> list[bytes]:
    try:
      return self._reader(shard).read([record])
    except (RuntimeError, FileNotFoundError, ValueError):
      folder = epath.Path(shard).parent
      if not folder.exists():  # A disk of a network, for example, that is no longer mounted.
        raise OSError(errno.EIO, 'the folder of the corpus is gone', str(folder)) from None
      raise

  def count(self, shard: str) -> int:
    """Number of the shard's records; raises what ArrayRecord does if its file is damaged."""
    return self._reader(shard).num_records()

  def _reader(self, shard: str) -> Any:  # array_record's, or remote_records'.
    with self._lock:
      if (found := self._opened(shard)) is not None:
        return found
      opening = self._opening.setdefault(shard, threading.Lock())
    with opening:  # Of several threads one opens it.
      with self._lock:
        if (found := self._opened(shard)) is not None:
          return found
      return self._open(shard)

  def _opened(self, shard: str) -> Any:
    if shard not in self._readers:
      return None
    self._readers.move_to_end(shard)
    return self._readers[shard]

  def _open(self, shard: str) -> Any:
    reader = _open(shard, self._remote)  # Out of the lock: a bucket takes its time.
    with self._lock:
      self._opening.pop(shard, None)
      self._readers[shard] = reader
      if len(self._readers) > self.MAX_OPEN:
        self._readers.popitem(last=False)  # Closed when the last thread is done with it.
    return reader


def _num_bytes(asked: Iterable[concurrent.futures.Future]) -> int:
  """Of the records that are there."""
  found = [future.result() for future in asked if future.done() and not future.exception()]
  return sum(
    len(value) for record in found if isinstance(record, dict) for value in record.values()
  )


def _open(shard: str, remote: Remote) -> Any:
  if not storage.is_local(shard):
    return remote_records.Reader(shard, remote.layouts.get(shard), remote.cache)
  from array_record.python import array_record_module

  return array_record_module.ArrayRecordReader(
    shard, options='readahead_buffer_size:0', file_reader_buffer_size=32768
  )


def shards_of(manifest: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """(split, shard)s of a corpus in the order in which they came: whatever joins it is behind."""
  splits = manifest['splits']
  counts = [version['shards'] for version in manifest.get('versions', ())]
  counts += [{split: len(found['shards']) for split, found in splits.items()}]
  found, starts = [], collections.Counter()
  for count in counts:
    for split in splits:
      stop = count.get(split, 0)
      found += [(split, shard) for shard in splits[split]['shards'][starts[split] : stop]]
      starts[split] = stop
  return found


def first_fingerprint(manifest: Mapping[str, Any]) -> str:
  """A corpus' when it was new: it names the corpus, however it grows."""
  return manifest.get('versions', [manifest])[0]['fingerprint']


def shots(directory: epath.Path) -> str | None:
  """Changes with where any shot of a corpus begins or ends; None where `curate` does not say."""
  path = directory / 'sidecar/curate/manifest.json'
  return storage.read_json(path).get('shots') if path.exists() else None


def read_manifest(directory: epath.PathLike) -> dict:
  """The manifest of a whole corpus; raises ValueError if there is none."""
  path = epath.Path(directory) / 'manifest.json'
  try:
    manifest = storage.read_json(path, 'version')
  except FileNotFoundError:
    raise ValueError(
      f'{directory} holds no ingested corpus (no manifest.json). '
      'Make one: python -m data_pipelines ingest --input=YOUR_VIDEOS '
      f'--output={shlex.quote(str(directory))}'
    ) from None
  if manifest['version'] != schema.VERSION:
    raise ValueError(
      f'{path} is of version {manifest["version"]}, not {schema.VERSION}: ingest the corpus again.'
    )
  return manifest


def _check_lengths(sidecars: Sequence[epath.Path], lengths: Sequence[int]) -> None:
  counts = storage.in_threads(_num_rows, sidecars)
  for path, length, found in zip(sidecars, lengths, counts, strict=True):
    if found != length:
      raise ValueError(f'{path} has {found} rows for {length} records.')


def _num_rows(path: epath.Path) -> int:
  with storage.opened(path) as file:
    return pa.parquet.read_metadata(file).num_rows
