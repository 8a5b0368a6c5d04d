"""The demo corpus: coloured shapes that move, rendered by us and written in the public layouts.

A model that learns it must read the caption (which direction), keep the first frame (which shape
and colour) and move one object: what image-to-video is about, at a size that a laptop trains. A
first frame does not tell its video's direction: all four start in the same central region.

  webvid/results_demo_{train,val}.csv, videos/<page_dir>/<videoid>.mp4   WebVid, columns as in 10M
  images/00000.tar, 00000.parquet, 00000_stats.json                      img2dataset
"""

import concurrent.futures
import csv
import fractions
import functools
import io
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import av
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet

from data_pipelines import children

SHAPES = ('circle', 'square', 'triangle')
COLORS = {  # Hues at least 50 degrees apart, so that a colour is still known after the VAE.
  'red': (220, 35, 35),
  'green': (30, 160, 50),
  'blue': (40, 70, 230),
  'yellow': (240, 210, 20),
  'purple': (190, 40, 200),
  'cyan': (20, 200, 215),
}
DIRECTIONS = {
  'left': (-1, 0),
  'right': (1, 0),
  'up': (0, -1),
  'down': (0, 1),
}  # (x, y), y downwards.
VIDEO_CAPTION = 'a {color} {shape} moves {direction}'
IMAGE_CAPTION = 'a {color} {shape}'

SIZE = 96  # Pixels of the source; training crops and scales it to its own size.
NUM_FRAMES = 16
FPS = 16
# Fractions of the frame's side. Eight frames at 8 fps (7/8 s) move the shape by 36 %.
SPEED = 0.41  # Per second.
START_JITTER = 0.05  # Around the centre: from there every direction keeps the shape in the frame.
RADIUS = (0.11, 0.145)

NUM_VIDEOS, NUM_VALIDATION, NUM_IMAGES = 3000, 144, 1000
VIDEOS_PER_PAGE = 250
IMAGES_PER_SHARD = 500


