"""Ingest: a corpus in any public layout becomes ArrayRecord shards that training streams from.

Every file is decoded once, to measure it and to find what is damaged; its bytes are kept as they
are. Work goes shard by shard (jobs.py), in this process or as a Beam job. The manifest is written
last.
"""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from etils import epath

from data_pipelines import sources
from data_pipelines.corpus import jobs, reader, remote_records, rows, schema, storage
from data_pipelines.corpus import writer as writer_lib
from data_pipelines.engines import choice
from data_pipelines.ingest import shard as shard_lib
from data_pipelines.media import failures
from data_pipelines.sources import raw


def ingest(
  path: epath.PathLike,
  output: epath.PathLike,
  layout: str | None = None,
  validation_fraction: float = 0.01,
  num_processes: int = 2,
  engine: choice.Engine | None = None,
  takes: Sequence[str] = (),
  follow_outside: bool = False,
) -> dict:
  """Ingests the corpus at `path` into the folder `output`; does nothing if that is done already.

  Args:
    path: a corpus in one of sources.LAYOUTS; it and `output` may be in a bucket.
    output: a new folder, or one that an earlier run with the same arguments left.
    layout: of the input; detected if None.
    validation_fraction: share of examples, chosen by a hash of their keys, that is held out for
      validation; at least one. Not used if the source tells its validation split.
    num_processes: see jobs.run.
    engine: see jobs.run.
    takes: those of probe.SPECIAL that are taken: 'hdr', to be tone-mapped, and 'interlaced', to be
      deinterlaced whenever they are decoded. The others are rejected.
    follow_outside: whether listed names and links may lead out of the input's folder.
  Returns:
    The manifest (see schema.py).
  Raises:
    ValueError: if the input is in no known layout, no example of it can be used, or `output` holds
      another corpus.
  """
  plan = _Plan.of(path, output, layout, validation_fraction, takes, follow_outside)
  if plan.is_done():
    return _with_rows(plan.output, reader.read_manifest(output))
  with jobs.claimed(plan.parts, plan.identity, kept=False):
    if plan.is_done():  # By a run that has just ended.
      return reader.read_manifest(output)
    work = shard_lib.IngestShard(plan.source, plan.threshold, plan.takes)
    results = jobs.run(work, plan.shards, plan.parts, num_processes, engine)
    if plan.threshold and not any('validation' in result['splits'] for result in results):
      # A small corpus: the example with the smallest hash is held out.
      results = _hold_out_one(plan, results)
    work.close()
    return _finish(plan, results)


@dataclasses.dataclass
class _Plan:
  """What a run would do."""

  source: raw.Source
  shards: list[raw.Shard]
  threshold: int
  output: epath.Path
  identity: str
  takes: tuple[str, ...] = ()

  @classmethod
  def of(
    cls,
    path: epath.PathLike,
    output: epath.PathLike,
    layout: str | None,
    validation_fraction: float,
    takes: Sequence[str] = (),
    follow_outside: bool = False,
  ) -> '_Plan':
    if not 0 <= validation_fraction < 1:
      raise ValueError(f'validation_fraction={validation_fraction} should be in [0, 1).')
    source = sources.open_source(path, layout, follow_outside)
    shards = source.shards()
    if not shards:
      raise ValueError(
        f'{path} holds nothing of --layout={layout}: leave it out, and the layout is detected.'
      )
    told = any(shard.split == 'validation' for shard in shards)
    threshold = 0 if told else int(validation_fraction * shard_lib.HASH_RANGE)
    # Changes if the source's listing or an option that matters changes.
    digest = hashlib.sha256(f'{schema.VERSION} {threshold}'.encode())
    for shard in shards:
      digest.update(json.dumps(source.describe(shard)).encode())
    if follow_outside:
      digest.update(b'follow_outside')
    takes = tuple(sorted(takes))
    if takes:
      digest.update(json.dumps(takes).encode())
    return cls(source, shards, threshold, epath.Path(output), digest.hexdigest()[:16], takes)

  @property
  def parts(self) -> epath.Path:
    return self.output / '_parts'

  def is_done(self) -> bool:
    if not (self.output / 'manifest.json').exists():
      return False
    if reader.read_manifest(self.output)['identity'] != self.identity:
      raise ValueError(
        f'{self.output} holds a corpus of other input or options. Give another --output, or '
        'delete it.'
      )
    storage.remove_folder(self.parts)  # Of a run that was stopped at its very end.
    logging.info('%s is ingested already.', self.output)
    return True

  def text(self) -> str:
    counts = [self.source.count(shard) for shard in self.shards]
    known = [count for count in counts if count is not None]
    listed = f'{sum(known):,}' if len(known) == len(counts) else 'unknown until read'
    done = sum(1 for _ in self.parts.glob(f'*/{jobs.MARKER}')) if self.parts.exists() else 0
    return (
      f'{type(self.source).__name__}: {listed} examples in {len(self.shards)} shards, {done} of '
      f'them done, to {self.output}; nothing was written'
    )


