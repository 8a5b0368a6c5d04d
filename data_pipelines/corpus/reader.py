"""Ingested corpora on a disk or in a bucket, opened for random access: records, and the sidecars'
columns.
"""

import bisect
import collections
import errno
import functools
import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from etils import epath
from google.protobuf import message

from data_pipelines.corpus import buckets, remote_records, retries, schema, storage
from data_pipelines.media.errors import DecodeError

TEXTS = ('key', 'caption', 'media')
# What the stream asks of each row; `media` as its place in schema.MEDIA.
COLUMNS = ('media', 'first_time', 'duration', 'fps')


class Corpora:
  """One split of one or more corpora, as one table: rows are numbered through.

  In memory are the names of the shards, and `columns` (25 bytes per row) once they are asked for.

  Attributes:
    names: of the corpora, in the order of their rows: sorted, however they were given.
    directories: their folders, by name.
    fingerprints: one per corpus; each changes with any byte of any of its records.
    sidecars: paths of the shards' sidecars, in the order of their rows.
    starts: first row of each shard, and at the end the number of rows.
    corpus_starts: the same of each corpus.
  """

  def __init__(self, directories: epath.PathLike | Mapping[str, epath.PathLike], split: str):
    if not isinstance(directories, Mapping):
      directories = {'corpus': directories}
    self.names = tuple(sorted(directories))
    self.directories = {name: epath.Path(directories[name]) for name in self.names}
    self.fingerprints: list[str] = []
    self.sidecars: list[epath.Path] = []
    self._shards: list[str] = []
    lengths: list[int] = []
    self.corpus_starts = [0]
    for directory in self.directories.values():
      manifest = read_manifest(directory)
      if split not in manifest['splits']:
        raise ValueError(
          f'{directory} has no split {split!r}, only {tuple(manifest["splits"])}; ingest it again, '
          'with --validation_fraction for a held-out split.'
        )
      self.fingerprints.append(manifest['fingerprint'])
      for shard in manifest['splits'][split]['shards']:
        self._shards.append(str(directory / shard['records']))
        self.sidecars.append(directory / shard['sidecar'])
        lengths.append(shard['num_examples'])
      self.corpus_starts.append(sum(lengths))
    _check_lengths(self.sidecars, lengths)
    self.starts = list(itertools.accumulate(lengths, initial=0))

  def __len__(self) -> int:
    return self.starts[-1]

  @functools.cached_property
  def columns(self) -> dict[str, np.ndarray]:
    """COLUMNS of all sidecars, one array each; `fps` is buckets.dense_rate's."""
    tables = storage.in_threads(_read_columns, self.sidecars)
    media = pa.array(schema.MEDIA)
    columns = {name: [table[name] for table in tables] for name in COLUMNS}
    columns['media'] = [
      # pyrefly: ignore[missing-attribute]  # pyarrow makes its kernels' functions at import.
      pa.compute.index_in(column, media).cast(pa.uint8())
      for column in columns['media']
    ]
    return {name: np.concatenate(values) for name, values in columns.items()}

  @functools.cached_property
  def sizes(self) -> dict[str, np.ndarray]:
    """height and width of all rows, int32 pixels: for buckets by aspect alone."""
    tables = storage.in_threads(
      lambda path: storage.read_table(path, ['height', 'width']), self.sidecars
    )
    return {
      name: np.concatenate([table[name].to_numpy() for table in tables])
      for name in ('height', 'width')
    }

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
  """

  MAX_OPEN = 256  # Files per process; an open shard of 10,000 records holds 0.7 MB.

  def __init__(self, texts: Sequence[str] = TEXTS, data: Sequence[str] = ('data',)):
    from tensorflow_datasets.proto import tf_example_pb2

    self._texts, self._data = texts, data
    # pyrefly: ignore[missing-attribute]  # Protobuf makes the classes at import.
    self._example = tf_example_pb2.Example
    self._readers: collections.OrderedDict[str, Any] = collections.OrderedDict()
    self._lock = threading.Lock()

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
      raise DecodeError('record', str(error)) from error
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
      if shard in self._readers:
        self._readers.move_to_end(shard)
        return self._readers[shard]
    reader = _open(shard)  # Out of the lock: in a bucket it takes two requests.
    with self._lock:
      self._readers[shard] = reader
      if len(self._readers) > self.MAX_OPEN:
        self._readers.popitem(last=False)  # Closed when the last thread is done with it.
    return reader


def _open(shard: str) -> Any:
  if not storage.is_local(shard):
    return remote_records.Reader(shard)
  from array_record.python import array_record_module

  return array_record_module.ArrayRecordReader(
    shard, options='readahead_buffer_size:0', file_reader_buffer_size=32768
  )


def read_manifest(directory: epath.PathLike) -> dict:
  """The manifest of a whole corpus; raises ValueError if there is none."""
  path = epath.Path(directory) / 'manifest.json'
  if not path.exists():
    raise ValueError(
      f'{directory} holds no ingested corpus (no manifest.json). '
      f'Make one: python -m data_pipelines ingest --input=YOUR_VIDEOS --output={directory}'
    )
  manifest = storage.read_json(path, 'version')
  if manifest['version'] != schema.VERSION:
    raise ValueError(
      f'{path} is of version {manifest["version"]}, not {schema.VERSION}: ingest the corpus again.'
    )
  return manifest


def _read_columns(path: epath.Path) -> pa.Table:
  table = storage.read_table(path, COLUMNS, optional=['longest_gap'])
  if 'longest_gap' not in table.column_names:  # Of an older corpus.
    return table
  rate = buckets.dense_rate(table['fps'].to_numpy(), table['longest_gap'].to_numpy())
  return table.set_column(table.column_names.index('fps'), 'fps', pa.array(rate))


def _check_lengths(sidecars: Sequence[epath.Path], lengths: Sequence[int]) -> None:
  counts = storage.in_threads(_num_rows, sidecars)
  for path, length, found in zip(sidecars, lengths, counts, strict=True):
    if found != length:
      raise ValueError(f'{path} has {found} rows for {length} records.')


def _num_rows(path: epath.Path) -> int:
  with storage.opened(path) as file:
    return pa.parquet.read_metadata(file).num_rows
