"""The training stream beside webdataset with PyAV, on the same tars: CPU seconds per example.

  python -m benchmarks.webdataset_tars [--videos DIR] [--frames 16 --fps 8 --height 256 --width 448]

webdataset reads video2dataset's tars in order, shuffles in a buffer and gives each example's bytes
to PyAV, which decodes up to the last frame wanted and scales the wanted ones to cover the size;
batches are stacked. That is what its users write. The stream reads what ingest made of the same
tars, at random, and makes the CLIP image besides. They run in turns, on windows of the same length
from random starts, and the stream's child processes count. The bar is to be at least equal.
"""

import argparse
import json
import pathlib
import random
import tempfile
import time

import numpy as np
import webdataset

from benchmarks import curation, loader
from data_pipelines import buckets, ingest, probe
from data_pipelines import loader as stream_lib
from tests import corpora

BATCH_SIZE = 8


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--videos', help='folder of files; else scenes of 10 s at 640x360 are made')
  parser.add_argument('--frames', type=int, default=16)
  parser.add_argument('--fps', type=float, default=8)
  parser.add_argument('--height', type=int, default=256)
  parser.add_argument('--width', type=int, default=448)
  parser.add_argument('--num_batches', type=int, default=6)
  parser.add_argument('--num_rounds', type=int, default=4)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    bucket = buckets.Bucket(
      'bench', options.frames, options.height, options.width, options.fps, BATCH_SIZE
    )
    write_tars(pathlib.Path(folder, 'tars'), videos(options.videos, folder), bucket)
    ingest.ingest(f'{folder}/tars', f'{folder}/corpus', validation_fraction=0.0, num_processes=1)
    measure(folder, bucket, options.num_batches, options.num_rounds)


def videos(path, folder):
  """Bytes of the files of a folder, or of scenes made here."""
  if path:
    return [file.read_bytes() for file in sorted(pathlib.Path(path).glob('*.[am][vp][i4]'))]
  scene = pathlib.Path(folder, 'scene.mp4')
  found = []
  for index in range(8):
    curation.render(scene, index, 10)
    found.append(scene.read_bytes())
  return found


def write_tars(folder, media, bucket):
  """Two tars of 32 examples, of the videos that fill the bucket."""
  folder.mkdir()
  rows = [(data, probe.probe(data, 'video')) for data in media]
  rows = [(data, row) for data, row in rows if buckets.fills(bucket, row['duration'], row['fps'])]
  for tar in range(2):
    members = []
    for index in range(32):
      key, (data, known) = f'{tar:05d}{index:04d}', rows[(7 * tar + index) % len(rows)]
      times = dict(duration=known['duration'], first_time=known['first_time'])
      row = json.dumps(dict(key=key, status='success', **times)).encode()
      members += [(f'{key}.mp4', data), (f'{key}.txt', b'caption'), (f'{key}.json', row)]
    corpora.write_tar(folder / f'{tar:05d}.tar', members)


def measure(folder, bucket, num_batches, num_rounds):
  stream = stream_lib.TrainStream(
    f'{folder}/corpus', [bucket], lambda captions: np.zeros((len(captions), 1), np.int32), 224, 0
  )
  theirs = iter(
    webdataset_batches(sorted(map(str, pathlib.Path(folder, 'tars').glob('*'))), bucket)
  )
  seconds = {'stream': [], 'webdataset': []}
  stream.batch_at(0), next(theirs)
  for step in range(num_rounds):
    start = time.process_time() + stream.child_cpu_secs
    for batch in range(num_batches):
      stream.batch_at(step * num_batches + batch)
    seconds['stream'].append(time.process_time() + stream.child_cpu_secs - start)
    start = time.process_time()
    for _ in range(num_batches):
      next(theirs)
    seconds['webdataset'].append(time.process_time() - start)
  stream.close()
  count = num_batches * BATCH_SIZE
  print(f'{bucket.frames} frames {bucket.width}x{bucket.height} at {bucket.fps:g} fps')
  for name, values in seconds.items():
    print(f'  {name}: {count / np.mean(values):.1f} examples/s/core (all rounds)')
  ratio = np.array(seconds['webdataset']) / np.array(seconds['stream'])
  mean = sum(seconds['webdataset']) / sum(seconds['stream'])
  print(f'  stream / webdataset: {mean:.2f} (rounds {ratio.min():.2f} to {ratio.max():.2f})')


def webdataset_batches(tars, bucket):
  """Batches of video uint8 (B, F, H, W, 3) and captions, for ever."""
  rng = random.Random(0)

  def decode(example):
    known = json.loads(example['json'])
    start = known['first_time'] + rng.uniform(0, known['duration'] - bucket.span)
    times = start + np.arange(bucket.frames) / bucket.fps
    frames = loader._bare_decode(example['mp4'], times, bucket.height, bucket.width, None)
    video = [cropped(frame, bucket) for frame in frames]
    return dict(video=np.stack(video), caption=example['txt'].decode())

  examples = webdataset.WebDataset(tars, shardshuffle=2, seed=0).repeat().shuffle(32)
  return examples.map(decode).batched(BATCH_SIZE)


def cropped(frame_HWC, bucket):
  top, left = (frame_HWC.shape[0] - bucket.height) // 2, (frame_HWC.shape[1] - bucket.width) // 2
  return frame_HWC[top : top + bucket.height, left : left + bucket.width]


if __name__ == '__main__':
  main()
