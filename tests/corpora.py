"""Small corpora in the public layouts, sound and damaged: what the data tests read."""

import contextlib
import csv
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile
import time

import av
import fsspec.implementations.memory
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils.epath import backend as epath_backend
from fsspec.registry import _registry

from data_pipelines import demo_corpus, sources
from data_pipelines.corpus import schema
from data_pipelines.ingest import command as ingest
from data_pipelines.sources import raw


def video(index=0):
  frames, _, _ = demo_corpus.render_video(
    np.random.default_rng(index), demo_corpus.attributes_of(index), size=32
  )
  return demo_corpus.encode_video(frames)


def write_folder(folder, count, captions='txt'):
  folder.mkdir(parents=True, exist_ok=True)
  for index in range(count):
    (folder / f'{index:03d}.mp4').write_bytes(video(index))
    if captions == 'txt':
      (folder / f'{index:03d}.txt').write_text(f'caption {index}\n')
  return folder


def ingest_sizes(root, sizes, num_frames=6):
  """Ingests media of the sizes (kind, height, width) into root/corpus, which it returns.

  Keys are number_HEIGHTxWIDTH; sides are multiples of 8.
  """
  (root / 'media').mkdir(parents=True)
  for number, (media, height, width) in enumerate(sizes):
    rng = np.random.default_rng(number)
    name = f'{number:03d}_{height}x{width}'
    pixels = rng.integers(60, 200, (num_frames, height // 8, width // 8, 3), np.uint8)
    pixels = pixels.repeat(8, axis=1).repeat(8, axis=2)
    if media == 'image':
      PIL.Image.fromarray(pixels[0]).save(root / 'media' / f'{name}.png')
    else:
      (root / 'media' / f'{name}.mp4').write_bytes(demo_corpus.encode_video(pixels, fps=8))
    (root / 'media' / f'{name}.txt').write_text(name)
  directory = str(root / 'corpus')
  ingest.ingest(str(root / 'media'), directory, validation_fraction=0.0, num_processes=1)
  return directory


def ingest_shots(root, videos, fps=12, size=64):
  """Ingests videos, each a list of shots' lengths in frames, into root/corpus, which it returns.

  Each shot is a texture of its own that stands still.
  """
  (root / 'media').mkdir(parents=True)
  for number, lengths in enumerate(videos):
    rng = np.random.default_rng(number)
    cells = rng.integers(0, 255, (len(lengths), 8, 8, 3), np.uint8)
    pictures = cells.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    frames = np.repeat(pictures, lengths, axis=0)
    data = demo_corpus.encode_video(frames, fps=fps)
    (root / 'media' / f'{number}.mp4').write_bytes(data)
    (root / 'media' / f'{number}.txt').write_text(f'video {number}')
  directory = str(root / 'corpus')
  ingest.ingest(str(root / 'media'), directory, validation_fraction=0.0, num_processes=1)
  return directory


def write_sidecars(folder, splits):
  """A corpus of sidecars alone: split -> rows of (media, seconds, fps, height, width)."""
  manifest = dict(version=schema.VERSION, fingerprint='synthetic', splits={})
  for split, rows in splits.items():
    records, sidecar = schema.shard_names(split, 0)
    media, duration, fps, height, width = zip(*rows, strict=True)
    columns = dict(media=media, duration=duration, fps=fps, height=height, width=width)
    columns |= dict(first_time=[0.0] * len(rows), longest_gap=[0.0] * len(rows))
    (folder / sidecar).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / sidecar)
    shard = dict(records=records, sidecar=sidecar, num_examples=len(rows))
    manifest['splits'][split] = dict(shards=[shard])
  (folder / 'manifest.json').write_text(json.dumps(manifest))
  return folder


def finish_stage(directory, stage='curate', **more):
  """Writes the manifest of a stage whose sidecars are written by hand."""
  pathlib.Path(directory, 'sidecar', stage, 'manifest.json').write_text(json.dumps(more))


def write_webvid(folder, columns):
  rows = [
    dict(
      videoid=f'00{i}', name=f'a "{i}",\nsecond line', page_idx='1', page_dir='000001_000050',
      duration='PT00H00M17S', contentUrl='https://example.com',
    )
    for i in range(2)
  ]  # fmt: skip
  (folder / 'videos/000001_000050').mkdir(parents=True)
  for row in rows:
    (folder / 'videos/000001_000050' / f'{row["videoid"]}.mp4').write_bytes(b'media')
  with (folder / 'results_2M_val.csv').open('w', newline='') as file:
    writer = csv.DictWriter(file, columns, extrasaction='ignore')
    writer.writeheader()
    writer.writerows(rows)


def write_tar(path, groups):
  with tarfile.open(path, 'w') as tar:
    for name, data in groups:
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))


