"""The end of a run of ingest: shards get their names and a corpus its metadata; last, its manifest.

Nothing of what an older manifest names changes: new shards come behind the old ones, and files of
all shards only grow at their end. So a corpus is whole at any moment, for who reads the old
manifest and for who reads the new one.
"""

import collections
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data_pipelines.corpus import jobs, remote_records, rows, schema, storage
from data_pipelines.corpus import writer as writer_lib
from data_pipelines.ingest import grow, held
from data_pipelines.ingest import plan as plan_lib
from data_pipelines.sources import raw


def finish(plan: plan_lib.Plan, todo: grow.Todo, results: Sequence[dict]) -> dict:
  """Makes the results of the shards part of the corpus.

  Args:
    plan: of the run.
    todo: what it did.
    results: of its shards.
  Returns:
    The manifest.
  Raises:
    ValueError: no example can be used, or tars are of other input.
  """
  others = sum(result['num_gone'] + result['num_changed'] for result in results)
  grow.check_files(plan, others, todo.num_again)
  output, before = plan.output, plan.manifest or {}
  rejected = [bad for result in results for bad in result['rejected']]
  counts = jobs.failures_of(results, plan.parts)
  num_listed = _num_listed(plan.source, todo.shards, results)
  splits = {split: _place_shards(plan, todo, results, split) for split in schema.SPLITS}
  splits = {split: found for split, found in splits.items() if found['num_examples']}
  # Unless the source says that all of it is held out.
  if 'train' not in splits and (not splits or {s.split for s in plan.shards} != {'validation'}):
    names = ', '.join(f'{bad["key"]} ({bad["reason"]}: {bad["detail"]})' for bad in rejected[:5])
    raise ValueError(f'no training example can be used; rejected: {counts or "none"}. {names}')
  _write_rejected(plan, todo, results)
  writer_lib.write_tfds_metadata(output, splits)
  checksums = [shard['sha256'] for split in splits.values() for shard in split['shards']]
  fingerprint = hashlib.sha256(json.dumps(checksums).encode()).hexdigest()[:16]
  version: dict[str, Any] = dict(
    fingerprint=fingerprint,
    shards={split: len(found['shards']) for split, found in splits.items()},
    num_sources=len(todo.shards),
    num_listed=num_listed,
    num_rejected=len(rejected),
    rejected=counts,
  )
  if before:
    version |= _differences(todo, results)
  manifest = dict(
    version=schema.VERSION,
    layout=type(plan.source).__name__,
    identity=plan.identity,
    fingerprint=fingerprint,
    options=plan.options,
    splits=splits,
    **_totals(before, version, todo),
    versions=[*before.get('versions', ()), version],
  )
  if todo.units:
    manifest['units'] = _units(plan, todo)
  num_unlisted, unlisted = plan.source.count_unlisted()
  if num_unlisted:
    manifest |= dict(num_unlisted=num_unlisted, unlisted=unlisted)
    logging.warning(unlisted_text(manifest))
  storage.write_bytes(output / 'manifest.json', json.dumps(manifest, indent=2).encode())
  for bad in rejected[:5]:
    why = raw.reason_text(bad['reason'], bad['detail'])
    logging.warning('rejected %s: %s', bad['key'], why)
  return manifest


def with_rows(output: epath.Path, manifest: dict) -> dict:
  """Gives a corpus of before what it lacks: rows/, and the layouts of its shards.

  Args:
    output: folder of the corpus.
    manifest: that is changed, written and returned.
  """
  for name, split in manifest['splits'].items():
    if 'rows' in split:
      continue
    paths = [output / shard['records'] for shard in split['shards']]
    layouts = storage.in_threads(remote_records.layout_of, paths)
    for shard, layout in zip(split['shards'], layouts, strict=True):
      shard |= dict(size=layout.size, footer=layout.footer)
    split['rows'] = rows.write(output, name, split['shards'])
  storage.write_bytes(output / 'manifest.json', json.dumps(manifest, indent=2).encode())
  return manifest


def unlisted_text(manifest: Mapping[str, Any]) -> str:
  """A line about files that nothing lists."""
  names, number = manifest['unlisted'], manifest['num_unlisted']
  more = ', ...' if number > len(names) else ''
  return f'{number:,} media files are there that nothing lists: {", ".join(names)}{more}'


