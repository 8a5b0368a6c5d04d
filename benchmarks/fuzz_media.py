"""Damages media in all ways and decodes it as ingest and training do: nothing may die of it.

  python -m benchmarks.fuzz_media --minutes=5 [--seed=0] [--keep=DIR]

The seeds are small files of all containers and codecs, made here. A mutant has bits flipped, is
cut, has blocks moved, doubled or of another file, fields of its header that lie, or boxes of
another size. Each is probed and, if that goes well, decoded in a child process. Counted are the
reasons for which they are refused, the children that were lost, which costs one example each, and
what may not be: exceptions other than DecodeError, and memory beyond the bound. --keep gets the
mutants of the last three kinds.
"""

import argparse
import collections
import fractions
import hashlib
import io
import pathlib
import random
import sys
import time
from collections.abc import Callable, Iterator

import av
import numpy as np
import PIL.Image

from benchmarks import scheduling
from data_pipelines.media import decode, errors, probe, sandbox

SIZE = (48, 64)  # Height and width of the seeds, pixels.
NUM_FRAMES = 24
# Name: codec, container, pixel format, options.
VIDEOS = {
  'h264.mp4': ('libx264', 'mp4', 'yuv420p', {'bf': '2', 'g': '8'}),
  'h264_fragmented.mp4': ('libx264', 'mp4', 'yuv420p', {'movflags': 'frag_keyframe+empty_moov'}),
  'h264_intra_refresh.mkv': (
    'libx264', 'matroska', 'yuv420p', {'x264-params': 'intra-refresh=1:keyint=8'},
  ),
  'h264_10bit.mov': ('libx264', 'mov', 'yuv420p10le', {}),
  'h264.ts': ('libx264', 'mpegts', 'yuv420p', {}),
  'h264.avi': ('libx264', 'avi', 'yuv420p', {'bf': '0'}),
  'h264.flv': ('libx264', 'flv', 'yuv420p', {}),
  'h264_fields.mp4': ('libx264', 'mp4', 'yuv420p', {'flags': '+ilme+ildct'}),
  'hevc.mp4': ('libx265', 'mp4', 'yuv420p10le', {'x265-params': 'log-level=none:pools=1'}),
  'vp8.webm': ('libvpx', 'webm', 'yuv420p', {'deadline': 'realtime'}),
  'vp9.webm': ('libvpx-vp9', 'webm', 'yuv420p', {'deadline': 'realtime', 'cpu-used': '8'}),
  'av1.mkv': ('libsvtav1', 'matroska', 'yuv420p', {'preset': '12', 'svtav1-params': 'lp=1'}),
  'mpeg4.avi': ('mpeg4', 'avi', 'yuv420p', {'bf': '2'}),
  'mpeg2.mpg': ('mpeg2video', 'mpeg', 'yuv420p', {'bf': '2'}),
  'mpeg2.mxf': ('mpeg2video', 'mxf', 'yuv420p', {}),
  'wmv2.wmv': ('wmv2', 'asf', 'yuv420p', {}),
  'mjpeg.avi': ('mjpeg', 'avi', 'yuvj420p', {}),
  'prores.mov': ('prores_ks', 'mov', 'yuv422p10le', {}),
  'ffv1.mkv': ('ffv1', 'matroska', 'yuv420p', {}),
  'png.mov': ('png', 'mov', 'rgb24', {}),
  'apng.apng': ('apng', 'apng', 'rgb24', {}),
  'raw.nut': ('rawvideo', 'nut', 'yuv420p', {}),
}  # fmt: skip
PICTURES = ('jpeg', 'png', 'webp', 'gif', 'bmp', 'tiff')
LIES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
MIN_TIMEOUT_SECS = 20.0


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--minutes', type=float, default=1.0)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--keep', type=pathlib.Path, help='folder for mutants that kill or hang')
  options = parser.parse_args()
  found = fuzz(seeds(), 60 * options.minutes, options.seed, options.keep)
  print(found.text())
  return 1 if found.faults else 0


def seeds() -> dict[str, tuple[bytes, str]]:
  """(file, its medium) by name."""
  made = {name: (_video(*arguments), 'video') for name, arguments in VIDEOS.items()}
  for kind in PICTURES:
    buffer = io.BytesIO()
    PIL.Image.fromarray(_picture(0)).save(buffer, kind)
    made[f'picture.{kind}'] = buffer.getvalue(), 'image'
  return made


class Findings:
  """What became of the mutants.

  Attributes:
    reasons: how many were refused for each, or 'sound'.
    faults: exceptions that are no DecodeError, and memory beyond the bound; none is right.
    peak: bytes, the most that a child held.
  """

  def __init__(self):
    self.reasons: collections.Counter = collections.Counter()
    self.faults: list[str] = []
    self.peak = 0

  def text(self) -> str:
    """For people."""
    total = self.reasons.total()
    counts = ', '.join(f'{reason} {count:,}' for reason, count in self.reasons.most_common())
    lost = self.reasons['crash'] + self.reasons['timeout']
    lines = [f'{total:,} mutants: {counts}', f'children lost {lost}, parents and commands 0']
    lines.append(f'most memory of a child {self.peak / 2**20:,.0f} MB')
    return '\n'.join(lines + [f'FAULT {fault}' for fault in self.faults])


