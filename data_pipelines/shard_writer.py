"""One shard of a corpus on disk: ArrayRecord beside its Parquet sidecar, and the tfds metadata."""

import hashlib
import pathlib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines import schema
from data_pipelines.sources import raw


class ShardWriter:
  """Writes the records of one split of one shard, and their sidecar, into a local folder."""

  def __init__(self, folder: pathlib.Path, split: str):
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    self._features = schema.features()
    self._serializer = tfds.core.example_serializer.ExampleSerializer(
      self._features.get_serialized_info()
    )
    self._records = folder / f'{split}.array_record'
    self._sidecar = folder / f'{split}.parquet'
    # One record per group: random access reads no neighbours. Media is compressed already.
    options = 'group_size:1,uncompressed'
    self._writer = array_record_module.ArrayRecordWriter(str(self._records), options)
    self._rows = []
    self._num_bytes = 0

  def write(self, example: raw.RawExample, measured: Mapping) -> None:
    """Appends an example; `measured` is what decode.probe found."""
    fields = {name: getattr(example, name) for name in ('key', 'caption', 'media', 'data')}
    proto = self._serializer.get_tf_example(self._features.encode_example(fields))
    # Else the order of the fields, and so the bytes, differ from process to process.
    record = proto.SerializeToString(deterministic=True)
    self._writer.write(record)
    self._num_bytes += len(record)
    sha256 = hashlib.sha256(example.data).hexdigest()
    known = dict(key=example.key, media=example.media, sha256=sha256)
    self._rows.append(known | dict(example.origin) | dict(measured))

  def close(self) -> dict:
    """Ends the files; returns their counts and the records' checksum."""
    self._writer.close()
    pa.parquet.write_table(pa.Table.from_pylist(self._rows, schema.SIDECAR), self._sidecar)
    with self._records.open('rb') as file:
      sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
    return dict(
      num_examples=len(self._rows),
      num_bytes=self._num_bytes,
      num_by_media={m: sum(row['media'] == m for row in self._rows) for m in schema.MEDIA},
      sha256=sha256,
    )


def write_tfds_metadata(output: epath.Path, splits: Mapping[str, dict]) -> None:
  """Writes features.json and dataset_info.json: tfds.builder_from_directory reads the folder."""
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
      ),
    )
    for split, found in splits.items()
  ]
  tfds.folder_dataset.write_metadata(
    data_dir=str(output),
    features=schema.features(),
    split_infos=infos,
    filename_template='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    check_data=False,  # It would need TensorFlow; the loader checks the counts.
  )
