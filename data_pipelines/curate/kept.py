"""Frames that stand for the shots of a video: few of each, so that memory is bounded."""

import dataclasses
from collections.abc import Sequence

import numpy as np

# Of a shot, half are dropped whenever there are twice as many; so are they of all shots that are
# over, whenever there are MAX_IN_ALL.
MAX_KEPT = 32
MAX_IN_ALL = 512
FIRST_FPS = 4.0


@dataclasses.dataclass
class Kept:
  """A frame that stands for its neighbourhood.

  Attributes:
    time: seconds.
    frame_HWC: uint8, BGR.
  """

  time: float
  frame_HWC: np.ndarray


class Keeper:
  """Chooses frames that are offered in the order of time."""

  def __init__(self):
    self._over: list[list[Kept]] = []
    self._shot: list[Kept] = []
    self._every = 1 / FIRST_FPS

  def offer(self, time: float, frame_HWC: np.ndarray) -> None:
    """Keeps the frame if the one before it is some time ago."""
    if self._shot and time - self._shot[-1].time < self._every - 1e-3:
      return
    self._shot.append(Kept(time, frame_HWC))
    if len(self._shot) == 2 * MAX_KEPT:
      self._shot, self._every = self._shot[::2], 2 * self._every
    while len(self.frames()) >= MAX_IN_ALL and any(len(shot) > 1 for shot in self._over):
      self._over = [shot[::2] for shot in self._over]

  def cut(self, time: float) -> None:
    """From this time on, which may have passed already, it is another shot."""
    before = [kept for kept in self._shot if kept.time < time]
    self._over += [before] * bool(before)
    self._shot, self._every = self._shot[len(before) :], 1 / FIRST_FPS

  def frames(self) -> list[Kept]:
    """All that are kept, in the order of time."""
    return [kept for shot in (*self._over, self._shot) for kept in shot]


def nearest(kept: Sequence[Kept], time: float) -> Kept:
  """The frame that is nearest to a time."""
  return min(kept, key=lambda k: abs(k.time - time))