def _hold_out_one(plan: _Plan, results: list[dict]) -> list[dict]:
  smallest = min(result['smallest_hash'] for result in results)
  if sum(result['splits'].get('train', {}).get('num_examples', 0) for result in results) < 2:
    return results
  for index, result in enumerate(results):
    if result['smallest_hash'] == smallest:
      storage.remove_folder(jobs.part(plan.parts, index))
  work = shard_lib.IngestShard(plan.source, smallest + 1, plan.takes)
  results = jobs.run(work, plan.shards, plan.parts, num_processes=1)
  work.close()
  return results


def _finish(plan: _Plan, results: list[dict]) -> dict:
  """Names the shards by their final number, writes the metadata and, last, the manifest."""
  output = plan.output
  rejected = [bad for result in results for bad in result['rejected']]
  counts = jobs.failures_of(results, plan.parts)
  num_listed = _num_listed(plan, results)
  num_unlisted, unlisted = plan.source.count_unlisted()
  splits = {split: _place_shards(plan, results, split) for split in schema.SPLITS}
  splits = {split: found for split, found in splits.items() if found['num_examples']}
  # Unless the source says that all of it is held out.
  if 'train' not in splits and (not splits or {s.split for s in plan.shards} != {'validation'}):
    names = ', '.join(f'{bad["key"]} ({bad["reason"]}: {bad["detail"]})' for bad in rejected[:5])
    raise ValueError(f'no training example can be used; rejected: {counts or "none"}. {names}')
  for index, result in enumerate(results):
    if result['rejected']:
      lines = ''.join(json.dumps(bad) + '\n' for bad in result['rejected'])
      storage.write_bytes(output / 'rejected' / f'{index:05d}.jsonl', lines.encode())
  writer_lib.write_tfds_metadata(output, splits)
  checksums = [shard['sha256'] for split in splits.values() for shard in split['shards']]
  manifest = dict(
    version=schema.VERSION,
    layout=type(plan.source).__name__,
    identity=plan.identity,
    fingerprint=hashlib.sha256(json.dumps(checksums).encode()).hexdigest()[:16],
    splits=splits,
    num_listed=num_listed,
    num_rejected=len(rejected),
    rejected=counts,
  )
  if num_unlisted:
    manifest |= dict(num_unlisted=num_unlisted, unlisted=unlisted)
    logging.warning(_unlisted(manifest))
  storage.write_bytes(output / 'manifest.json', json.dumps(manifest, indent=2).encode())
  for bad in rejected[:5]:
    logging.warning('rejected %s: %s %s', bad['key'], bad['reason'], bad['detail'])
  return manifest


def _with_rows(output: epath.Path, manifest: dict) -> dict:
  """The manifest, with what a corpus of before lacks: rows/, and the layouts of its shards."""
  lacking = {name: split for name, split in manifest['splits'].items() if 'rows' not in split}
  for name, split in lacking.items():
    paths = [output / shard['records'] for shard in split['shards']]
    layouts = storage.in_threads(remote_records.layout_of, paths)
    for shard, layout in zip(split['shards'], layouts, strict=True):
      shard |= dict(size=layout.size, footer=layout.footer)
    split['rows'] = rows.write(output, name, split['shards'])
  if lacking:
    storage.write_bytes(output / 'manifest.json', json.dumps(manifest, indent=2).encode())
  return manifest


def _unlisted(manifest: dict) -> str:
  names, number = manifest['unlisted'], manifest['num_unlisted']
  more = ', ...' if number > len(names) else ''
  return f'{number:,} media files are there that nothing lists: {", ".join(names)}{more}'


