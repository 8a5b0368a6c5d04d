"""What ingest does with one shard of a source: every file is decoded once, to measure it."""

import collections
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

from data_pipelines.corpus import writer as writer_lib
from data_pipelines.media import failures, probe, sandbox
from data_pipelines.sources import raw

HASH_RANGE = 2**32


class IngestShard:
  """(shard, folder) -> records, sidecars and what was rejected; a pure function of the shard."""

  def __init__(self, source: raw.Source, threshold: int, takes: Sequence[str] = ()):
    self._source = source
    self._threshold = threshold
    self._takes = takes
    self._probe = sandbox.Sandbox(probe.probe)

  def __call__(self, shard: raw.Shard, folder: pathlib.Path) -> dict:
    """Keys whose hash is below the threshold are held out, unless the shard has its split."""
    writers: dict[str, writer_lib.ShardWriter] = {}
    rejected: list[dict] = []
    smallest_hash = HASH_RANGE
    row: dict[str, Any] = {}
    keys: set[str] = set()
    for example in self._source.examples(shard):
      if example.key in keys and isinstance(example, raw.RawExample):
        example = raw.Rejected(example.key, 'duplicate_key', 'its shard has an example of this key')
      if isinstance(example, raw.RawExample):
        try:
          row = self._probe(example.data, example.media, self._takes)
        except Exception as error:  # One file never ends a command.
          lost = failures.of(error)
          example = raw.rejected(example, lost.reason, lost.detail)
      if isinstance(example, raw.Rejected):
        stamp = dict(stamp=example.stamp) if example.stamp else {}
        rejected.append(dict(key=example.key, reason=example.reason, detail=example.detail) | stamp)
        continue
      keys.add(example.key)
      key_hash = int.from_bytes(hashlib.sha256(example.key.encode()).digest()[:4], 'big')
      smallest_hash = min(smallest_hash, key_hash)
      split = shard.split or ('validation' if key_hash < self._threshold else 'train')
      if split not in writers:
        writers[split] = writer_lib.ShardWriter(folder, split)
      writers[split].write(example, row)
    num_gone, num_changed = self._source.differences(shard)
    return dict(
      splits={split: writer.close() for split, writer in writers.items()},
      rejected=rejected,
      smallest_hash=smallest_hash,
      num_gone=num_gone,
      num_changed=num_changed,
      num_examples=self._source.num_listed(shard),
      failed=collections.Counter(bad['reason'] for bad in rejected),
      example=next((str(bad) for bad in rejected if failures.is_unexpected(bad['reason'])), ''),
    )

  def close(self) -> None:
    """Ends the child that decodes."""
    self._probe.close()
