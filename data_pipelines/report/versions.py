"""What each run of ingest added to a corpus: the manifest's `versions`, of which there is at least
one.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from data_pipelines.corpus import reader, schema, sidecars

TOLD = ('fingerprint', 'num_listed', 'num_rejected')
# What a version says of the examples that were there before.
NOTES = dict(
  num_tried_again='tried again',
  num_forgotten='rejected before and no longer listed',
  num_vanished='no longer in the input',
  num_changed='changed in the input',
)


def added(table: sidecars.Sidecars, corpora: reader.Corpora) -> dict[str, list[dict]]:
  """What each version of each corpus added to it, the oldest first.

  Args:
    table: of the corpora's training split.
    corpora: of that split.
  Returns:
    By corpus: dicts of TOLD (None if the manifest does not say it), notes, num_by_media (of all
    splits), num_held_out, hours and gigabytes (of the training split).
  """
  found = {}
  for number, (name, directory) in enumerate(corpora.directories.items()):
    start = corpora.corpus_starts[number]
    found[name] = _of_corpus(table, reader.read_manifest(directory), start)
  return found


def _of_corpus(table: sidecars.Sidecars, manifest: Mapping, start: int) -> list[dict]:
  splits = {split: found['shards'] for split, found in manifest['splits'].items()}
  alone = dict(manifest, shards={split: len(shards) for split, shards in splits.items()})
  found, before = [], dict.fromkeys(splits, 0)
  for version in manifest.get('versions') or [alone]:
    until = {split: version['shards'].get(split, 0) for split in splits}
    shards = {split: splits[split][before[split] : until[split]] for split in splits}
    size = _of_shards(table, shards, start)
    told = {name: version.get(name) for name in TOLD}
    notes = [f'{version[name]:,} {text}' for name, text in NOTES.items() if version.get(name)]
    found.append(size | told | dict(notes=notes))
    start += sum(shard['num_examples'] for shard in shards.get('train', ()))
    before = until
  return found


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
