"""What the things and the camera of a video of scenes do, as rates and as words of its captions."""

import dataclasses

import numpy as np

from data_pipelines.demo_corpus import captions, outlines, scenes
from i2vgen_jax.evaluation.scene_things import Track

# In units of the rate that a caption means which names no speed. 'slowly' and 'fast' are factors of
# 3 ** -0.5 and 3 ** 0.5; what is slower than half of 'slowly' does not happen.
STILL_BELOW, SLOW_BELOW, FAST_ABOVE = 3**-0.5 / 2, 3**-0.25, 3**0.25
MIN_WHOLE = 2  # Frames that show all of a thing, to measure it in those alone.


@dataclasses.dataclass(frozen=True)
class Motion:
  """What a thing does relative to the scene, or the camera does, per second.

  Attributes:
    velocity: (x, y), shares of the frame's width.
    growth: natural logarithm of the size.
    turn: radians, clockwise.
  """

  velocity: tuple[float, float]
  growth: float
  turn: float = 0.0

  def of_thing(self) -> dict[str, float]:
    """How much there is of each of captions.MOTIONS, in units of the rate that it means."""
    return {
      **self._along(scenes.MOVE_RATE),
      **{name: self.growth * sign / scenes.GROW_RATE for name, sign in captions.SIZES.items()},
      **{name: self.turn * sign / scenes.TURN_RATE for name, sign in captions.TURNS.items()},
    }

  def of_camera(self) -> dict[str, float]:
    """The same for captions.CAMERAS."""
    zooms = {name: self.growth * sign / scenes.ZOOM_RATE for name, sign in captions.ZOOMS.items()}
    return self._along(scenes.PAN_RATE) | zooms

  def _along(self, rate: float) -> dict[str, float]:
    return {
      name: float(np.dot(self.velocity, direction)) / rate
      for name, direction in captions.MOVES.items()
    }


def most(amounts: dict[str, float]) -> str:
  """The motion that there is most of, or captions.STILL."""
  name = max(amounts, key=amounts.__getitem__)
  return name if amounts[name] >= STILL_BELOW else captions.STILL


def speed(amount: float) -> str:
  """The word of captions.SPEEDS for an amount of some motion, or captions.STILL."""
  if amount < STILL_BELOW:
    return captions.STILL
  return 'slowly' if amount < SLOW_BELOW else 'fast' if amount > FAST_ABOVE else ''


def measure_thing(track: Track, windows_F3: np.ndarray, fps: float) -> Motion:
  """A thing's motion relative to the scene, in the frames that show all of it if there are some.

  Args:
    track: of the thing.
    windows_F3: the camera's, of scene_camera.windows.
    fps: frames per second.
  """
  used = np.flatnonzero(track.is_seen & track.is_whole_F)
  if len(used) < MIN_WHOLE:
    used = np.flatnonzero(track.is_seen)
  windows_N3, times = windows_F3[used], used / fps
  middle, zoom_N1 = windows_F3[0, :2], windows_N3[:, 2:]
  places_N2 = windows_N3[:, :2] + (track.centers_F2[used] - middle) / zoom_N1
  sizes_N1 = np.log(track.areas_F[used, None]) / 2 - np.log(zoom_N1)
  x, y = _slopes(times, places_N2)
  [growth] = _slopes(times, sizes_N1)
  return Motion((x, y), growth, _turn(track, used, fps))


def measure_camera(windows_F3: np.ndarray, fps: float) -> Motion:
  """The camera's motion.

  Args:
    windows_F3: of scene_camera.windows.
    fps: frames per second.
  """
  times = np.arange(len(windows_F3)) / fps
  x, y = _slopes(times, windows_F3[:, :2])
  return Motion((x, y), *_slopes(times, np.log(windows_F3[:, 2:])))


def _turn(track: Track, used: np.ndarray, fps: float) -> float:
  shape = track.shape(used)
  if shape is None or not outlines.SYMMETRY[shape]:
    return 0.0
  angles_F = track.angles_FS[:, captions.SHAPES.index(shape)]
  used = used[~np.isnan(angles_F[used])]
  angles = np.unwrap(angles_F[used], period=2 * np.pi / outlines.SYMMETRY[shape])
  [turn] = _slopes(used / fps, angles[:, None])
  return turn


def _slopes(times_N: np.ndarray, values_ND: np.ndarray) -> list[float]:
  """Change per second of each column, by least squares; zero of fewer than two rows."""
  if len(times_N) < 2:
    return [0.0] * values_ND.shape[1]
  times_N = times_N - times_N.mean()
  return (times_N @ values_ND / (times_N @ times_N)).tolist()
