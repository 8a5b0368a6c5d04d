"""Whether decoding grows: memory of the stream's process and of its children over many batches.

  python -m benchmarks.loader_memory [--videos=DIR] [--num_batches=20000]

Small batches of one corpus, drawn as training draws them; ten times, the resident memory of this
process and of the processes that decode for it. Without --videos the demo's videos are read.
"""

import argparse
import pathlib
import tempfile

import tqdm

from data_pipelines import demo_corpus
from data_pipelines.corpus import buckets
from data_pipelines.ingest import command as ingest
from data_pipelines.stream import fields
from data_pipelines.stream import stream as stream_lib

REPORTS = 10


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--videos')
  parser.add_argument('--num_batches', type=int, default=20_000)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    videos = options.videos
    if not videos:
      demo_corpus.write(f'{folder}/demo', num_videos=64, num_validation=4, num_images=1)
      videos = f'{folder}/demo/webvid'
    ingest.ingest(videos, f'{folder}/corpus', validation_fraction=0.0)
    shape = dict(frames=4, fps=4, height=64, width=64)
    bucket = buckets.Bucket('videos', media='video', batch_size=2, **shape)
    stream = stream_lib.TrainStream(f'{folder}/corpus', [bucket], (fields.Video(),), seed=0)
    batches = stream.iterate()
    every = max(1, options.num_batches // REPORTS)
    for number in tqdm.trange(1, options.num_batches + 1, unit='batch'):
      next(batches)
      if number % every == 0:
        children = ' + '.join(f'{megabytes(pid):.0f}' for pid in child_pids())
        tqdm.tqdm.write(f'{number:6} batches: {megabytes("self"):.0f} MB; children {children} MB')
    batches.close()
    stream.close()


def child_pids():
  tasks = pathlib.Path('/proc/self/task').glob('*/children')
  return [int(pid) for task in tasks for pid in task.read_text().split()]


def megabytes(pid):
  """Resident memory of a process."""
  pages = pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1]
  return int(pages) * 4096 / 1e6


if __name__ == '__main__':
  main()
