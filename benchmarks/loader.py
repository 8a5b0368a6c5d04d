"""The training stream beside bare PyAV: CPU seconds per example for the same frames.

  python -m benchmarks.loader [--videos DIR] [--frames 16 --fps 8 --height 256 --width 448]
  python -m benchmarks.loader --images DIR      # beside Pillow, on JPEGs

Bare PyAV opens the file, decodes up to the last wanted frame in one thread and scales the wanted
ones to RGB. The stream does that and all else a batch needs: record access, crop, the CLIP image,
tokens, batching. They run in turns; the stream's child process counts too. The bar is 0.95 of bare
PyAV's throughput. A second reference makes the CLIP image too, as VGen does: what is left to the
stream then is its own overhead.
The third reads the same media from a tar by webdataset, and stacks batches.
Without --videos the demo corpus is measured, as the quickstart trains on it.
"""

import argparse
import io
import json
import pathlib
import tempfile
import time

import av
import numpy as np
import PIL.Image
import webdataset

from data_pipelines import demo_corpus
from data_pipelines.corpus import buckets
from data_pipelines.ingest import command as ingest
from data_pipelines.media import crops, decode
from data_pipelines.media import frames as frames_lib
from data_pipelines.stream import fields
from data_pipelines.stream import stream as stream_lib


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--videos')
  parser.add_argument('--images')
  parser.add_argument('--frames', type=int, default=16)
  parser.add_argument('--fps', type=float, default=8)
  parser.add_argument('--height', type=int, default=256)
  parser.add_argument('--width', type=int, default=448)
  parser.add_argument('--clip_image_size', type=int, default=224)
  parser.add_argument('--num_batches', type=int, default=8)
  parser.add_argument('--num_rounds', type=int, default=5)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    shape = dict(frames=options.frames, height=options.height, width=options.width, fps=options.fps)
    videos = options.images or options.videos
    if not videos:
      demo_corpus.write(f'{folder}/demo', num_videos=200, num_validation=8, num_images=1)
      videos = f'{folder}/demo/webvid'
      shape = dict(frames=8, height=64, width=64, fps=8)
      options.clip_image_size = 32
    ingest.ingest(videos, f'{folder}/corpus', validation_fraction=0.0)
    if options.images:
      shape |= dict(frames=1, fps=1, media='image')
    bucket = buckets.Bucket('bench', batch_size=8, **shape)
    streams = {
      name: stream_lib.TrainStream(
        f'{folder}/corpus',
        [bucket],
        fields.released(_tokenize, options.clip_image_size),
        seed=0,
        sandbox=name == 'stream',
      )
      for name in ('stream', 'stream in threads')
    }
    name = pathlib.Path(videos).name
    measure(name, streams, bucket, options.num_batches, options.num_rounds, f'{folder}/media.tar')
    streams['stream'].close()


def measure(name, streams, bucket, num_batches, num_rounds, tar):
  requests = _requests(streams['stream in threads'], num_batches)
  _write_tar(tar, requests)
  clip_image_size = streams['stream'].batch_at(0)['clip_image'].shape[1]
  seconds = {name: [] for name in (*streams, 'bare', 'bare with CLIP image', 'webdataset')}
  for _ in range(num_rounds):
    for kind, stream in streams.items():
      start = time.process_time() + stream.child_cpu_secs
      for step in range(num_batches):
        stream.batch_at(step)
      seconds[kind].append(time.process_time() + stream.child_cpu_secs - start)
    for kind, size in (('bare', None), ('bare with CLIP image', clip_image_size)):
      start = time.process_time()
      for data, times in requests:
        _bare_decode(data, times, bucket.height, bucket.width, size)
      seconds[kind].append(time.process_time() - start)
    start = time.process_time()
    _read_tar(tar, bucket)
    seconds['webdataset'].append(time.process_time() - start)
  cost = {kind: min(values) / len(requests) for kind, values in seconds.items()}
  print(f'{name}: {bucket.frames} frames {bucket.width}x{bucket.height} at {bucket.fps:g} fps')
  for kind, value in cost.items():
    ratios = np.array(seconds[kind]) / np.array(seconds['stream'])
    print(
      f'  {kind}: {1 / value:.1f} examples/s/core, {1e3 * value:.2f} ms; stream has '
      f'{value / cost["stream"]:.3f} of its throughput (rounds {ratios.min():.3f} to '
      f'{ratios.max():.3f})'
    )


def _tokenize(captions):
  return np.zeros((len(captions), 16), np.int32)


def _requests(stream, num_batches):
  """The (data, times) that the stream decodes for its first batches."""
  requests = []
  decode_video_into, decode_image = decode.decode_video_into, decode.decode_image

  def record(views, data, times, *more):
    requests.append((data, times))
    return decode_video_into(views, data, times, *more)

  def record_image(data, *smallest):
    requests.append((data, ()))
    return decode_image(data, *smallest)

  decode.decode_video_into, decode.decode_image = record, record_image
  try:
    for step in range(num_batches):
      stream.batch_at(step)
  finally:
    decode.decode_video_into, decode.decode_image = decode_video_into, decode_image
  return requests


def _bare_decode(data, times, height, width, clip_image_size):
  """The image, or the first frame at or after each time, scaled to cover height x width."""
  if not len(times):
    image = PIL.Image.open(io.BytesIO(data)).convert('RGB')
    if clip_image_size:
      crops.clip_square(image, width, clip_image_size)
    return [np.asarray(crops.center_crop_resize(image, height, width))]
  reformatter = av.video.reformatter.VideoReformatter()
  frames = []
  with av.open(io.BytesIO(data)) as container:
    stream = container.streams.video[0]
    stream.thread_count = 1
    if times[0] > frames_lib.SEEK_AFTER_SECS:
      container.seek(int(times[0] / stream.time_base), stream=stream)
    for frame in container.decode(stream):
      while len(frames) < len(times) and frame.time >= times[len(frames)] - 1e-3:
        if clip_image_size and not frames:
          crops.clip_square(frame.to_image(), width, clip_image_size)
        scaled = crops.scaled_size(frame.height, frame.width, height, width)
        rgb = reformatter.reformat(
          frame, scaled[1], scaled[0], 'rgb24', interpolation=decode.INTERPOLATION, threads=1
        )
        frames.append(rgb.to_ndarray())
      if len(frames) == len(times):
        break
  return frames


def _write_tar(path, requests):
  with webdataset.TarWriter(path) as writer:
    for i, (data, times) in enumerate(requests):
      writer.write({'__key__': f'{i:06d}', 'media': data, 'json': list(times), 'txt': 'a caption'})


def _read_tar(path, bucket):
  """Batches of frames from a tar: webdataset reads, PyAV or Pillow decodes, numpy stacks."""
  frames = []
  for sample in webdataset.WebDataset(path, shardshuffle=False):
    times = json.loads(sample['json'])
    video = _bare_decode(sample['media'], times, bucket.height, bucket.width, None)
    frames.append([crops.center_crop(frame, bucket.height, bucket.width) for frame in video])
    if len(frames) == bucket.batch_size:
      np.stack([np.stack(video) for video in frames])
      frames = []


if __name__ == '__main__':
  main()
