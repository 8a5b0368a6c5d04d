"""The kind `scenes`: one to three shaded shapes that move, grow or turn before a filmed backdrop.

A scene is a few numbers, from which its frames, its caption and its truth follow. Lengths are
fractions of the frame's side, times are seconds; all rates are constant, so that any window of a
clip shows the same speed. With one moving thing, the first frame does not tell what it will do.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any

from data_pipelines.demo_corpus import captions, outlines
from data_pipelines.demo_corpus.captions import MOVES, SIZES, STILL, TURNS, ZOOMS

SIZE = 128  # Pixels of the source.
NUM_FRAMES = 32
FPS = 16
SECONDS = (NUM_FRAMES - 1) / FPS
# The first number of each split. A clip is drawn from (seed, its number) alone.
OFFSETS = {'train': 0, 'val': 1_000_000, 'sealed': 2_000_000}

# Without 'slowly' and 'fast': sides per second, logarithm of the size per second, radians per
# second. The three speeds are a factor of the square root of three apart.
MOVE_RATE, GROW_RATE, TURN_RATE = 0.085, 0.21, math.radians(52)
SPEED_FACTORS = {'slowly': 3**-0.5, '': 1.0, 'fast': 3**0.5}
PAN_RATE, ZOOM_RATE = 0.073, 0.17

BACKDROPS = ('plain', 'mottled', 'dots', 'terrazzo')
TEXTURED = BACKDROPS[1:]  # On which one sees the camera move.
# Twelve of twenty clips show one thing that moves.
CYCLE = (
  'one one camera one occlusion one one two one one '
  'camera one three one one occlusion one two camera one'
).split()  # fmt: skip
JITTER = 0.03  # Of the start around the centre: from there every move stays in the frame.
GAP = 0.02  # Between things that do not touch.


@dataclasses.dataclass(frozen=True)
class Thing(captions.Words):
  """A shape with its place in the first frame.

  Attributes:
    x: of its centroid, from the left.
    y: of its centroid, from the top.
    radius: the unit of its outline.
    angle: radians, clockwise from upright.
  """

  x: float = 0.5
  y: float = 0.5
  radius: float = 0.12
  angle: float = 0.0

  @property
  def rate(self) -> float:
    """How fast it does what its motion says, in the motion's unit per second."""
    unit = MOVE_RATE if self.motion in MOVES else GROW_RATE if self.motion in SIZES else TURN_RATE
    return unit * SPEED_FACTORS[self.speed]


@dataclasses.dataclass(frozen=True)
class Scene:
  """All that a clip shows.

  Attributes:
    things: in the order of the caption.
    camera: of captions.CAMERAS, or STILL.
    relation: of captions.RELATIONS, or ''; the first thing is painted last but if it is 'behind'.
    backdrop: of BACKDROPS.
    backdrop_seed: of its colours and texture.
  """

  things: tuple[Thing, ...]
  camera: str = STILL
  relation: str = ''
  backdrop: str = 'plain'
  backdrop_seed: int = 0

  def describe(self) -> captions.Description:
    """What its caption says."""
    names = [field.name for field in dataclasses.fields(captions.Words)]
    words = (captions.Words(**{n: getattr(thing, n) for n in names}) for thing in self.things)
    return captions.Description(tuple(words), self.camera, self.relation)

  def window(self, seconds: float) -> tuple[float, float, float]:
    """(x, y, zoom) of the camera: the point of the scene in the frame's centre, and its scale."""
    pan_x, pan_y = MOVES.get(self.camera, (0, 0))
    zoom = math.exp(ZOOMS.get(self.camera, 0) * ZOOM_RATE * seconds)
    return 0.5 + pan_x * PAN_RATE * seconds, 0.5 + pan_y * PAN_RATE * seconds, zoom

  def at(self, seconds: float) -> tuple[Thing, ...]:
    """The things as the camera sees them at a time: places and radii are the frame's."""
    camera_x, camera_y, zoom = self.window(seconds)
    seen = []
    for thing in self.things:
      amount = thing.rate * seconds
      move_x, move_y = MOVES.get(thing.motion, (0, 0))
      x, y = thing.x + move_x * amount - camera_x, thing.y + move_y * amount - camera_y
      growth = math.exp(SIZES.get(thing.motion, 0) * amount)
      angle = thing.angle + TURNS.get(thing.motion, 0) * amount
      seen.append(
        dataclasses.replace(
          thing,
          x=0.5 + zoom * x,
          y=0.5 + zoom * y,
          radius=thing.radius * growth * zoom,
          angle=angle,
        )
      )
    return tuple(seen)

  def truth(self) -> dict[str, Any]:
    """The scene as JSON holds it, with each thing's rate."""
    things = [dataclasses.asdict(thing) | dict(rate=thing.rate) for thing in self.things]
    return dataclasses.asdict(self) | dict(things=things)


def combinations() -> list[tuple[str, str, str]]:
  """All (colour, shape, motion) that can be seen: turning a circle cannot."""
  return [
    (color, shape, motion)
    for color, shape, motion in itertools.product(
      captions.COLORS, captions.SHAPES, captions.MOTIONS
    )
    if motion not in TURNS or outlines.SYMMETRY[shape]
  ]


@functools.cache
def held_out_combinations(split: str) -> frozenset[tuple[str, str, str]]:
  """(colour, shape, motion) that no training clip shows together; half of a held-out split does.

  Args:
    split: 'val' or 'sealed', which hold out different ones.
  """
  remainder = {'val': 0, 'sealed': 5}[split]
  held = []
  for combination in combinations():
    lists = (tuple(captions.COLORS), captions.SHAPES, captions.MOTIONS)
    color, shape, motion = (
      known.index(name) for known, name in zip(lists, combination, strict=True)
    )
    if (color + 3 * shape + 5 * motion) % 11 == remainder:
      held.append(combination)
  return frozenset(held)


def split_of(number: int) -> str:
  """The split that a clip's number belongs to."""
  return max((split for split in OFFSETS if OFFSETS[split] <= number), key=OFFSETS.__getitem__)
