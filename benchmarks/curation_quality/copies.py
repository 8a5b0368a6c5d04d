"""Copies: recall by kind of edit, and plain frames that are taken for copies.

Pictures and pieces of videos of a folder are edited, encoded and measured as `curate` does, and
all originals and edits are grouped together. An edit is found if it is in its original's group.
Plain frames are a colour or a slope of two, and a third have a box or a disc.
"""

import argparse
import functools
import hashlib
import io
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import av
import cv2
import numpy as np

from data_pipelines.curate import duplicates, measure, prints, proof

FPS = 25
PIECE_SECS = 5.0
MAX_PIECES = 2  # Of a video.
BARS = dict(crop_10=0.9, flip=0.95, letterbox=0.9, watermark=0.9, trim=0.9)
MAX_FALSE = 0.001

Edit = Callable[[np.ndarray], np.ndarray]


def add_command(commands: Any) -> None:
  """Adds `copies`."""
  parser: argparse.ArgumentParser = commands.add_parser('copies', description=__doc__)
  parser.add_argument('--folder', required=True, help='pictures and videos, at any depth')
  parser.add_argument('--num_plain', type=int, default=10_000)
  parser.set_defaults(run=run)


def run(folder: str, num_plain: int) -> None:
  """Prints recall by edit and the share of false copies."""
  rows, names = [], []
  for name, kind, data, media in _files(pathlib.Path(folder)):
    rows.append(_row(data, media))
    names.append((name, kind))
  group_N = _groups(rows)
  leader = {name: group_N[i] for i, (name, kind) in enumerate(names) if kind == 'original'}
  is_picture = {name: len(row['hashes']) == 1 for row, (name, _) in zip(rows, names, strict=True)}
  kinds = dict.fromkeys(kind for _, kind in names if kind != 'original')
  for kind, media in itertools.product(kinds, (True, False)):
    hits = [
      group_N[i] == leader[name]
      for i, (name, k) in enumerate(names)
      if k == kind and is_picture[name] == media
    ]
    if hits:
      bar = f' (bar {BARS[kind]})' if kind in BARS else ''
      print(f'{kind} of {len(hits)} {"pictures" if media else "videos"}: {np.mean(hits):.3f}{bar}')
  same = [(a, b) for a, b in itertools.combinations(leader, 2) if leader[a] == leader[b]]
  print(f'originals that are taken for copies of each other: {same}')
  plain = [_plain_row(index) for index in range(num_plain)]
  num_false = num_plain - len(np.unique(_groups(plain)))
  print(
    f'false copies of {num_plain:,} plain frames: {num_false / num_plain:.4%} (bar {MAX_FALSE:.1%})'
  )


def _groups(rows: list[dict]) -> np.ndarray:
  digests = np.array([np.frombuffer(bytes.fromhex(row['sha256'])[:16], np.uint64) for row in rows])
  found = np.stack([duplicates.print_of(row) for row in rows])
  return duplicates.groups(
    digests, found, lambda indices: (proof.Evidence.of(rows[i]) for i in indices.tolist())
  )


def _row(data: bytes, media: str) -> dict:
  found = measure.measure(data, media, FPS, {})
  kept = {name: found[name] for name in ('hashes', 'part_hashes', 'points')}
  return kept | dict(sha256=hashlib.sha256(data).hexdigest())


