"""One shard of a corpus on disk: ArrayRecord beside its Parquet sidecar, and the tfds metadata."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines.corpus import remote_records, schema
from data_pipelines.sources import raw

if TYPE_CHECKING:
  import tensorflow_datasets as tfds


class RecordWriter:
  """Writes tfds examples to one file of records."""

  def __init__(self, path: pathlib.Path, features: 'tfds.features.FeaturesDict'):
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    self._features = features
    self._serializer = tfds.core.example_serializer.ExampleSerializer(
      features.get_serialized_info()
    )
    # One record per group: random access reads no neighbours. Media is compressed already.
    self._writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1,uncompressed')
    self._num_examples = 0
    self._num_bytes = 0

  def write(self, example: Mapping) -> None:
    """Appends an example of the features."""
    proto = self._serializer.get_tf_example(self._features.encode_example(dict(example)))
    # Else the order of the fields, and so the bytes, differ from process to process.
    record = proto.SerializeToString(deterministic=True)
    self._writer.write(record)
    self._num_examples += 1
    self._num_bytes += len(record)

  def close(self) -> dict:
    """Ends the file; returns num_examples and num_bytes."""
    self._writer.close()
    return dict(num_examples=self._num_examples, num_bytes=self._num_bytes)


class ShardWriter:
  """Writes the records of one split of one shard, and their sidecar, into a local folder."""

  def __init__(self, folder: pathlib.Path, split: str):
    self._records = folder / f'{split}.array_record'
    self._sidecar = folder / f'{split}.parquet'
    self._writer = RecordWriter(self._records, schema.features())
    self._rows: list[dict] = []

  def write(self, example: raw.RawExample, measured: Mapping) -> None:
    """Appends an example; `measured` is what probe.probe found."""
    self._writer.write(
      {name: getattr(example, name) for name in ('key', 'caption', 'media', 'data')}
    )
    sha256 = hashlib.sha256(example.data).hexdigest()
    md5 = hashlib.md5(example.data, usedforsecurity=False).hexdigest()
    known = dict(key=example.key, media=example.media, sha256=sha256, md5=md5)
    self._rows.append(known | dict(example.origin) | dict(measured))

  def close(self) -> dict:
    """Ends the files; returns their counts, and the checksum and layout of the records' file."""
    counts = self._writer.close()
    table = pa.Table.from_pylist(self._rows, schema.SIDECAR)
    pa.parquet.write_table(table, self._sidecar, write_page_checksum=True)
    with self._records.open('rb') as file:
      sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
    layout = remote_records.layout_of(self._records)
    return counts | dict(
      num_by_media={m: sum(row['media'] == m for row in self._rows) for m in schema.MEDIA},
      sha256=sha256,
      size=layout.size,
      footer=layout.footer,
    )


def write_tfds_metadata(
  output: epath.Path,
  splits: Mapping[str, dict],
  features: 'tfds.features.FeaturesDict | None' = None,
  template: str = schema.FILE_TEMPLATE,
) -> None:
  """Writes features.json and dataset_info.json: tfds.builder_from_directory reads the folder.

  Args:
    output: folder of the shards.
    splits: by name; `shards` of each has num_examples and num_bytes of its files, in order.
    features: of a record; those of a corpus if None.
    template: of the files' names.
  """
  import tensorflow_datasets as tfds

  infos = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=[shard['num_examples'] for shard in found['shards']],
      num_bytes=sum(shard['num_bytes'] for shard in found['shards']),
      filename_template=tfds.core.ShardedFileTemplate(
        data_dir=output,
        dataset_name=schema.DATASET_NAME,
        split=split,
        filetype_suffix='array_record',
        template=template,
      ),
    )
    for split, found in splits.items()
  ]
  tfds.folder_dataset.write_metadata(
    data_dir=str(output),
    features=features or schema.features(),
    split_infos=infos,
    filename_template=template,
    check_data=False,  # It would need TensorFlow; the loader checks the counts.
  )
