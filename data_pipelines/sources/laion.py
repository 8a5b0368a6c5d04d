"""LAION's own tables: links and captions without media. They are described, not ingested.

LAION-400M has 32 files with SAMPLE_ID, URL, TEXT, HEIGHT, WIDTH, LICENSE, NSFW, similarity; the
joined sets of LAION-2B add hash, pwatermark, punsafe. The case of the names varies. Images are
fetched from them with img2dataset, whose tars webdataset.py reads.
"""

import shlex
from collections.abc import Iterator

import pyarrow.parquet
from etils import epath

from data_pipelines.sources import columns, files, raw, tables

CAPTIONS = ('text', 'caption', 'top_caption')
KEPT = ('NSFW', 'similarity', 'LICENSE', 'hash', 'pwatermark', 'punsafe')  # For img2dataset.


class LaionParquet(raw.Source):
  """A folder of LAION's Parquet files, or one of them."""

  @staticmethod
  def matches(path: epath.Path) -> bool:
    """True if the first table here has links or LAION's ids."""
    first = [tables.parquet_columns(table) for table in _tables(path)[:1]]
    return any(columns.find(found, ('url', 'sample_id')) for found in first)

  def shards(self) -> list[raw.Shard]:
    """One per table."""
    for table in _tables(self.path):
      found = [name.lower() for name in tables.parquet_columns(table)]
      columns.require(table, found, ('url',), 'LAION')
      if not columns.find(found, CAPTIONS):
        columns.require(table, found, CAPTIONS[:1], 'LAION')
    return [raw.Shard(None, (table,)) for table in _tables(self.path)]

  def read(self, shard: raw.Shard) -> Iterator[raw.RawExample | raw.Rejected]:
    """Rejects every row: there are only links. `detail` is the link."""
    (table,) = shard.items
    with table.open('rb') as file:
      for number, row in enumerate(_rows(file)):
        yield raw.Rejected(f'{table.name}:{number}', 'link_only', str(row))

  def count(self, shard: raw.Shard) -> int:
    """The rows."""
    with shard.items[0].open('rb') as file:
      return pyarrow.parquet.read_metadata(file).num_rows

  def describe(self, shard: raw.Shard) -> list:
    """Name and size of the table."""
    return [shard.items[0].name, shard.items[0].stat().length]

  def unlisted(self) -> Iterator[str]:
    """Media files beside the tables."""
    return files.unlisted(self.path, ())

  def columns(self) -> dict[str, list[str]]:
    """Of the first table."""
    return {table.name: tables.parquet_columns(table) for table in _tables(self.path)[:1]}

  def download_command(self) -> str:
    """How img2dataset fetches these images so that nothing that curation needs is lost."""
    found = next(iter(self.columns().values()))
    caption, url = columns.find(found, CAPTIONS), columns.find(found, ('url',))
    kept = [name for name in found if name.lower() in {k.lower() for k in KEPT}]
    return (
      f'img2dataset --url_list {shlex.quote(str(self.path))} --input_format parquet '
      f'--url_col {shlex.quote(str(url))} --caption_col {shlex.quote(str(caption))} '
      f'--output_format webdataset --save_additional_columns {shlex.quote(str(kept))} '
      '--image_size 512 --resize_mode keep_ratio --resize_only_if_bigger True --output_folder TARS'
    )


def _tables(path: epath.Path) -> list[epath.Path]:
  if path.is_file():
    return [path] if path.suffix == '.parquet' else []
  return files.matching(path, '*.parquet')


def _rows(file):
  table = pyarrow.parquet.ParquetFile(file)
  url = columns.find(table.schema_arrow.names, ('url',))
  for batch in table.iter_batches(columns=[url]):
    yield from batch[url].to_pylist()
