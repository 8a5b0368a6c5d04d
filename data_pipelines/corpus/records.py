"""The records of one shard, read in order, from a disk or a bucket."""

from collections.abc import Iterator

from etils import epath

from data_pipelines.corpus import reader, storage
from data_pipelines.media.errors import DecodeError


def read(path: epath.Path) -> Iterator[dict | DecodeError]:
  """Yields the records as reader.Records does; for one that cannot be read, the error."""
  records = reader.Records()
  with storage.fetched(path) as local:
    for index in range(records.count(str(local))):
      try:
        yield records.read(str(local), index)
      except DecodeError as error:
        yield error