def fuzz(
  files: dict[str, tuple[bytes, str]],
  seconds: float,
  seed: int = 0,
  keep: pathlib.Path | None = None,
  most: int = sys.maxsize,
) -> Findings:
  """Decodes mutants until time is up.

  Args:
    files: seeds, by name.
    seconds: of the clock.
    seed: of the mutations.
    keep: folder for mutants that kill or hang, or None.
    most: mutants.
  """
  found = Findings()
  look = sandbox.Sandbox(_look, MIN_TIMEOUT_SECS)
  start = time.monotonic()
  for name, data, media in mutants(files, seed):
    if time.monotonic() - start > seconds or found.reasons.total() >= most:
      break
    reason, num_faults = 'sound', len(found.faults)
    try:
      look(data, media)
    except errors.DecodeError as error:
      reason = error.reason
    except Exception as error:
      reason = type(error).__name__
      found.faults.append(f'{name}: {error!r}')
    found.reasons[reason] += 1
    found.peak = max([found.peak, *map(_peak, look.pids())])
    if found.peak > sandbox.MAX_MEMORY:
      found.faults.append(f'{name}: {found.peak} bytes')
    if keep and (reason in ('crash', 'timeout') or len(found.faults) > num_faults):
      keep.mkdir(parents=True, exist_ok=True)
      digest = hashlib.sha256(data).hexdigest()[:8]
      (keep / f'{reason}_{digest}_{name}').write_bytes(data)
  look.close()
  return found


def mutants(files: dict[str, tuple[bytes, str]], seed: int) -> Iterator[tuple[str, bytes, str]]:
  """Yields (name of the seed, mutant, medium), without end."""
  rng = random.Random(seed)
  others = [data for data, _ in files.values()]
  while True:
    for name, (data, media) in files.items():
      mutant = bytearray(data)
      for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_WAYS)(mutant, rng, others)
      yield name, bytes(mutant), media


def _look(data: bytes, media: str) -> None:
  """In the child: probes and decodes; from the start, and from a place that is sought."""
  row = probe.probe(data, media, probe.SPECIAL)
  if media == 'video':
    for first in (0.0, 0.3):
      times = row['first_time'] + np.linspace(first, 1, 4) * row['duration']
      decode.decode_video(data, times, 32, 32, 16)


def _peak(pid: int) -> int:
  """Bytes that a process held at its most."""
  try:
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
  except OSError:  # Not Linux, or gone.
    return 0
  return 1024 * int(status.partition('VmHWM:')[2].split()[0])


def _picture(number: int) -> np.ndarray:
  rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
  values = [4 * columns + 9 * number, 5 * rows, 3 * (rows + columns) + 5 * number]
  return (np.stack(values, axis=-1) % 256).astype(np.uint8)


def _video(codec: str, container: str, pix_fmt: str, options: dict[str, str]) -> bytes:
  options = dict(options)
  flags = {'movflags': options.pop('movflags')} if 'movflags' in options else {}
  buffer = io.BytesIO()
  with scheduling.kept(), av.open(buffer, 'w', container, options=flags) as output:
    stream = output.add_stream(codec, rate=25, options=options)
    stream.height, stream.width = SIZE
    stream.pix_fmt = pix_fmt
    for number in range(NUM_FRAMES):
      frame = av.VideoFrame.from_ndarray(_picture(number), format='rgb24')
      frame.pts, frame.time_base = number, fractions.Fraction(1, 25)
      output.mux(stream.encode(frame))
    output.mux(stream.encode())
  return buffer.getvalue()


def _flip_bits(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
  for _ in range(rng.choice((1, 4, 16, 64))):
    if data:
      data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
  del data[rng.randrange(len(data) + 1) :]


def _move_block(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
  start, size = _block(data, rng)
  block = data[start : start + size]
  if rng.random() < 0.7:
    del data[start : start + size]
  place = rng.randrange(len(data) + 1)
  data[place:place] = block


def _blank_block(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
  start, size = _block(data, rng)
  data[start : start + size] = bytes([rng.choice((0, 255))]) * size


def _splice(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
  other = rng.choice(others)
  start, size = _block(other, rng)
  place = rng.randrange(len(data) + 1)
  data[place : place + size] = other[start : start + size]


def _lie(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
  """A number in the first or last kilobyte, where headers are."""
  if len(data) < 16:
    return
  size = rng.choice((1, 2, 4, 8))
  place = rng.randrange(min(1024, len(data) - size))
  if rng.random() < 0.4:
    place = len(data) - size - place
  value = rng.choice(LIES) % 256**size
  data[place : place + size] = value.to_bytes(size, rng.choice(('big', 'little')))


def _resize_box(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
  """The size of a box of an mp4, the length of a chunk of a PNG or RIFF file."""
  names = [
    place for place in range(4, len(data) - 4)
    if bytes(data[place : place + 4]).isalnum() and not data[place - 4]
  ]  # fmt: skip
  if not names:
    _lie(data, rng, others)
    return
  place = rng.choice(names)
  size = int.from_bytes(data[place - 4 : place], 'big')
  value = rng.choice((size + 1, max(0, size - 1), 2 * size, size // 2, *LIES)) % 2**32
  data[place - 4 : place] = value.to_bytes(4, 'big')


def _block(data: bytes | bytearray, rng: random.Random) -> tuple[int, int]:
  """(start, size)."""
  size = min(len(data), rng.choice((1, 8, 64, 512, 4096)))
  return rng.randrange(len(data) - size + 1), size


_WAYS: tuple[Callable[[bytearray, random.Random, list[bytes]], None], ...] = (
  _flip_bits, _flip_bits, _cut, _move_block, _blank_block, _splice, _lie, _lie, _resize_box,
)  # fmt: skip


if __name__ == '__main__':
  from benchmarks import fuzz_media  # The children look for `_look` under this name.

  sys.exit(fuzz_media.main())
