"""Ingest and curate: CPU seconds per second of video, or for each image, on one core.

  python -m benchmarks.curation [--videos DIR] [--num_videos 6] [--seconds 20]
  python -m benchmarks.curation --num_images 200

Without --videos, textured scenes are rendered: 640x360 at 30 fps in H.264 (x264 medium, crf 23),
of four shots each, over which a camera pans. That is heavier than most footage: everything in it
has texture and moves. The bar is 15 times realtime for both commands together. CPU time is that of
this process and of the children that decode, reading and writing of shards included. Decoding the
same files by PyAV, no more, is measured in the same round: a busy machine slows down all alike.
Images are JPEGs of 1024x768, of such textures.
"""

import argparse
import io
import pathlib
import resource
import shutil
import tempfile

import av
import cv2
import numpy as np

from data_pipelines.corpus import reader
from data_pipelines.curate import command as curate
from data_pipelines.ingest import command as ingest

HEIGHT, WIDTH, FPS = 360, 640, 30
BAR = 15.0


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--videos')
  parser.add_argument('--num_videos', type=int, default=6)
  parser.add_argument('--seconds', type=int, default=20)
  parser.add_argument('--num_rounds', type=int, default=2)
  parser.add_argument('--num_images', type=int, default=0)
  options = parser.parse_args()
  if options.num_images:
    measure_images(options.num_images)
    return
  with tempfile.TemporaryDirectory() as folder:
    videos = options.videos
    if not videos:
      videos = f'{folder}/in'
      pathlib.Path(videos).mkdir()
      for index in range(options.num_videos):
        render(pathlib.Path(videos, f'{index}.mp4'), index, options.seconds)
        pathlib.Path(videos, f'{index}.txt').write_text('textures')
    rounds = [measure(videos, f'{folder}/out') for _ in range(options.num_rounds)]
  for name in ('decoding alone', 'ingest', 'curate', 'both'):
    rates = [found[name] for found in rounds]
    print(
      f'{name}: {max(rates):.1f}x realtime per core (rounds {min(rates):.1f} to {max(rates):.1f})'
    )
  costs = [found['decoding alone'] / found['both'] for found in rounds]
  print(
    f'bar: {BAR:g}x for both, which take {min(costs):.1f} to {max(costs):.1f} times as long as '
    f'decoding alone; {rounds[0]["duration"]:.0f} s of video'
  )


def measure(videos, output):
  """Seconds of video per CPU second, of each command and of both."""
  shutil.rmtree(output, ignore_errors=True)
  before = cpu_seconds()
  for path in pathlib.Path(videos).rglob('*.mp4'):
    with av.open(str(path)) as container:
      container.streams.video[0].thread_count = 1
      for _ in container.decode(video=0):
        pass
  start = cpu_seconds()
  ingest.ingest(videos, output, validation_fraction=0.0, num_processes=1)
  ingested = cpu_seconds()
  curate.curate(output, num_processes=1)
  curated = cpu_seconds()
  duration = float(reader.Corpora(output, 'train').columns['duration'].sum())
  seconds = {
    'decoding alone': start - before,
    'ingest': ingested - start,
    'curate': curated - ingested,
    'both': curated - start,
  }
  return {name: duration / value for name, value in seconds.items()} | dict(duration=duration)


def measure_images(count):
  with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, 'in').mkdir()
    for index in range(count):
      noise = np.random.default_rng(index).random((768, 1024, 3)).astype(np.float32)
      scene = cv2.GaussianBlur(noise, (0, 0), 2)
      scene = (255 * (scene - scene.min()) / np.ptp(scene)).astype(np.uint8)
      cv2.imwrite(f'{folder}/in/{index}.jpg', scene)
      pathlib.Path(folder, f'in/{index}.txt').write_text('textures')
    start = cpu_seconds()
    ingest.ingest(f'{folder}/in', f'{folder}/out', validation_fraction=0.0, num_processes=1)
    ingested = cpu_seconds()
    curate.curate(f'{folder}/out', num_processes=1)
    curated = cpu_seconds()
  secs = [1e3 * secs / count for secs in (ingested - start, curated - ingested)]
  print(
    f'{count} images: {secs[0]:.1f} CPU ms each for ingest, {secs[1]:.1f} for curate, with what '
    'both load at their start'
  )


def cpu_seconds():
  used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(usage.ru_utime + usage.ru_stime for usage in used)


def render(path, seed, seconds):
  """Four shots of a camera's pan over a textured scene."""
  rng = np.random.default_rng(seed)
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4') as container:
    stream = container.add_stream('libx264', rate=FPS, options={'crf': '23', 'preset': 'medium'})
    stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, 'yuv420p'
    shot = seconds * FPS // 4
    for _ in range(4):
      noise = rng.random((HEIGHT, WIDTH + 2 * shot, 3)).astype(np.float32)
      scene = cv2.GaussianBlur(noise, (0, 0), 4)
      scene = (255 * (scene - scene.min()) / np.ptp(scene)).astype(np.uint8)
      for index in range(shot):
        frame = np.ascontiguousarray(scene[:, 2 * index : 2 * index + WIDTH])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())
  path.write_bytes(buffer.getvalue())


if __name__ == '__main__':
  main()