def _files(folder: pathlib.Path) -> Iterator[tuple[str, str, bytes, str]]:
  """Yields (name, kind of edit or 'original', encoded bytes, media)."""
  for path in sorted(folder.rglob('*')):
    suffix = path.suffix.lower()
    if suffix in ('.jpg', '.jpeg', '.png'):
      picture_HWC = cv2.imread(str(path), cv2.IMREAD_COLOR)
      if picture_HWC is None or min(picture_HWC.shape[:2]) < 100:
        continue
      frames_FHWC, encode, media = picture_HWC[None], _jpeg, 'image'
      pieces = [(str(path), frames_FHWC)]
    elif suffix in ('.mp4', '.avi'):
      encode, media = _mp4, 'video'
      pieces = [(f'{path}#{i}', piece) for i, piece in enumerate(_pieces(path))]
    else:
      continue
    for name, frames_FHWC in pieces:
      yield name, 'original', encode(frames_FHWC), media
      for kind, edit in EDITS.items():
        yield name, kind, encode(np.stack([edit(frame) for frame in frames_FHWC])), media
      yield name, 'encode', encode(frames_FHWC, strong=True), media
      if media == 'video':
        yield name, 'trim', encode(frames_FHWC[FPS // 2 :]), media


def _pieces(path: pathlib.Path) -> Iterator[np.ndarray]:
  """Up to MAX_PIECES runs of frames of a video, at FPS, and 512 pixels wide at most."""
  with av.open(str(path)) as container:
    rate = float(container.streams.video[0].average_rate or FPS)
    length = int(PIECE_SECS * rate)
    frames = (frame.to_ndarray(format='bgr24') for frame in container.decode(video=0))
    for _ in range(MAX_PIECES):
      piece = list(itertools.islice(frames, length))
      if len(piece) < 1.5 * rate:
        return
      scale = min(1.0, 512 / piece[0].shape[1])
      times = np.arange(0, len(piece) - 1, rate / FPS).astype(int)
      yield np.stack([_scaled(piece[time], scale) for time in times])


def _scaled(frame_HWC: np.ndarray, scale: float) -> np.ndarray:
  height, width = (round(side * scale / 2) * 2 for side in frame_HWC.shape[:2])
  return cv2.resize(frame_HWC, (width, height), interpolation=cv2.INTER_AREA)


def _cropped(share: float, frame_HWC: np.ndarray) -> np.ndarray:
  """Without a share of its size on each side."""
  rows, columns = (round(share * side) for side in frame_HWC.shape[:2])
  return frame_HWC[rows : len(frame_HWC) - rows, columns : frame_HWC.shape[1] - columns]


def _cut(frame_HWC: np.ndarray) -> np.ndarray:
  """Without a tenth of its height and width, at the bottom right."""
  height, width = frame_HWC.shape[:2]
  return frame_HWC[: round(0.9 * height), : round(0.9 * width)]


def _letterboxed(frame_HWC: np.ndarray) -> np.ndarray:
  rows = len(frame_HWC) // 8
  return cv2.copyMakeBorder(frame_HWC, rows, rows, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def _marked(frame_HWC: np.ndarray) -> np.ndarray:
  """With a white box with letters at the bottom right: 5 % of the frame."""
  height, width = frame_HWC.shape[:2]
  left, top = int(0.62 * width), int(0.82 * height)
  marked_HWC = frame_HWC.copy()
  marked_HWC[top : int(0.96 * height), left : int(0.97 * width)] = 255
  at, size, dark = (left + width // 60, int(0.92 * height)), width / 400, (30, 30, 30)
  return cv2.putText(
    marked_HWC, 'STOCK', at, cv2.FONT_HERSHEY_SIMPLEX, size, dark, max(1, width // 200)
  )


EDITS: dict[str, Edit] = {
  'crop_2': functools.partial(_cropped, 0.02),
  'crop_5': functools.partial(_cropped, 0.05),
  'crop_10': functools.partial(_cropped, 0.10),
  'cut_corner': _cut,
  'flip': lambda frame_HWC: frame_HWC[:, ::-1],
  'letterbox': _letterboxed,
  'watermark': _marked,
  'resize': lambda frame_HWC: _scaled(frame_HWC, 0.5),
}


def _jpeg(frames_FHWC: np.ndarray, strong: bool = False) -> bytes:
  flags = [cv2.IMWRITE_JPEG_QUALITY, 30 if strong else 80]
  return cv2.imencode('.jpg', np.ascontiguousarray(frames_FHWC[0]), flags)[1].tobytes()


def _mp4(frames_FHWC: np.ndarray, strong: bool = False) -> bytes:
  buffer = io.BytesIO()
  height, width = (side // 2 * 2 for side in frames_FHWC.shape[1:3])
  with av.open(buffer, 'w', format='mp4') as container:
    options = {'crf': '35' if strong else '23', 'preset': 'veryfast'}
    stream = container.add_stream('libx264', rate=FPS, options=options)
    stream.height, stream.width, stream.pix_fmt = height, width, 'yuv420p'
    for frame_HWC in frames_FHWC[:, :height, :width]:
      picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format='bgr24')
      container.mux(stream.encode(picture))
    container.mux(stream.encode())
  return buffer.getvalue()


def _plain_row(index: int) -> dict:
  rng = np.random.default_rng(index)
  first, second, third = rng.integers(0, 256, (3, 3)).tolist()
  slope = np.linspace(0, 1, 144)[:, None, None] * (rng.random() < 0.5)
  frame_HWC = (np.array(first) * (1 - slope) + np.array(second) * slope) * np.ones((1, 256, 1))
  frame_HWC = frame_HWC.astype(np.uint8)
  top, left, rows, columns = rng.integers(10, 70, 4).tolist()
  if index % 6 == 0:
    cv2.rectangle(frame_HWC, (2 * left, top), (2 * left + columns, top + rows), third, -1)
  elif index % 6 == 1:
    cv2.circle(frame_HWC, (2 * left + 30, top + 20), rows // 2 + 5, third, -1)
  found = prints.of_frames([frame_HWC])
  return found | dict(sha256=hashlib.sha256(str(index).encode()).hexdigest())
