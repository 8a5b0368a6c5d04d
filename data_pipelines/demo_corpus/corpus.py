"""Writes a demo corpus in the layouts of WebVid and img2dataset.

webvid/results_demo_{train,val}.csv, videos/<page_dir>/<videoid>.mp4   WebVid, columns as in 10M
images/00000.tar, 00000.parquet, 00000_stats.json                      img2dataset
truth/{train,val}.jsonl, sheet.png                                     of scenes: a line per video,
                                                                       and what some look like
"""

import concurrent.futures
import csv
import fractions
import functools
import io
import itertools
import json
import multiprocessing
import os
import pathlib
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet

from data_pipelines import children
from data_pipelines.demo_corpus import shapes, sheet
from data_pipelines.demo_corpus.kinds import KINDS

VIDEOS_PER_PAGE = 250
IMAGES_PER_SHARD = 500
SHOWN = (3, 34, 64, 22, 9, 70, 72, 57)  # Held-out videos on the sheet.


def encode_video(
  frames: np.ndarray, fps: int | fractions.Fraction = shapes.FPS, crf: int = 14
) -> bytes:
  """Encodes frames as H.264 mp4.

  Args:
    frames: uint8 (F, H, W, 3), of even height and width.
    fps: frames per second.
    crf: quality, 0 is the best; 14 leaves no visible artefact on these.
  """
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4') as container:
    # Without look-ahead, whose threads do not always give the same bytes.
    options = {'crf': str(crf), 'preset': 'veryfast', 'tune': 'zerolatency'}
    stream = container.add_stream('libx264', rate=fps, options=options)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    stream.codec_context.thread_count = 1
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())
  return buffer.getvalue()


def write(
  directory: str | os.PathLike[str],
  num_videos: int | None = None,
  num_validation: int | None = None,
  num_images: int | None = None,
  size: int | None = None,
  seed: int = 0,
  num_processes: int = 2,
  kind: str = 'shapes',
  sealed: bool = False,
) -> None:
  """Writes a corpus (layout above), unless it is there with the same arguments.

  Equal arguments give equal bytes, whatever num_processes. Held-out videos of shapes hold each
  combination of shape, colour and direction equally often; half of those of scenes show
  combinations that no training video does.

  Args:
    directory: new, or of an earlier run.
    num_videos: for training; this and the next three are the kind's own unless given.
    num_validation: videos that are held out.
    num_images: for training.
    size: side of the square frames in pixels.
    seed: of all that is drawn.
    num_processes: that render.
    kind: of KINDS.
    sealed: write held-out videos alone, other ones than those that stand beside training videos.
  Raises:
    ValueError: a count is negative, or the folder holds a demo corpus of other arguments.
  """
  root = pathlib.Path(directory)
  counts = counts_of(kind, sealed, num_videos, num_validation, num_images)
  if num_processes < 1:
    raise ValueError(f'num_processes={num_processes} should be >= 1.')
  size = size or KINDS[kind].size
  of_kind = {} if kind == 'shapes' else dict(kind=kind, sealed=sealed)
  written = json.dumps(dict(counts, size=size, seed=seed) | of_kind)
  marker = root / 'demo.json'  # Written last.
  if marker.exists():
    if marker.read_text() != written:
      raise ValueError(f'{root} holds a demo corpus with other arguments: {marker.read_text()}.')
    return
  first_held_out = KINDS[kind].held_out(counts['num_videos'], sealed)
  splits = {
    'train': _cut(0, counts['num_videos'], VIDEOS_PER_PAGE),
    'val': _cut(first_held_out, counts['num_validation'], VIDEOS_PER_PAGE),
  }
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(
    num_processes, context, children.follow, (os.getpid(),)
  ) as pool:
    write_page = functools.partial(_write_page, root / 'webvid', kind, size, seed)
    made = {name: pool.map(write_page, pages) for name, pages in splits.items() if pages}
    write_shard = functools.partial(_write_image_shard, root / 'images', kind, size, seed)
    shards = pool.map(write_shard, _cut(0, counts['num_images'], IMAGES_PER_SHARD))
    for name, pages in made.items():
      rows = [row for page in pages for row in page]
      _write_csv(root / 'webvid' / f'results_demo_{name}.csv', [row for row, _ in rows])
      _write_truth(root / 'truth' / f'{name}.jsonl', [truth for _, truth in rows if truth])
    list(shards)
  if kind != 'shapes' and not sealed:
    shown = [first_held_out + i for i in SHOWN if i < counts['num_validation']]
    sheet.write(root / 'sheet.png', [KINDS[kind].clip(seed, number, size)[:2] for number in shown])
  marker.write_text(written)


