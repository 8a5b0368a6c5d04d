"""Ingested corpora on disk, opened for random access: records, and the sidecar's columns."""

import bisect
import collections
import functools
import itertools
import json
import pathlib
import threading
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from etils import epath
from google.protobuf import message

from data_pipelines import schema
from data_pipelines.frames import DecodeError

RECORD = ('key', 'caption', 'media', 'data')
# What the stream asks of each row; `media` as its place in schema.MEDIA.
COLUMNS = ('media', 'first_time', 'duration', 'fps')


class Corpora:
  """One split of one or more corpora, as one table: rows are numbered through.

  In memory are the names of the shards, and `columns` (25 bytes per row) once they are asked for.

  Attributes:
    names: of the corpora, in the order of their rows.
    fingerprints: one per corpus; each changes with any byte of any of its records.
    sidecars: paths of the shards' sidecars, in the order of their rows.
    starts: first row of each shard, and at the end the number of rows.
    corpus_starts: the same of each corpus.
  """

  def __init__(self, directories: str | pathlib.Path | Mapping[str, str], split: str):
    if not isinstance(directories, Mapping):
      directories = {'corpus': directories}
    self.names = tuple(directories)
    self.fingerprints, self.sidecars, self._shards, lengths = [], [], [], []
    self.corpus_starts = [0]
    for directory in map(pathlib.Path, directories.values()):
      manifest = read_manifest(directory)
      if split not in manifest['splits']:
        raise ValueError(
          f'{directory} has no split {split!r}, only {tuple(manifest["splits"])}; ingest it again, '
          'with --validation_fraction for a held-out split.'
        )
      self.fingerprints.append(manifest['fingerprint'])
      for shard in manifest['splits'][split]['shards']:
        _check_shard(directory, shard)
        self._shards.append(str(directory / shard['records']))
        self.sidecars.append(directory / shard['sidecar'])
        lengths.append(shard['num_examples'])
      self.corpus_starts.append(sum(lengths))
    self.starts = list(itertools.accumulate(lengths, initial=0))

  def __len__(self) -> int:
    return self.starts[-1]

  @functools.cached_property
  def columns(self) -> dict[str, np.ndarray]:
    """COLUMNS of all sidecars, one array each."""
    tables = [pa.parquet.read_table(path, columns=list(COLUMNS)) for path in self.sidecars]
    media = pa.array(schema.MEDIA)
    columns = {name: [table[name] for table in tables] for name in COLUMNS}
    columns['media'] = [
      pa.compute.index_in(column, media).cast(pa.uint8()) for column in columns['media']
    ]
    return {name: np.concatenate(values) for name, values in columns.items()}

  def locate(self, row: int) -> tuple[str, int]:
    """(shard's file of records, place in it) of a row."""
    shard = bisect.bisect_right(self.starts, row) - 1
    return self._shards[shard], int(row) - self.starts[shard]

  def key(self, row: int) -> str:
    """The row's key by its sidecar, which can be read where the record cannot."""
    shard = bisect.bisect_right(self.starts, row) - 1
    keys = pa.parquet.read_table(self.sidecars[shard], columns=['key'])['key']
    return keys[int(row) - self.starts[shard]].as_py()


class Records:
  """Reads records from shards, of which the last few used stay open."""

  MAX_OPEN = 256  # Files per process; an open shard of 10,000 records holds 0.7 MB.

  def __init__(self):
    from tensorflow_datasets.proto import tf_example_pb2

    self._example = tf_example_pb2.Example
    self._readers = collections.OrderedDict()
    self._lock = threading.Lock()

  def read(self, shard: str, record: int) -> dict:
    """The record: key, caption and media as str, data as bytes.

    Raises:
      DecodeError: the shard's file is damaged there, or gone.
    """
    try:
      [serialized] = self._reader(shard).read([record])
      found = self._example.FromString(serialized).features.feature
      values = {name: found[name].bytes_list.value[0] for name in RECORD}
    except (RuntimeError, OSError, ValueError, LookupError, message.DecodeError) as error:
      raise DecodeError('record', str(error)) from error
    return {
      name: value if name == 'data' else value.decode('utf-8', errors='replace')
      for name, value in values.items()
    }

  def _reader(self, shard):
    from array_record.python import array_record_module

    with self._lock:
      if shard not in self._readers:
        self._readers[shard] = array_record_module.ArrayRecordReader(
          shard, options='readahead_buffer_size:0', file_reader_buffer_size=32768
        )
        if len(self._readers) > self.MAX_OPEN:
          self._readers.popitem(last=False)  # Closed when the last thread is done with it.
      self._readers.move_to_end(shard)
      return self._readers[shard]


def read_manifest(directory: str | pathlib.Path) -> dict:
  """The manifest of a whole corpus; raises ValueError if there is none."""
  path = epath.Path(directory) / 'manifest.json'
  if not path.exists():
    raise ValueError(
      f'{directory} holds no ingested corpus (no manifest.json). '
      f'Make one: python -m data_pipelines ingest --input=YOUR_VIDEOS --output={directory}'
    )
  manifest = json.loads(path.read_text())
  if manifest['version'] != schema.VERSION:
    raise ValueError(
      f'{path} is of version {manifest["version"]}, not {schema.VERSION}: ingest the corpus again.'
    )
  return manifest


def _check_shard(directory, shard):
  path = directory / shard['sidecar']
  num_rows = pa.parquet.read_metadata(path).num_rows
  if num_rows != shard['num_examples']:
    raise ValueError(f'{path} has {num_rows} rows for {shard["num_examples"]} records.')
