"""What a stream asks of every row of a split, in one file beside the sidecars of its shards.

A corpus of 10,000 shards in a bucket then opens with one request in place of 10,000 and more.
`ingest` writes the file; `verify` compares it with the sidecars.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines.corpus import schema, storage

COLUMNS = ('media', 'first_time', 'duration', 'fps', 'longest_gap', 'height', 'width')
SCHEMA = pa.schema([schema.SIDECAR.field(name) for name in COLUMNS])
_SHARDS_HELD = 256  # While they are read; a row group has as many.


def name(split: str) -> str:
  """Of a split's file, relative to the corpus."""
  return f'rows/{split}.parquet'


def write(output: epath.Path, split: str, shards: Sequence[Mapping[str, Any]]) -> str:
  """Gathers COLUMNS of the shards' sidecars, in their order.

  Args:
    output: folder of the corpus.
    split: of the shards.
    shards: of the manifest.
  Returns:
    The file's name.
  """
  with storage.written(output / name(split)) as local:
    options = dict(compression='zstd', write_page_checksum=True)
    with pa.parquet.ParquetWriter(str(local), SCHEMA, **options) as writer:
      for table in _in_groups(output, shards):
        writer.write_table(table)
  return name(split)


def is_right(output: epath.Path, split: str, shards: Sequence[Mapping[str, Any]]) -> bool:
  """Whether a split's file begins with what `write` would write; the arguments are its."""
  try:
    written = storage.read_table(output / name(split))
  except (FileNotFoundError, ValueError):
    return False
  place = 0
  for table in _in_groups(output, shards):
    if not written.slice(place, len(table)).equals(table):
      return False
    place += len(table)
  return place <= len(written)  # More are of a version that is not whole yet.


def _in_groups(output: epath.Path, shards: Sequence[Mapping[str, Any]]) -> Iterator[pa.Table]:
  for start in range(0, len(shards), _SHARDS_HELD):
    several = shards[start : start + _SHARDS_HELD]
    yield of_sidecars([output / shard['sidecar'] for shard in several])


def of_sidecars(paths: Sequence[epath.Path]) -> pa.Table:
  """COLUMNS of sidecars, one after the other; null is what an older one lacks."""
  return pa.concat_tables([SCHEMA.empty_table(), *storage.in_threads(_of_sidecar, paths)])


def _of_sidecar(path: epath.Path) -> pa.Table:
  table = storage.read_table(path, [n for n in COLUMNS if n != 'longest_gap'], ['longest_gap'])
  if 'longest_gap' not in table.column_names:
    table = table.append_column('longest_gap', pa.nulls(len(table), pa.float64()))
  return table.select(COLUMNS).cast(SCHEMA)
