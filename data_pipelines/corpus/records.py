"""The records of one shard, read in order, from a disk or a bucket."""

from collections.abc import Iterator

from etils import epath

from data_pipelines.corpus import schema, storage


def read(path: epath.Path) -> Iterator[dict | Exception]:
  """Yields the records of schema.features, text as str; for one that cannot be read, the error."""
  from array_record.python import array_record_module

  features = schema.features()
  with storage.fetched(path) as local:
    reader = array_record_module.ArrayRecordReader(str(local))
    for index in range(reader.num_records()):
      try:
        record = features.deserialize_example_np(reader.read([index])[0])
      except (RuntimeError, OSError, ValueError) as error:  # ArrayRecord's, then the parser's.
        yield error
        continue
      yield {
        name: value if name == 'data' else value.decode('utf-8', errors='replace')
        for name, value in record.items()
      }
    reader.close()