def _num_listed(source: raw.Source, shards: Sequence[raw.Shard], results: Sequence[dict]) -> int:
  """How many examples the shards list; raises ValueError if not all were taken or rejected."""
  total = 0
  for shard, result in zip(shards, results, strict=True):
    num_read = sum(split['num_examples'] for split in result['splits'].values())
    found = num_read + len(result['rejected'])
    listed = result['num_examples']
    if listed != found:
      raise ValueError(
        f'{source.describe(shard)[:2]} lists {listed} examples, of which {num_read} were read '
        f'and {len(result["rejected"])} rejected: that is a bug of this program.'
      )
    total += listed
  return total


def _place_shards(
  plan: plan_lib.Plan, todo: grow.Todo, results: Sequence[dict], split: str
) -> dict[str, Any]:
  shards: list[dict[str, Any]] = list(
    (plan.manifest or {}).get('splits', {}).get(split, {}).get('shards', ())
  )
  for index, result in enumerate(results):
    if split not in result['splits']:
      continue
    names = schema.shard_names(split, len(shards))
    for name, suffix in zip(names, ('array_record', 'parquet'), strict=True):
      written = jobs.part(plan.parts, index) / f'{split}.{suffix}'
      if written.exists():  # Else an earlier run that was stopped has placed it.
        storage.move(written, plan.output / name)
    shard = dict(records=names[0], sidecar=names[1], **result['splits'][split])
    if unit := plan.source.unit(todo.shards[index]):
      shard['unit'] = unit
    shards.append(shard)
  num_by_media = {m: sum(shard['num_by_media'][m] for shard in shards) for m in schema.MEDIA}
  return dict(
    num_examples=sum(shard['num_examples'] for shard in shards),
    num_by_media=num_by_media,
    shards=shards,
    **(dict(rows=rows.write(plan.output, split, shards)) if shards else {}),
  )


def _write_rejected(plan: plan_lib.Plan, todo: grow.Todo, results: Sequence[dict]) -> None:
  """Behind the files of earlier versions; and which of their lines hold no longer."""
  version = len((plan.manifest or {}).get('versions', ()))
  for path in held.rejected_files(plan.output):
    if held.number_of(path) >= (version if path.suffix == '.json' else _num_sources(plan)):
      path.unlink()  # Of a run that was killed, and may have read other input.
  for number, result in enumerate(results, _num_sources(plan)):
    if result['rejected']:
      lines = ''.join(json.dumps(bad) + '\n' for bad in result['rejected'])
      storage.write_bytes(held.rejected_name(plan.output, number), lines.encode())
  if todo.late:
    taken = todo.late.difference(bad['key'] for result in results for bad in result['rejected'])
    path = held.late_name(plan.output, version)
    storage.write_bytes(path, json.dumps(sorted(taken)).encode())


def _differences(todo: grow.Todo, results: Sequence[dict]) -> dict[str, int]:
  """What a version says of the examples that were there before."""
  gone = sum(result['num_gone'] for result in results)
  changed = sum(result['num_changed'] for result in results)
  return dict(
    num_tried_again=todo.retried.total(),
    num_forgotten=todo.forgotten.total(),
    num_vanished=todo.num_vanished + gone,
    num_changed=todo.num_changed + changed,
  )


def _totals(
  before: Mapping[str, Any], version: Mapping[str, Any], todo: grow.Todo
) -> dict[str, Any]:
  """num_listed = examples + num_rejected, over all versions; what was tried again counts once, and
  what was rejected and is not listed any more no longer."""
  if not before:
    return {name: version[name] for name in ('num_listed', 'num_rejected', 'rejected')}
  rejected = collections.Counter(before['rejected'])
  over = todo.retried + todo.forgotten
  rejected.subtract(over)
  rejected.update(version['rejected'])
  return dict(
    num_listed=before['num_listed'] + version['num_listed'] - over.total(),
    num_rejected=before['num_rejected'] + version['num_rejected'] - over.total(),
    rejected={reason: count for reason, count in rejected.items() if count},
  )


def _units(plan: plan_lib.Plan, todo: grow.Todo) -> dict[str, list]:
  """Tar -> [number of its file in rejected/ when it was read last, its state then]."""
  read = map(plan.source.unit, todo.shards)
  numbers = {unit: number for number, unit in enumerate(read, _num_sources(plan))}
  new = {unit: [number, todo.units[unit]] for unit, number in numbers.items()}
  return (plan.manifest or {}).get('units', {}) | new


def _num_sources(plan: plan_lib.Plan) -> int:
  """Parts of the input that earlier versions read."""
  return sum(version['num_sources'] for version in (plan.manifest or {}).get('versions', ()))
