"""Text: recall and precision of lines that are written over the pictures of a folder.

A subtitle, a mark in a corner and a title are rendered over each picture. A line is found if what
is read holds it, but for one letter in four. What the picture itself says is read first, and
counts neither way. Pictures without any writing of theirs show how often text is made up.
"""

import argparse
import difflib
import itertools
import pathlib
import time
from typing import Any

import cv2
import numpy as np

from data_pipelines.curate import text as text_lib

ALIKE = 0.75  # Of two lines, by difflib's ratio.
WORDS = 'river stone walks over quiet green market morning light seven boats under'.split()


def add_command(commands: Any) -> None:
  """Adds `text`."""
  parser: argparse.ArgumentParser = commands.add_parser('text', description=__doc__)
  parser.add_argument('--folder', required=True, help='pictures, at any depth')
  parser.add_argument('--num_pictures', type=int, default=60)
  parser.set_defaults(run=run)


def run(folder: str, num_pictures: int) -> None:
  """Prints recall by kind of text, precision, and the cost."""
  hits: dict[str, list[bool]] = {kind: [] for kind in KINDS}
  num_read = num_right = num_plain = num_made_up = 0
  start, num_frames = time.process_time(), 0
  paths = (p for p in sorted(pathlib.Path(folder).rglob('*')) if p.suffix in ('.jpg', '.png'))
  for index, path in enumerate(itertools.islice(paths, num_pictures)):
    picture_HWC = _fitted(cv2.imread(str(path), cv2.IMREAD_COLOR))
    own = _lines(picture_HWC)
    num_plain += not own
    for kind, write in KINDS.items():
      words = ' '.join(
        np.random.default_rng(index).permutation(WORDS)[: 2 if kind == 'mark' else 4]
      )
      read = [line for line in _lines(write(picture_HWC, words)) if not _is_in(line, own)]
      hits[kind].append(_is_in(words, read) or _is_in(words, [' '.join(read)]))
      right = [difflib.SequenceMatcher(None, line, words).ratio() > 0.3 for line in read]
      num_read, num_right = num_read + len(read), num_right + sum(right)
      num_made_up += not own and not all(right)
    num_frames += 1 + len(KINDS)
  seconds = (time.process_time() - start) / num_frames
  for kind, found in hits.items():
    print(f'{kind}: recall {np.mean(found):.3f} of {len(found)}')
  print(
    f'precision {num_right / max(num_read, 1):.3f} of {num_read} lines; {num_made_up} of '
    f'{len(KINDS) * num_plain} over pictures without writing have a line that nobody wrote; '
    f'{seconds:.2f} CPU s a frame'
  )


def _lines(picture_HWC: np.ndarray) -> list[str]:
  read = text_lib.columns([picture_HWC[..., ::-1]], 'rapidocr')['text']
  return [line.lower() for line in read.split('\n') if line]


def _is_in(line: str, lines: list[str]) -> bool:
  return any(difflib.SequenceMatcher(None, line, other).ratio() > ALIKE for other in lines)


def _fitted(picture_HWC: np.ndarray) -> np.ndarray:
  """640 pixels wide."""
  height = round(640 * picture_HWC.shape[0] / picture_HWC.shape[1])
  return cv2.resize(picture_HWC, (640, height), interpolation=cv2.INTER_AREA)


def _put(picture_HWC: np.ndarray, words: str, down: float, size: float, at: str) -> np.ndarray:
  """White letters with a dark edge; size is 22 pixels."""
  picture_HWC = picture_HWC.copy()
  font = cv2.FONT_HERSHEY_SIMPLEX
  (width, _), _ = cv2.getTextSize(words, font, size, 2)
  left = (640 - width) // 2 if at == 'middle' else 630 - width
  place = (left, round(down * len(picture_HWC)))
  cv2.putText(picture_HWC, words, place, font, size, (20, 20, 20), 5, cv2.LINE_AA)
  return cv2.putText(picture_HWC, words, place, font, size, (245, 245, 245), 2, cv2.LINE_AA)


KINDS = {
  'subtitle': lambda picture, words: _put(picture, words, 0.93, 0.8, 'middle'),
  'mark': lambda picture, words: cv2.addWeighted(
    _put(picture, words, 0.97, 0.7, 'right'), 0.6, picture, 0.4, 0
  ),
  'title': lambda picture, words: _put(picture, words, 0.5, 1.1, 'middle'),
}