def attributes_of(index: int) -> dict[str, str]:
  """Shape, colour and direction of an example: every 72 in a row hold each combination once."""
  direction = tuple(DIRECTIONS)[index % 4]
  pair = index // 4 % (len(SHAPES) * len(COLORS))
  color = tuple(COLORS)[(pair + pair // len(COLORS)) % len(COLORS)]
  return dict(shape=SHAPES[pair % len(SHAPES)], color=color, direction=direction)


def parse_caption(caption: str) -> dict[str, str]:
  """Shape, colour and (of a video) direction that a caption names: the templates reversed."""
  words = caption.split()
  found = {}
  for name, known in dict(shape=SHAPES, color=COLORS, direction=DIRECTIONS).items():
    matches = [word for word in words if word in known]
    if len(matches) > 1 or (not matches and name != 'direction'):
      raise ValueError(
        f'caption {caption!r} should name one {name} out of {tuple(known)}, has {matches}.'
      )
    if matches:
      found[name] = matches[0]
  return found


def render_video(
  rng: np.random.Generator,
  attributes: dict[str, str] | None = None,
  size: int = SIZE,
  num_frames: int = NUM_FRAMES,
  fps: float = FPS,
) -> tuple[np.ndarray, str, dict[str, str]]:
  """Renders one moving shape at constant speed.

  Args:
    rng: draws background, start and radius, and the attributes if not given.
    attributes: dict(shape, color, direction).
    size: side of the square frame in pixels.
    num_frames: of the video; the shape stays in view for the default length, 15/16 s.
    fps: frames per second.
  Returns:
    (frames uint8 (F, H, W, 3), caption, attributes).
  """
  attributes = attributes or attributes_of(int(rng.integers(72)))
  start = 0.5 + rng.uniform(-START_JITTER, START_JITTER, size=2)
  velocity = SPEED * np.array(DIRECTIONS[attributes['direction']])
  centers = start + velocity * np.arange(num_frames)[:, None] / fps
  frames = _render(rng, centers, attributes, size)
  return frames, VIDEO_CAPTION.format(**attributes), attributes


def render_image(
  rng: np.random.Generator, attributes: dict[str, str] | None = None, size: int = SIZE
) -> tuple[np.ndarray, str, dict[str, str]]:
  """Renders one shape anywhere in the frame.

  Args:
    rng: draws background, place and radius, and the attributes if not given.
    attributes: dict(shape, color, direction); the direction does not show.
    size: side of the square frame in pixels.
  Returns:
    (image uint8 (H, W, 3), caption, attributes).
  """
  attributes = attributes or attributes_of(int(rng.integers(72)))
  center = rng.uniform(RADIUS[1], 1 - RADIUS[1], size=(1, 2))
  return _render(rng, center, attributes, size)[0], IMAGE_CAPTION.format(**attributes), attributes


def _render(
  rng: np.random.Generator, centers: np.ndarray, attributes: Mapping[str, str], size: int
) -> np.ndarray:
  """Draws the shape at `centers` (F, 2), fractions of the side, on a plain background."""
  brightness = rng.choice([rng.uniform(15, 65), rng.uniform(190, 235)])
  background = np.rint(np.clip(brightness + rng.uniform(-12, 12, size=3), 0, 255))
  color = np.array(COLORS[attributes['color']], np.float32)
  radius = float(rng.uniform(*RADIUS) * size)
  frames = np.empty((len(centers), size, size, 3), np.uint8)
  frames[:] = background
  for frame, (center_x, center_y) in zip(frames, (centers * size).tolist(), strict=True):
    left, top = (max(int(center - 1.4 * radius), 0) for center in (center_x, center_y))
    window = frame[top : int(center_y + 1.4 * radius) + 2, left : int(center_x + 1.4 * radius) + 2]
    x = np.arange(left, left + window.shape[1], dtype=np.float32)[None, :] + (0.5 - center_x)
    y = np.arange(top, top + window.shape[0], dtype=np.float32)[:, None] + (0.5 - center_y)
    # One pixel of linear coverage across the outline is the antialiasing.
    coverage = np.clip(0.5 - _distance(attributes['shape'], x, y, radius), 0, 1)[..., None]
    window[:] = background + 0.5 + coverage * (color - background)
  return frames


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
  """Signed distance in pixels from the outline, negative inside; areas are about equal."""
  if shape == 'circle':
    return np.sqrt(x * x + y * y) - radius
  if shape == 'square':
    return np.maximum(np.abs(x), np.abs(y)) - 0.89 * radius
  half = math.sqrt(3) / 2
  return (
    np.maximum(half * np.abs(x) - y / 2, y) - 0.68 * radius
  )  # Equilateral, centred on its centroid.


def encode_video(frames: np.ndarray, fps: int | fractions.Fraction = FPS, crf: int = 14) -> bytes:
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


def _check_counts(counts, num_processes):
  """Raises ValueError for a number of something that cannot be."""
  for name, number in counts.items():
    if number < 0:
      raise ValueError(f'{name}={number} should be >= 0.')
  if num_processes < 1:
    raise ValueError(f'num_processes={num_processes} should be >= 1.')


def write(
  directory: str | os.PathLike[str],
  num_videos: int = NUM_VIDEOS,
  num_validation: int = NUM_VALIDATION,
  num_images: int = NUM_IMAGES,
  size: int = SIZE,
  seed: int = 0,
  num_processes: int = 2,
) -> None:
  """Writes the corpus (layout above), unless it is there with the same arguments.

  Equal arguments give equal bytes, whatever num_processes. Validation videos hold each combination
  of shape, colour and direction equally often.

  Args:
    directory: new, or of an earlier run.
    num_videos: for training.
    num_validation: videos that are held out.
    num_images: for training.
    size: side of the square frames in pixels.
    seed: of all that is drawn.
    num_processes: that render.
  Raises:
    ValueError: a count is negative, or the folder holds a demo corpus of other arguments.
  """
  root = pathlib.Path(directory)
  counts = dict(num_videos=num_videos, num_validation=num_validation, num_images=num_images)
  _check_counts(counts, num_processes)
  written = json.dumps(dict(counts, size=size, seed=seed))
  marker = root / 'demo.json'  # Written last.
  if marker.exists():
    if marker.read_text() != written:
      raise ValueError(f'{root} holds a demo corpus with other arguments: {marker.read_text()}.')
    return
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(
    num_processes, context, children.follow, (os.getpid(),)
  ) as pool:
    pages = []
    for name, count, offset in (('train', num_videos, 0), ('val', num_validation, num_videos)):
      pages += [
        (name, range(offset + first, offset + min(first + VIDEOS_PER_PAGE, count)))
        for first in range(0, count, VIDEOS_PER_PAGE)
      ]
    images = [
      range(first, min(first + IMAGES_PER_SHARD, num_images))
      for first in range(0, num_images, IMAGES_PER_SHARD)
    ]
    rows = pool.map(
      functools.partial(_write_page, root / 'webvid', size, seed), [p for _, p in pages]
    )
    shards = pool.map(functools.partial(_write_image_shard, root / 'images', size, seed), images)
    by_split: dict[str, list] = {}
    for (name, _), page_rows in zip(pages, rows, strict=True):
      by_split.setdefault(name, []).extend(page_rows)
    for name, split_rows in by_split.items():
      _write_csv(root / 'webvid' / f'results_demo_{name}.csv', split_rows)
    list(shards)
  marker.write_text(written)


def _write_page(root: pathlib.Path, size: int, seed: int, indices: range) -> list[tuple[str, ...]]:
  page_dir = f'{indices[0]:06d}_{indices[-1]:06d}'
  folder = root / 'videos' / page_dir
  folder.mkdir(parents=True, exist_ok=True)
  rows: list[tuple[str, ...]] = []
  for index in indices:
    rng = np.random.default_rng((seed, 0, index))
    frames, caption, _ = render_video(rng, attributes_of(index), size)
    video_id = f'{index:07d}'
    (folder / f'{video_id}.mp4').write_bytes(encode_video(frames))
    rows.append((video_id, '', 'PT00H00M01S', page_dir, caption))
  return rows


def _write_csv(path: pathlib.Path, rows: Iterable[tuple[str, ...]]) -> None:
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(('videoid', 'contentUrl', 'duration', 'page_dir', 'name'))
    writer.writerows(rows)


def _write_image_shard(root: pathlib.Path, size: int, seed: int, indices: range) -> None:
  root.mkdir(parents=True, exist_ok=True)
  shard = f'{indices[0] // IMAGES_PER_SHARD:05d}'
  rows = []
  with tarfile.open(root / f'{shard}.tar', 'w') as tar:
    for key, jpeg, caption in _images(indices, shard, size, seed):
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


def _images(indices: range, shard: str, size: int, seed: int) -> Iterator[tuple[str, bytes, str]]:
  for position, index in zip(itertools.count(), indices):
    rng = np.random.default_rng((seed, 1, index))
    image, caption, _ = render_image(rng, attributes_of(index), size)
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, 'jpeg', quality=95, subsampling=0)
    yield f'{shard}{position:04d}', buffer.getvalue(), caption
