"""Ingest: a corpus in any public layout becomes ArrayRecord shards that training streams from.

Every file is decoded once, to measure it and to find what is damaged; its bytes are kept as they
are. Work goes shard by shard (jobs.py), in this process or on others. Run again on an input that
has grown, it appends what is new (grow.py). The manifest is written last (finish.py).
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data_pipelines.corpus import jobs, storage
from data_pipelines.engines import choice
from data_pipelines.ingest import finish, grow
from data_pipelines.ingest import plan as plan_lib
from data_pipelines.ingest import shard as shard_lib
from data_pipelines.media import failures


def ingest(
  path: epath.PathLike,
  output: epath.PathLike,
  layout: str | None = None,
  validation_fraction: float = 0.01,
  num_processes: int = 2,
  engine: choice.Engine | None = None,
  takes: Sequence[str] = (),
  follow_outside: bool = False,
  takes_opted_out: bool = False,
) -> dict:
  """Ingests the corpus at `path` into the folder `output`, or appends what that lacks of it.

  Args:
    path: a corpus in one of sources.LAYOUTS; it and `output` may be in a bucket.
    output: a new folder, or one that an earlier run with the same options left, done or not.
    layout: of the input; detected if None.
    validation_fraction: share of examples, chosen by a hash of their keys, that is held out for
      validation; at least one. Not used if the source tells its validation split.
    num_processes: see jobs.run.
    engine: see jobs.run.
    takes: those of probe.SPECIAL that are taken: 'hdr', to be tone-mapped, and 'interlaced', to be
      deinterlaced whenever they are decoded. The others are rejected.
    follow_outside: whether listed names and links may lead out of the input's folder.
    takes_opted_out: whether pictures are taken that their sites forbid to use for AI, by a tag that
      is told beside them.
  Returns:
    The manifest (see schema.py).
  Raises:
    ValueError: if the input is in no known layout, no example of it can be used, or `output` holds
      a corpus of other input or options.
  """
  while True:
    plan = plan_lib.Plan.of(
      path, output, layout, validation_fraction, takes, follow_outside, takes_opted_out
    )
    todo = grow.todo(plan)
    for sentence in todo.sentences():
      logging.warning('%s.', sentence)
    if plan.manifest and not todo.shards:
      return _settled(plan, plan.manifest)
    with jobs.claimed(plan.parts, todo.identity, kept=False):
      if plan_lib.manifest_of(plan.output) == plan.manifest:
        return _run(plan, todo, num_processes, engine)
    # Another run has just ended.


def _run(
  plan: plan_lib.Plan, todo: grow.Todo, num_processes: int, engine: choice.Engine | None
) -> dict:
  work = shard_lib.IngestShard(plan.source, plan.threshold, plan.takes)
  results = jobs.run(work, todo.shards, plan.parts, num_processes, engine)
  work.close()
  is_held_out = any('validation' in result['splits'] for result in results)
  if (
    plan.threshold
    and not is_held_out
    and 'validation' not in (plan.manifest or {}).get('splits', ())
  ):
    # A small corpus: the example with the smallest hash is held out.
    results = _hold_out_one(plan, todo, results)
  return finish.finish(plan, todo, results)


def _settled(plan: plan_lib.Plan, manifest: dict) -> dict:
  """The manifest of a corpus that has all of its input; clears up what a run left at its end."""
  logging.info('%s is ingested already.', plan.output)
  lacks_rows = any('rows' not in split for split in manifest['splits'].values())
  if not lacks_rows and not plan.parts.exists():
    return manifest
  try:
    with jobs.claimed(plan.parts, plan.identity, kept=False):
      now = plan_lib.manifest_of(plan.output)
      return finish.with_rows(plan.output, manifest) if lacks_rows and now == manifest else manifest
  except jobs.NotWritableError as error:
    logging.info('It stays as it is: %s', error)
    return manifest


def _hold_out_one(plan: plan_lib.Plan, todo: grow.Todo, results: list[dict]) -> list[dict]:
  smallest = min(result['smallest_hash'] for result in results)
  if sum(result['splits'].get('train', {}).get('num_examples', 0) for result in results) < 2:
    return results
  for index, result in enumerate(results):
    if result['smallest_hash'] == smallest:
      storage.remove_folder(jobs.part(plan.parts, index))
  work = shard_lib.IngestShard(plan.source, smallest + 1, plan.takes)
  results = jobs.run(work, todo.shards, plan.parts, num_processes=1)
  work.close()
  return results


def _would_do(plan: plan_lib.Plan, todo: grow.Todo) -> str:
  counts = [plan.source.count(shard) for shard in todo.shards]
  known = [count for count in counts if count is not None]
  listed = f'{sum(known):,}' if len(known) == len(counts) else 'unknown until read'
  new = ' new' if plan.manifest else ''
  parts = plan.parts
  done = sum(1 for _ in parts.glob(f'*/{jobs.MARKER}')) if parts.exists() else 0
  return (
    f'{type(plan.source).__name__}: {listed}{new} examples in {len(todo.shards)} shards, {done} of '
    f'them done, to {plan.output}; nothing was written'
  )


def add_command(commands: jobs.Commands) -> None:
  """Adds `ingest` to the command line."""
  text = (
    'Turn a corpus (WebVid, tars, VGen list, folder) into the shards that training streams from.'
  )
  parser = commands.add_parser('ingest', help=text, description=text)
  parser.add_argument('--input', required=True, help='folder, CSV, tar or list; or in a bucket')
  parser.add_argument(
    '--output',
    required=True,
    help='folder for the shards, new or to be appended to; or in a bucket',
  )
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
  parser.add_argument(
    '--opted_out', choices=('refuse', 'take'), default='refuse',
    help='pictures in tars whose X-Robots-Tag, where it is told, says noai or noimageai',
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
  opted_out: str,
  dry_run: bool,
  **options: Any,
) -> None:
  start = time.monotonic()
  takes = ['hdr'] * (hdr == 'tonemap') + ['interlaced'] * (interlaced == 'deinterlace')
  if dry_run:
    given = validation_fraction, takes, follow_outside, opted_out == 'take'
    plan = plan_lib.Plan.of(input, output, layout, *given)
    print(_would_do(plan, grow.todo(plan)))
    return
  options = choice.given(options)
  options |= dict(takes=takes, follow_outside=follow_outside)
  options |= dict(takes_opted_out=opted_out == 'take')
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
    print(finish.unlisted_text(manifest))
  if len(manifest.get('versions', ())) > 1:
    print(_last_version(manifest['versions'][-1], len(manifest['versions'])))
  print(f'layout {manifest["layout"]}, {time.monotonic() - start:.1f} s')


def _last_version(version: Mapping[str, Any], number: int) -> str:
  return (
    f'version {number}: tried {version["num_listed"]:,}, of which {version["num_tried_again"]:,} '
    f'had been rejected before; rejected {version["num_rejected"]:,}'
  )
