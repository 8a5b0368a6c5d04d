"""A corpus of many shards in a bucket whose requests take 30 ms, beside the same on the local disk.

  python -m benchmarks.object_store [--shards 10000] [--videos DIR] [--index_shards 2612]

Shown are the requests and seconds of a start (until the first batch is there, and without it), the
examples per second of both by turns, and the seconds of `index`. The bars: 60 requests and 10 s,
0.9 of the local disk at 8 threads, 10 minutes; on the local disk a start in 2 s. The shards are
copies of 16 under other names, of clips of 640x360 unless there is a folder of videos.
"""

import argparse
import json
import os
import pathlib
import statistics
import tarfile
import tempfile
import time

import numpy as np

from benchmarks import curation, slow_server
from data_pipelines.corpus import buckets, rows, schema
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from data_pipelines.stream import fields
from data_pipelines.stream import stream as stream_lib

BASE_SHARDS, RECORDS = 16, 4
WARM_UP = 4  # Batches that are not timed.
BUCKET = buckets.Bucket('video', frames=16, height=256, width=448, fps=8, batch_size=8)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--shards', type=int, default=10_000)
  parser.add_argument('--index_shards', type=int, default=2_612)
  parser.add_argument('--videos')
  parser.add_argument('--delay_ms', type=float, default=30.0)
  parser.add_argument('--server_cores', default='', help='with commas; the server takes no others')
  parser.add_argument('--threads', type=int, default=8)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--batches', type=int, default=12, help='of 8 clips, in each round')
  options = parser.parse_args()
  cores = {int(core) for core in options.server_cores.split(',') if core}
  cores = cores or os.sched_getaffinity(0)
  with tempfile.TemporaryDirectory() as folder:
    base = make_base(pathlib.Path(folder, 'base'), options.videos)
    held = pathlib.Path(folder, 'buckets', 'held')
    corpus = held / 'corpus'
    repeat(base, corpus, options.shards)
    repeat(base, held / 'small', options.index_shards)
    slow_server.describe(held)
    with slow_server.gs_server(held.parent, options.delay_ms / 1e3, cores) as (url, relay):
      os.environ |= {
        'STORAGE_EMULATOR_HOST': url,
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
        'GOOGLE_CLOUD_PROJECT': 'held',
      }
      places = dict(local=str(corpus), bucket='gs://held/corpus')
      streams = {name: start(name, path, relay, options) for name, path in places.items()}
      rates = {name: [] for name in streams}
      for turn in range(options.rounds):
        for name, stream in list(streams.items())[:: 1 if turn % 2 else -1]:
          before = relay.count
          rate = measure(stream, 1000 * (turn + 1), options.batches)
          num_read = (options.batches + WARM_UP + options.threads + 1) * BUCKET.batch_size
          per_example = (relay.count - before) / num_read
          rates[name].append(rate)
          print(f'{name}: {rate:.2f} examples/s, {per_example:.1f} requests an example', flush=True)
      for stream in streams.values():
        stream.close()
      ratios = [b / a for a, b in zip(rates['local'], rates['bucket'], strict=True)]
      print(
        f'bucket / local: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})'
      )
      before, begin = relay.count, time.perf_counter()
      found = index.index({'small': 'gs://held/small'}, f'{folder}/index')
      print(
        f'index of {options.index_shards:,} shards: {time.perf_counter() - begin:.1f} s, '
        f'{relay.count - before:,} requests, {found["num_rows"]:,} rows'
      )


def make_base(folder: pathlib.Path, videos: str | None) -> pathlib.Path:
  """A curated corpus of BASE_SHARDS shards of RECORDS clips."""
  clips = (
    sorted(path for path in pathlib.Path(videos).iterdir() if path.suffix == '.mp4')
    if videos
    else []
  )
  folder.mkdir(parents=True)
  if not clips:
    clips = [folder / f'{number}.mp4' for number in range(RECORDS)]
    for number, path in enumerate(clips):
      curation.render(path, number, 6)
  tars = folder / 'tars'
  tars.mkdir()
  for shard in range(BASE_SHARDS):
    with tarfile.open(tars / f'{shard:05d}.tar', 'w') as tar:
      for i in range(RECORDS):
        name = f'{shard}_{i}'
        caption = folder / 'caption'
        caption.write_text(name)
        tar.add(clips[(shard * RECORDS + i) % len(clips)], f'{name}.mp4')
        tar.add(caption, f'{name}.txt')
  ingest.ingest(tars, folder / 'corpus', validation_fraction=0.0)
  curate.curate(str(folder / 'corpus'), decide.Rules(keep_duplicates=True), num_processes=1)
  return folder / 'corpus'


def repeat(base: pathlib.Path, output: pathlib.Path, num_shards: int) -> None:
  """A corpus of many shards: links to those of another, in turn."""
  manifest = json.loads((base / 'manifest.json').read_text())
  given = manifest['splits']['train']
  shards = []
  for number in range(num_shards):
    shard = given['shards'][number % len(given['shards'])]
    records, sidecar = schema.shard_names('train', number)
    stages = [
      (schema.stage_sidecar('curate', shard['sidecar']), schema.stage_sidecar('curate', sidecar))
    ]
    for old, new in ((shard['records'], records), (shard['sidecar'], sidecar), *stages):
      (output / new).parent.mkdir(parents=True, exist_ok=True)
      os.link(base / old, output / new)
    shards.append(shard | dict(records=records, sidecar=sidecar))
  split = given | dict(shards=shards, num_examples=sum(shard['num_examples'] for shard in shards))
  done = 'sidecar/curate/manifest.json'
  os.link(base / done, output / done)
  rows.write(output, 'train', shards)
  (output / 'manifest.json').write_text(json.dumps(manifest | dict(splits=dict(train=split))))


def start(name: str, path: str, relay: slow_server.Relay, options: argparse.Namespace):
  """A stream; says what it took."""
  before, begin = relay.count, time.perf_counter()
  tokenize = lambda captions: np.zeros((len(captions), 77), np.int32)  # noqa: E731
  made = fields.released(tokenize, 224)
  stream = stream_lib.TrainStream(path, [BUCKET], made, seed=0, num_threads=options.threads)
  opened, requests = time.perf_counter() - begin, relay.count - before
  stream.batch_at(0)
  print(
    f'{name}: {options.shards:,} shards open in {opened:.2f} s, {requests} requests; the first '
    f'batch is there after {time.perf_counter() - begin:.2f} s, {relay.count - before} requests',
    flush=True,
  )
  return stream


def measure(stream: stream_lib.TrainStream, first_step: int, num_batches: int) -> float:
  """Examples per second, after each thread's first batch."""
  batches = stream.iterate(first_step)
  for _ in range(WARM_UP):
    next(batches)
  begin = time.perf_counter()
  for _ in range(num_batches):
    next(batches)
  rate = num_batches * BUCKET.batch_size / (time.perf_counter() - begin)
  batches.close()
  return rate


if __name__ == '__main__':
  main()
