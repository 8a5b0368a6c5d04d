"""What each run of ingest added to a corpus: the manifest's `versions`, of which there is at least
one.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from data_pipelines.corpus import reader, schema, sidecars


def added(table: sidecars.Sidecars, corpora: reader.Corpora) -> dict[str, list[dict]]:
  """What each version of each corpus added to it, the oldest first.

  Args:
    table: of the corpora's training split.
    corpora: of that split.
  Returns:
    By corpus: dicts of fingerprint, num_by_media (of all splits), num_held_out, hours and gigabytes
    (of the training split), and num_rejected (None if nobody counted).
  """
  found = {}
  for number, (name, directory) in enumerate(corpora.directories.items()):
    start = corpora.corpus_starts[number]
    found[name] = _of_corpus(table, reader.read_manifest(directory), start)
  return found


def _of_corpus(table: sidecars.Sidecars, manifest: Mapping, start: int) -> list[dict]:
  every = {split: len(found['shards']) for split, found in manifest['splits'].items()}
  alone = dict(
    fingerprint=manifest['fingerprint'], shards=every, num_rejected=manifest['num_rejected']
  )
  versions = manifest.get('versions') or [alone]
  found, before = [], dict.fromkeys(every, 0)
  for version in versions:
    until = {split: version['shards'].get(split, 0) for split in every}
    shards = {
      split: manifest['splits'][split]['shards'][before[split] : until[split]] for split in every
    }
    found.append(_of_shards(table, shards, start) | _told(version))
    start += sum(shard['num_examples'] for shard in shards.get('train', ()))
    before = until
  return found


def _told(version: Mapping) -> dict[str, Any]:
  return dict(fingerprint=version['fingerprint'], num_rejected=version.get('num_rejected'))


def _of_shards(table: sidecars.Sidecars, shards: Mapping[str, list], start: int) -> dict[str, Any]:
  """Counts of shards by split; those of the training split begin with row `start`."""
  every = list(itertools.chain.from_iterable(shards.values()))
  num_rows = sum(shard['num_examples'] for shard in shards.get('train', ()))
  [size] = table.rows(
    'SELECT coalesce(sum(duration), 0) / 3600 AS hours, '
    'coalesce(sum(num_bytes), 0) / 1e9 AS gigabytes FROM sidecars '
    f'WHERE row_number_ >= {start} AND row_number_ < {start + num_rows}'
  )
  return size | dict(
    num_by_media={m: sum(shard['num_by_media'][m] for shard in every) for m in schema.MEDIA},
    num_held_out=sum(shard['num_examples'] for shard in shards.get('validation', ())),
  )
