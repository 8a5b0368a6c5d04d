"""Films of shots that are joined in one way: the truth is known to the frame.

Shots are windows of real videos, moves of a camera over real pictures, or over textures that are
rendered. Sources are used in one of two halves, so that what is tuned on one is tried on the other.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import av
import cv2
import numpy as np

HEIGHT, WIDTH, FPS = 144, 256, 25
VIDEOS = ('.mp4', '.avi', '.mkv', '.webm', '.mov')
PICTURES = ('.jpg', '.jpeg', '.png')
JOINS = ('cut', 'dissolve', 'fade', 'wipe', 'slide')
NO_JOINS = ('flash', 'whip', 'motion')  # What looks like one, and is none.

Source = Callable[[np.random.Generator, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Film:
  """One film.

  Attributes:
    kind: of its joins, or what it has in place of joins.
    frames_FHWC: uint8, RGB.
    truth: (first frame that is no longer the shot before alone, first frame of the next alone) of
      each join; a cut has one frame twice.
    num_events: flashes or whip pans; of motion 1.
  """

  kind: str
  frames_FHWC: np.ndarray
  truth: list[tuple[int, int]]
  num_events: int = 0


def make(kind: str, sources: Sequence[Source], rng: np.random.Generator, num_shots: int) -> Film:
  """A film of a kind of JOINS or NO_JOINS."""
  if kind in NO_JOINS:
    every = rng.integers(2, 5) if kind == 'motion' else 1
    frames = sources[rng.integers(len(sources))](rng, every * 12 * FPS)[::every]
    return _without_joins(kind, frames, rng)
  film, truth, last = np.zeros((0, HEIGHT, WIDTH, 3), np.uint8), [], -1
  for _ in range(num_shots):
    number = rng.choice([i for i in range(len(sources)) if i != last])
    last = number
    shot = sources[number](rng, int(rng.uniform(1.6, 3.2) * FPS) + 2 * FPS)
    if not len(film):
      film = shot
      continue
    film, span = _join(kind, film, shot, rng)
    truth.append(span)
  return Film(kind, film, truth)


def _join(
  kind: str, before: np.ndarray, after: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int]]:
  if kind == 'cut':
    return np.concatenate([before, after]), (len(before), len(before))
  seconds = rng.uniform(0.2, 1.5) if kind == 'dissolve' else rng.uniform(0.3, 1.2)
  count = max(3, round(seconds * FPS))
  weight_F = (np.arange(count) + 1) / (count + 1)
  if kind == 'fade':
    color = 255.0 * (rng.random() < 0.3)
    hold = np.full((rng.integers(0, FPS // 2), HEIGHT, WIDTH, 3), color, np.uint8)
    plain = np.full((count, HEIGHT, WIDTH, 3), color, np.uint8)
    out, back = _blend(before[-count:], plain, weight_F), _blend(plain, after[:count], weight_F)
    middle, start = np.concatenate([out, hold, back]), len(before) - count
    return np.concatenate([before[:start], middle, after[count:]]), (start, start + len(middle))
  mix = dict(dissolve=_blend, wipe=_wipe(rng), slide=_slide(rng))[kind]
  start, middle = len(before) - count, mix(before[-count:], after[:count], weight_F)
  return np.concatenate([before[:start], middle, after[count:]]), (start, start + count)


def _blend(before: np.ndarray, after: np.ndarray, weight_F: np.ndarray) -> np.ndarray:
  weight = weight_F[:, None, None, None].astype(np.float32)
  return np.rint(before * (1 - weight) + after * weight).astype(np.uint8)


def _wipe(rng: np.random.Generator) -> Callable[..., np.ndarray]:
  angle, softness = rng.choice([0, 90, 180, 270, 45, 135]), rng.choice([0.004, 0.1])
  y, x = np.mgrid[:HEIGHT, :WIDTH] / np.array([HEIGHT, WIDTH])[:, None, None] - 0.5
  along = x * np.cos(np.deg2rad(angle)) + y * np.sin(np.deg2rad(angle))
  along = (along - along.min()) / np.ptp(along)

  def mix(before, after, weight_F):
    edge = weight_F[:, None, None] * (1 + softness)
    share = np.clip((edge - along) / softness, 0, 1)[..., None].astype(np.float32)
    return np.rint(before * (1 - share) + after * share).astype(np.uint8)

  return mix


def _slide(rng: np.random.Generator) -> Callable[..., np.ndarray]:
  pushes, axis, reverse = rng.random() < 0.5, rng.integers(1, 3), rng.random() < 0.5

  def mix(before, after, weight_F):
    order = slice(None, None, -1 if reverse else 1)
    before, after = (np.flip(b, axis) if reverse else b for b in (before, after))
    frames, size = [], before.shape[axis]
    for old, new, weight in zip(before, after, weight_F, strict=True):
      shift = round(weight * size)
      kept = np.take(old, range(shift if pushes else 0, size if pushes else size - shift), axis - 1)
      frames.append(np.concatenate([kept, np.take(new, range(shift), axis - 1)], axis - 1))
    frames = np.stack(frames)
    return np.flip(frames, axis) if order.step == -1 else frames

  return mix


def _without_joins(kind: str, frames: np.ndarray, rng: np.random.Generator) -> Film:
  if kind == 'motion':
    return Film(kind, frames, [], 1)
  frames, starts = frames.copy(), range(FPS, len(frames) - 2 * FPS, 2 * FPS)
  for start in starts:
    start += rng.integers(0, FPS // 2)
    if kind == 'flash':
      levels = rng.uniform(0.4, 1.0) * np.array([0.6, 1.0, 0.5, 0.2])[rng.integers(0, 2) :]
      part = frames[start : start + len(levels)]
      part[:] = _blend(part, np.full_like(part, 255), levels)
      continue
    count = int(rng.uniform(0.2, 0.5) * FPS)
    path = np.cumsum(np.hanning(count + 2)[1:-1])
    travel = rng.uniform(1.0, 2.5) * WIDTH * rng.choice([-1, 1])
    path = path / path[-1] * travel
    for i in range(start, len(frames)):
      step = min(i - start, count - 1)
      blur = abs(path[step] - (path[step - 1] if step else 0)) * (i - start < count)
      frames[i] = _turned(frames[i], path[step], blur)
  return Film(kind, frames, [], len(starts))


def _turned(frame_HWC: np.ndarray, shift: float, blur: float) -> np.ndarray:
  """The frame by a camera turned by `shift` pixels; beside the scene is its mirror image."""
  wide = np.concatenate([frame_HWC, frame_HWC[:, ::-1]], axis=1)
  if blur > 1:
    wide = cv2.blur(np.concatenate([wide] * 3, axis=1), (int(blur) | 1, 1))[
      :, 2 * WIDTH : 4 * WIDTH
    ]
  return np.roll(wide, -round(shift), axis=1)[:, :WIDTH]


def real_sources(folders: Sequence[str], half: int) -> list[Source]:
  """Every second file of the folders, from the first (half=0) or the second one (half=1) on."""
  paths = sorted(p for folder in folders for p in pathlib.Path(folder).rglob('*'))
  paths = [path for path in paths if path.suffix.lower() in VIDEOS + PICTURES][half::2]
  if len(paths) < 2:
    raise ValueError(f'{list(folders)} should hold at least four videos or pictures.')
  return [
    _Video(path) if path.suffix.lower() in VIDEOS else _Picture(cv2.imread(str(path))[..., ::-1])
    for path in paths
  ]


class _Video:
  """Windows of a video, played forth and back; cropped and mirrored by chance.

  What has fewer frames per second than a film is played faster: no frame is shown twice.
  """

  def __init__(self, path: pathlib.Path):
    with av.open(str(path)) as container:
      self._rate = max(FPS, float(container.streams.video[0].average_rate))
      frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
    height, width = frames[0].shape[:2]
    size = round(1.6 * WIDTH), round(1.6 * WIDTH * height / width)
    self._frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]

  def __call__(self, rng, count):
    height, width = self._frames[0].shape[:2]
    share = rng.uniform(0.7, 1.0) * min(1.0, height * WIDTH / HEIGHT / width)
    size = int(share * width * HEIGHT / WIDTH), int(share * width)
    top, left = rng.integers(0, max(1, height - size[0])), rng.integers(0, max(1, width - size[1]))
    flips, total = rng.random() < 0.5, len(self._frames)
    first, frames = rng.integers(total), []
    for i in range(count):
      at = (first + int(i * self._rate / FPS)) % (2 * total - 2)
      frame = self._frames[min(at, 2 * total - 2 - at)]
      frame = frame[top : top + size[0], left : left + size[1]]
      frame = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
      frames.append(frame[:, ::-1] if flips else frame)
    return np.stack(frames)


class _Picture:
  """A camera that moves over a picture, evenly, with a hand's tremor."""

  def __init__(self, picture_HWC: np.ndarray):
    scale = 3 * WIDTH / picture_HWC.shape[1]
    size = 3 * WIDTH, max(round(scale * picture_HWC.shape[0]), HEIGHT + 1)
    picture_HWC = np.ascontiguousarray(picture_HWC)
    self._picture = cv2.resize(picture_HWC, size, interpolation=cv2.INTER_AREA)

  def __call__(self, rng, count):
    height, width = self._picture.shape[:2]
    most = min(width / WIDTH, height / HEIGHT)
    tremor = np.cumsum(rng.normal(0, rng.choice([0, 0.4]), (count, 2)), axis=0)
    zooms = most * rng.uniform(0.45, 1.0, 2)
    if rng.random() < 0.3:
      zooms[1] = zooms[0]
    margins = [np.array([z * WIDTH / 2, z * HEIGHT / 2]) for z in zooms]
    centers = [rng.uniform(margin, (width, height) - margin + 1e-6) for margin in margins]
    # Of a long take the whole way, of a short one as much as the speed gives.
    reach = rng.choice([0.0, 0.3, 1.0]) * min(1.0, count / (6 * FPS))
    frames = []
    for i in range(count):
      t = reach * i / count
      zoom = zooms[0] + t * (zooms[1] - zooms[0])
      x, y = (a + t * (b - a) + d for a, b, d in zip(*centers, tremor[i], strict=True))
      move = np.float32([[zoom, 0, x - zoom * WIDTH / 2], [0, zoom, y - zoom * HEIGHT / 2]])
      flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
      frame = cv2.warpAffine(
        self._picture, move, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT
      )
      frames.append(frame)
    return np.stack(frames)


def rendered_sources(half: int, count: int = 10) -> list[Source]:
  """Cameras over textures of several grains, each of its own colour."""
  return [_Picture(_texture(np.random.default_rng(2 * i + half))) for i in range(count)]


def _texture(rng: np.random.Generator) -> np.ndarray:
  size = 2 * HEIGHT, 3 * WIDTH
  scene = np.zeros((*size, 3), np.float32)
  for grain in rng.choice([2, 4, 8, 16, 32], 3, replace=False):
    noise = cv2.GaussianBlur(rng.random((*size, 3)).astype(np.float32), (0, 0), float(grain))
    scene += (noise - noise.mean()) / noise.std() * rng.uniform(0.3, 1.0)
  scene = rng.uniform(70, 180, 3) + rng.uniform(15, 45) * scene
  return np.clip(scene, 0, 255).astype(np.uint8)