def _cut(first: int, count: int, most: int) -> list[range]:
  """The numbers from `first` on, `count` of them, in ranges of at most `most`."""
  end = first + count
  return [range(start, min(start + most, end)) for start in range(first, end, most)]


def counts_of(
  kind: str,
  sealed: bool,
  num_videos: int | None,
  num_validation: int | None,
  num_images: int | None,
) -> dict[str, int]:
  """What is to be written: the counts that are given, and the kind's own for the others.

  Args:
    kind: of KINDS.
    sealed: that there are held-out videos alone.
    num_videos: for training, or None.
    num_validation: videos that are held out, or None.
    num_images: for training, or None.
  Raises:
    ValueError: a count is negative, or asks for what the kind or a sealed corpus does not have.
  """
  if kind not in KINDS:
    raise ValueError(f'kind={kind!r} should be one of {", ".join(KINDS)}.')
  given = dict(num_videos=num_videos, num_validation=num_validation, num_images=num_images)
  counts = KINDS[kind].counts | (dict(num_videos=0, num_images=0) if sealed else {})
  for name, number in given.items():
    if number is None:
      continue
    if number < 0:
      raise ValueError(f'{name}={number} should be >= 0.')
    if sealed and number and name != 'num_validation':
      raise ValueError(f'{name}={number} should be 0: a sealed corpus holds held-out videos alone.')
    counts[name] = number
  KINDS[kind].held_out(counts['num_videos'], sealed)  # Raises what it cannot have.
  return counts


def _write_page(
  root: pathlib.Path, kind: str, size: int, seed: int, numbers: range
) -> list[tuple[tuple[str, ...], dict[str, Any] | None]]:
  """Writes a folder of videos; (the CSV's row, the truth) of each."""
  page_dir = f'{numbers[0]:06d}_{numbers[-1]:06d}'
  folder = root / 'videos' / page_dir
  folder.mkdir(parents=True, exist_ok=True)
  rows: list[tuple[tuple[str, ...], dict[str, Any] | None]] = []
  for number in numbers:
    frames, caption, truth = KINDS[kind].clip(seed, number, size)
    video_id = f'{number:07d}'
    (folder / f'{video_id}.mp4').write_bytes(encode_video(frames))
    seconds = round(len(frames) / shapes.FPS)
    row = (video_id, '', f'PT00H00M{seconds:02d}S', page_dir, caption)
    rows.append((row, truth and dict(videoid=video_id, **truth)))
  return rows


def _write_truth(path: pathlib.Path, truths: list[dict[str, Any]]) -> None:
  """One JSON object a line; no file if nothing is known."""
  if truths:
    path.parent.mkdir(exist_ok=True)
    path.write_text(''.join(json.dumps(truth) + '\n' for truth in truths))


def _write_csv(path: pathlib.Path, rows: Iterable[tuple[str, ...]]) -> None:
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(('videoid', 'contentUrl', 'duration', 'page_dir', 'name'))
    writer.writerows(rows)


def _write_image_shard(root: pathlib.Path, kind: str, size: int, seed: int, indices: range) -> None:
  root.mkdir(parents=True, exist_ok=True)
  shard = f'{indices[0] // IMAGES_PER_SHARD:05d}'
  rows = []
  with tarfile.open(root / f'{shard}.tar', 'w') as tar:
    for key, jpeg, caption in _images(indices, shard, kind, size, seed):
      row: dict[str, Any] = dict(
        url='', caption=caption, key=key, status='success', error_message=None
      )
      row.update(width=size, height=size, original_width=size, original_height=size)
      rows.append(row)
      for suffix, data in (
        ('jpg', jpeg),
        ('txt', caption.encode()),
        ('json', json.dumps(row).encode()),
      ):
        member = tarfile.TarInfo(f'{key}.{suffix}')
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
  pa.parquet.write_table(pa.Table.from_pylist(rows), root / f'{shard}.parquet')
  stats = dict(count=len(rows), successes=len(rows), failed_to_download=0)
  (root / f'{shard}_stats.json').write_text(json.dumps(stats))


def _images(
  indices: range, shard: str, kind: str, size: int, seed: int
) -> Iterator[tuple[str, bytes, str]]:
  for position, index in zip(itertools.count(), indices):
    frames, caption, _ = KINDS[kind].picture(seed, index, size)
    buffer = io.BytesIO()
    PIL.Image.fromarray(frames[0]).save(buffer, 'jpeg', quality=95, subsampling=0)
    yield f'{shard}{position:04d}', buffer.getvalue(), caption
