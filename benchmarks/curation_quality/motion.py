"""Motion told apart: known pans, zooms, rolls and shakes of a camera over a folder's pictures."""

import argparse
import pathlib
from typing import Any

import cv2
import numpy as np

from data_pipelines.curate import motion

HEIGHT, WIDTH, FPS = 144, 256, 8.0
NUM_FRAMES = 17
# pan and shake: diagonals per second; zoom: log per second; roll: radians per second.
PATHS = {
  'still': {},
  'pan': dict(pan=0.06),
  'fast pan': dict(pan=0.2),
  'zoom in': dict(zoom=0.15),
  'zoom out': dict(zoom=-0.15),
  'roll': dict(roll=0.15),
  'shake': dict(shake=0.06),
  'shaky pan': dict(pan=0.1, shake=0.04),
  'pan and zoom': dict(pan=0.06, zoom=0.1),
}
COLUMNS = ('pan', 'zoom', 'roll', 'shake')
MAX_ERROR = 0.02  # And a tenth of the truth.


def add_command(commands: Any) -> None:
  """Adds `motion`."""
  parser: argparse.ArgumentParser = commands.add_parser('motion', description=__doc__)
  parser.add_argument('--folder', required=True, help='pictures, at any depth')
  parser.set_defaults(run=run)


def run(folder: str) -> None:
  """Prints the median of each column by path, and how many are within MAX_ERROR + 10 %."""
  paths = [p for p in sorted(pathlib.Path(folder).rglob('*')) if p.suffix in ('.jpg', '.png')]
  pictures = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in paths]
  num_over = 0
  for name, truth in PATHS.items():
    found = [measured(frames(picture, **truth)) for picture in pictures]
    num_over += sum(row['camera_motion'] > row['motion'] + 1e-9 for row in found)
    shown = []
    for column in COLUMNS:
      values = np.array([row[column] for row in found])
      wanted = truth.get(column, 0.0)
      is_near = np.abs(values - wanted) <= MAX_ERROR + 0.1 * abs(wanted)
      shown.append(f'{column} {np.median(values):+.3f} for {wanted:+.2f} ({is_near.mean():.0%})')
    print(f'{name}: {", ".join(shown)}')
  print(f'camera_motion > motion: {num_over} of {len(pictures) * len(PATHS)}')


def frames(
  picture_HWC: np.ndarray, pan: float = 0, zoom: float = 0, roll: float = 0, shake: float = 0
) -> list[np.ndarray]:
  """Grey frames that a camera sees that moves over a picture; units as of PATHS."""
  diagonal = np.hypot(HEIGHT, WIDTH)
  scale = 1.6 * max(WIDTH / picture_HWC.shape[1], HEIGHT / picture_HWC.shape[0])
  grey = cv2.cvtColor(picture_HWC, cv2.COLOR_BGR2GRAY)
  grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  middle = np.array([grey.shape[1], grey.shape[0]]) / 2
  # Right and left in turn, of random length: the mean length of the velocity is `shake`.
  jumps = np.random.default_rng(0).uniform(0.5, 1.5, NUM_FRAMES)
  offsets = np.cumsum(jumps / jumps.mean() * (-1.0) ** np.arange(NUM_FRAMES)) * shake / FPS
  found = []
  for index in range(NUM_FRAMES):
    time = (index - NUM_FRAMES / 2) / FPS
    size, angle = np.exp(-zoom * time), -roll * time
    turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([pan * time, offsets[index]]) * diagonal
    corner = middle + shift - turn @ (np.array([WIDTH, HEIGHT]) / 2)
    seen = np.column_stack([turn, corner])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found.append(
      cv2.warpAffine(grey, seen, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT)
    )
  return found


def measured(greys: list[np.ndarray]) -> dict[str, float]:
  """schema.CURATE's columns of motion."""
  from data_pipelines.curate import measure

  meter = motion.FlowMeter()
  pairs = [
    (i / FPS, (i + 1) / FPS, meter(before, after, 1 / FPS))
    for i, (before, after) in enumerate(zip(greys[:-1], greys[1:], strict=True))
  ]
  return measure._motion_within((0.0, len(greys) / FPS), pairs)