def _num_listed(plan: _Plan, results: list[dict]) -> int:
  """How many examples the source lists; raises ValueError if not all were taken or rejected."""
  total = 0
  for shard, result in zip(plan.shards, results, strict=True):
    num_read = sum(split['num_examples'] for split in result['splits'].values())
    found = num_read + len(result['rejected'])
    listed = result['num_examples']
    if listed != found:
      raise ValueError(
        f'{plan.source.describe(shard)[:2]} lists {listed} examples, of which {num_read} were read '
        f'and {len(result["rejected"])} rejected: that is a bug of this program.'
      )
    total += listed
  return total


def _place_shards(plan: _Plan, results: list[dict], split: str) -> dict:
  numbered = [i for i, result in enumerate(results) if split in result['splits']]
  shards: list[dict[str, Any]] = []
  for number, index in enumerate(numbered):
    names = schema.shard_names(split, number, len(numbered))
    for name, suffix in zip(names, ('array_record', 'parquet'), strict=True):
      written = jobs.part(plan.parts, index) / f'{split}.{suffix}'
      if written.exists():  # Else an earlier run that was stopped has placed it.
        storage.move(written, plan.output / name)
    shards.append(dict(records=names[0], sidecar=names[1], **results[index]['splits'][split]))
  num_by_media = {m: sum(shard['num_by_media'][m] for shard in shards) for m in schema.MEDIA}
  return dict(
    num_examples=sum(shard['num_examples'] for shard in shards),
    num_by_media=num_by_media,
    shards=shards,
    **(dict(rows=rows.write(plan.output, split, shards)) if shards else {}),
  )


def add_command(commands: jobs.Commands) -> None:
  """Adds `ingest` to the command line."""
  text = (
    'Turn a corpus (WebVid, tars, VGen list, folder) into the shards that training streams from.'
  )
  parser = commands.add_parser('ingest', help=text, description=text)
  parser.add_argument('--input', required=True, help='folder, CSV, tar or list; or in a bucket')
  parser.add_argument('--output', required=True, help='new folder for the shards; or in a bucket')
  parser.add_argument('--layout', help='of the input; detected if left out')
  parser.add_argument(
    '--validation_fraction', type=float, default=0.01, help='held out by key hash'
  )
  parser.add_argument(
    '--hdr', choices=('refuse', 'tonemap'), default='refuse',
    help='PQ and HLG videos: rejected, or tone-mapped to BT.709 whenever they are decoded',
  )  # fmt: skip
  parser.add_argument(
    '--interlaced', choices=('refuse', 'deinterlace'), default='refuse',
    help='rejected, or deinterlaced whenever they are decoded',
  )  # fmt: skip
  parser.add_argument(
    '--follow_outside', action='store_true',
    help='take listed names and links that lead out of the folder of the input',
  )  # fmt: skip
  jobs.add_dry_run(parser)
  choice.add_flags(parser)
  parser.set_defaults(run=_run_command)


def _run_command(
  input: str,
  output: str,
  layout: str | None,
  validation_fraction: float,
  hdr: str,
  interlaced: str,
  follow_outside: bool,
  dry_run: bool,
  **options: Any,
) -> None:
  start = time.monotonic()
  takes = ['hdr'] * (hdr == 'tonemap') + ['interlaced'] * (interlaced == 'deinterlace')
  if dry_run:
    plan = _Plan.of(input, output, layout, validation_fraction, takes, follow_outside)
    print(plan.text())
    return
  options = choice.given(options)
  options |= dict(takes=takes, follow_outside=follow_outside)
  manifest = ingest(input, output, layout, validation_fraction, **options)
  counts = ', '.join(
    f'{split}: {found["num_by_media"]["video"]} videos and {found["num_by_media"]["image"]} images'
    for split, found in manifest['splits'].items()
  )
  print(f'{output}: {counts}; {manifest["num_rejected"]} rejected {manifest["rejected"] or ""}')
  num_read = sum(found['num_examples'] for found in manifest['splits'].values())
  if 'num_listed' in manifest:
    lost = failures.commonest(manifest['rejected'])
    print(
      f'listed {manifest["num_listed"]:,} = read {num_read:,} + rejected '
      f'{manifest["num_rejected"]:,}' + (f'; most often: {lost}' if lost else '')
    )
  if 'unlisted' in manifest:
    print(_unlisted(manifest))
  print(f'layout {manifest["layout"]}, {time.monotonic() - start:.1f} s')