def write_files(folder, files):
  """Writes files by name; text as UTF-8."""
  for name, data in files.items():
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.encode() if isinstance(data, str) else data)


def read_all(path):
  """({key: caption} of what is taken, {key: reason} of what is rejected) of a foreign corpus.

  Asserts that what is listed comes out, each under a key of its own.
  """
  source = sources.open_source(path)
  taken, rejected = {}, {}
  for shard in source.shards():
    examples = list(source.examples(shard))
    assert len(examples) == source.num_listed(shard)
    for example in examples:
      assert example.key not in taken and example.key not in rejected
      if isinstance(example, raw.RawExample):
        taken[example.key] = example.caption
      else:
        rejected[example.key] = example.reason
  return taken, rejected


def kill_and_run_again(arguments, parts, module='data_pipelines'):
  """Kills a command after its first finished part, then runs it to its end.

  Asserts that it was killed half-way, and that the parts that were finished are not written again.
  """
  root = pathlib.Path(__file__).parents[1]
  command = [sys.executable, '-m', module, *arguments]
  with subprocess.Popen(command, cwd=root, start_new_session=True) as process:
    deadline = time.monotonic() + 300
    while not (parts / '00000/result.json').exists():
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)

  def finished():
    markers = parts.glob('[0-9]*/result.json')
    return {marker: (marker.stat().st_ino, marker.stat().st_mtime_ns) for marker in markers}

  before = finished()
  subprocess.run(command, cwd=root, check=True)
  after = finished()
  assert before and len(before) < len(after) and before.items() <= after.items()


def audio_only():
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4') as container:
    stream = container.add_stream('aac', rate=16000, layout='mono')
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), 'fltp', 'mono')
    frame.sample_rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return buffer.getvalue()


def flip_bits(data):
  """Damages the coded pictures but not the index."""
  damaged = bytearray(data)
  for offset in range(data.index(b'mdat') + 900, data.index(b'moov') - 4, 7):
    damaged[offset] ^= 0xA5
  return bytes(damaged)


DAMAGED = {
  'empty': (b'', 'open'),
  'html': (b'<html>404 Not Found</html>', 'open'),
  'truncated': (video()[: len(video()) * 2 // 3], 'open'),
  'flipped': (flip_bits(video()), 'decode'),
  'audio': (audio_only(), 'no_video'),
  'still': (demo_corpus.encode_video(np.full((1, 32, 32, 3), 9, np.uint8)), 'single_frame'),
}


class Bucket(fsspec.implementations.memory.MemoryFileSystem):
  """A bucket in memory, under the names that epath asks fsspec for."""

  protocol = ('gs', 'gcs', 's3')
  store: dict = {}
  pseudo_dirs = ['']

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.split('://', 1)[-1])

  def glob(self, path, **options):
    return [name.lstrip('/') for name in super().glob(path, **options)]  # As of a bucket.


def bucket():
  """The body of a fixture: an empty bucket in the place of s3:// and gs://."""
  Bucket.store.clear()
  Bucket.pseudo_dirs[:] = ['']
  with pytest.MonkeyPatch.context() as patch:  # Other tests have the real clients.
    for name in Bucket.protocol:
      patch.setitem(_registry, name, Bucket)
    forget_file_systems()
    yield Bucket()
  forget_file_systems()


def forget_file_systems():
  """epath keeps the first of each kind for ever."""
  epath_backend._FileSystemSpecBackend._get_filesystem.cache_clear()


@contextlib.contextmanager
def ends_with_2(message):
  """Within, a command ends with exit code 2 and one line that matches the message."""
  with contextlib.redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit) as raised:
    yield
  assert raised.value.code == 2
  assert re.search(f'^error: .*{message}', stderr.getvalue(), re.MULTILINE), stderr.getvalue()
