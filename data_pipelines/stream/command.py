"""The commands `peek`, `seen` and `bench`: their flags, and what they print.

What opens streams is imported when they run: it takes a second, which --help should not wait for.
"""

import json
import logging
import pathlib

from etils import epath

from data_pipelines.corpus import aspects, jobs, storage
from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.index import command as index_lib


def add_peek(commands: jobs.Commands) -> None:
  """Adds `peek` to python -m data_pipelines."""
  text = 'Show exactly what a step of a run will see: keys, captions, frames.'
  parser = commands.add_parser('peek', help=text, description=text)
  parser.add_argument('--workdir', required=True, help='of the run: its config.json is read')
  parser.add_argument('--step', required=True, type=int)
  parser.add_argument('--output', required=True, help='folder for the contact sheet and the JSON')
  jobs.add_dry_run(parser)
  parser.set_defaults(run=_peek)


def _peek(workdir: str, step: int, output: str, dry_run: bool) -> None:
  from data_pipelines.stream import peek

  seen = peek.peek(workdir, step, output, dry_run)
  bucket = seen['bucket']
  print(
    f'step {step}: bucket {bucket["name"]}, {bucket["frames"]} frames '
    f'{bucket["width"]}x{bucket["height"]} at {bucket["fps"]:g} fps; data {seen["fingerprint"]}'
  )
  if seen['by_aspect']:
    print(f'{bucket["media"]}s by aspect: {aspects.text_of(seen["by_aspect"])}')
  for example in seen['examples']:
    start = example['times'][0] if example['times'] else 0.0
    replaced = f'  REPLACED: {example["replaced"]}' if 'replaced' in example else ''
    caption = f'  {example["caption"]!r}' if 'caption' in example else ''
    print(f'{example["key"]}  from {start:.3f} s  [{example["cell"]}]{caption}{replaced}')
  if dry_run:
    print(f'would write {output}/step-{step:08d}.json and .png; nothing was decoded or written')
    return
  logging.info('%s', pathlib.Path(output) / f'step-{step:08d}.png')


def add_seen(commands: jobs.Commands) -> None:
  """Adds `seen` to python -m data_pipelines."""
  text = 'List the steps of a run that drew the rows of a condition, such as what is denied now.'
  parser = commands.add_parser('seen', help=text, description=text)
  parser.add_argument('--workdir', required=True, help='of the run: its config.json is read')
  parser.add_argument('--output', required=True, help='file of JSON lines: step, bucket, keys')
  parser.add_argument(
    '--where', metavar='CONDITION',
    help="SQL on sidecar columns; without, what curate's denylists name, and its copies",
  )  # fmt: skip
  parser.add_argument('--since', type=int, default=0, help='first step')
  parser.add_argument('--until', type=int, help="step; without, the config's train.num_steps")
  jobs.add_dry_run(parser)
  parser.set_defaults(run=_seen)


def _seen(
  workdir: str, output: str, where: str | None, since: int, until: int | None, dry_run: bool
) -> None:
  from data_pipelines import progress
  from data_pipelines.index import copies
  from data_pipelines.stream import seen

  run = seen.Seen(workdir, where or copies.DENIED, since)
  until = run.num_steps if until is None else until
  if not 0 <= since <= until:
    raise ValueError(f'--since={since} should be in [0, --until={until}].')
  if dry_run:
    print(f'{run.num_rows:,} rows to look for in {until - since:,} steps; nothing was written')
    return
  lines, keys = [], set()
  with progress.Progress(until - since, 'step') as shown:
    before = since
    for found in run.steps(until):
      lines.append(json.dumps(found) + '\n')
      keys.update(found['keys'])
      shown.update(found['step'] - before)
      before = found['step']
    shown.update(until - before)
  storage.write_bytes(epath.Path(output), ''.join(lines).encode())
  drew = f'{len(lines):,} of {until - since:,} steps drew'
  print(f'{drew} {len(keys):,} of the {run.num_rows:,} rows: {output}')


def add_bench(commands: jobs.Commands) -> None:
  """Adds `bench` to python -m data_pipelines."""
  text = 'Measure the stream on ingested corpora, and say how many vCPUs a host needs for it.'
  parser = commands.add_parser('bench', help=text, description=text)
  parser.add_argument('--corpus', action='append', required=True, metavar='[NAME=]DIR')
  parser.add_argument('--index', default='', help='of the corpora')
  parser.add_argument('--media', choices=('video', 'image'), default='video')
  parser.add_argument('--frames', type=int, default=16, help='of a video')
  parser.add_argument('--fps', type=float, default=8.0)
  parser.add_argument('--height', type=int, default=256)
  parser.add_argument('--width', type=int, default=448)
  parser.add_argument('--batch_size', type=int, default=8)
  parser.add_argument('--num_batches', type=int, default=8)
  parser.add_argument('--num_threads', type=int, default=2)
  parser.add_argument(
    '--examples_per_sec', type=float, default=7.4,
    help='that a host trains on: its share of the batch / seconds per step (7.4: 4 chips of v5e at '
    '16 x 256 x 448, estimated)',
  )  # fmt: skip
  jobs.add_dry_run(parser)
  parser.set_defaults(run=_bench)


def _bench(
  corpus, index, media, frames, fps, height, width, batch_size, num_batches, num_threads,
  examples_per_sec, dry_run,
):  # fmt: skip
  from data_pipelines.stream import bench

  if media == 'image':
    frames, fps = 1, buckets_lib.IMAGE_FPS
  bucket = buckets_lib.Bucket(
    'bench', frames, height, width, fps=fps, batch_size=batch_size, media=media
  )
  directories = index_lib.named(corpus)
  print(f'{media}: {frames} frames {width}x{height} at {fps:g} fps')
  if dry_run:
    stream = bench.open_stream(directories, bucket, num_threads, index)
    drawn = [example for step in range(num_batches) for example in stream.examples_at(step)]
    keys = {(example['shard'], example['record']) for example in drawn}
    print(f'would decode {len(drawn)} examples, {len(keys)} different ones; nothing was decoded')
    return
  costs = bench.measure(directories, bucket, num_batches, num_threads, index=index)
  if costs.decode:
    print(f'decoding alone: {1 / costs.decode:.1f} examples/s/core, {1e3 * costs.decode:.1f} ms')
  print(f'stream:         {1 / costs.stream:.1f} examples/s/core, {1e3 * costs.stream:.1f} ms')
  print(f'                {costs.rate:.1f} examples/s with {num_threads} processes on this machine')
  needed = bench.HEADROOM * examples_per_sec * costs.stream
  print(
    f'vCPUs for {examples_per_sec:g} examples/s: {needed:.2f} '
    f'({bench.HEADROOM:g} x {examples_per_sec:g}/s x {costs.stream:.4f} s)'
  )
