"""Draws scenes: what is in them and where, so that captions are true and all stays in the frame."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.demo_corpus import captions, outlines, scenes
from data_pipelines.demo_corpus.captions import MOVES, SIZES, STILL, TURNS
from data_pipelines.demo_corpus.scenes import Scene, Thing

RADIUS = (0.115, 0.145)  # Of a thing alone.
FILMED = (0.1, 0.13)  # By a camera that moves.
SMALLER = (0.095, 0.115)  # Of one among several.
FREE = {'': 0.34, 'fast': 0.45}  # Share of its way that a thing has before it meets another.
MOTION_SHARES = {tuple(MOVES): 0.66, tuple(SIZES): 0.17, tuple(TURNS): 0.17}
CHECKED = np.linspace(0, scenes.SECONDS, 9)
APART = 0.17  # Sides between the heights of two of which one is above or below the other.


def draw(seed: int, number: int) -> Scene:
  """The scene of a clip; every other held-out one shows a combination that is held out."""
  split = scenes.split_of(number)
  index = number - scenes.OFFSETS[split]
  kind = scenes.CYCLE[index % len(scenes.CYCLE)]
  unseen = split != 'train' and (index + index // len(scenes.CYCLE)) % 2 == 0
  rng = np.random.default_rng((seed, number))
  while True:
    scene = _propose(rng, kind, split if unseen else '')
    if fits(scene):
      return scene


def draw_picture(seed: int, number: int) -> Scene:
  """A scene of which nothing moves: one to three things anywhere in the frame."""
  rng = np.random.default_rng((seed, number, 1))
  while True:
    count = int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))
    colors = rng.choice(list(captions.COLORS), count, replace=False)
    radii = (0.1, 0.2) if count == 1 else SMALLER
    things = [
      _place(rng, (color, rng.choice(captions.SHAPES), STILL), '', radii) for color in colors
    ]
    scene = _scene(rng, things)
    if fits(scene):
      return scene


def _propose(rng: np.random.Generator, kind: str, split: str) -> Scene:
  """A scene of a kind of CYCLE; with a split, of a combination that it alone shows."""
  if kind == 'one':
    return _scene(rng, [_actor(rng, split, _family(rng), RADIUS, central=True)])
  if kind == 'camera':
    motions = (STILL,) if not split and rng.random() < 0.7 else tuple(MOVES)
    thing = _actor(rng, split, motions, FILMED, speeds=('',), central=True)
    return _scene(rng, [thing], camera=str(rng.choice(captions.CAMERAS)))
  if kind == 'occlusion':
    return _occlusion(rng, split)
  actor = _actor(rng, split, _family(rng), SMALLER)
  if kind == 'two' and rng.random() < 0.6:
    motion = STILL if rng.integers(2) else str(rng.choice(captions.MOTIONS))
    return _scene(rng, [actor, _extra(rng, [actor], motion)])
  others = [_extra(rng, [actor], STILL)]
  if kind == 'three':
    others.append(_extra(rng, [actor, *others], STILL))
  return _scene(rng, [actor, *others], relation=str(rng.choice(['above', 'below'])))


def _occlusion(rng: np.random.Generator, split: str) -> Scene:
  """One thing goes behind or in front of another, which it reaches about half-way."""
  actor = _actor(rng, split, tuple(MOVES), SMALLER, speeds=('', 'fast'))
  other = _extra(rng, [actor], STILL)
  right, down = MOVES[actor.motion]
  apart = FREE[actor.speed] * actor.rate * scenes.SECONDS
  apart += actor.radius * outlines.extent(actor.shape, right, down)
  apart += other.radius * outlines.extent(other.shape, -right, -down)
  direction = np.array([right, down])
  start = 0.5 - direction * apart / 2 + rng.uniform(-0.05, 0.05, 2)
  end = start + direction * apart + direction[::-1] * rng.uniform(-0.03, 0.03)
  things = _move_to(actor, start), _move_to(other, end)
  return _scene(rng, things, relation=str(rng.choice(['behind', 'in front of'])))


def _scene(
  rng: np.random.Generator, things: Sequence[Thing], camera: str = STILL, relation: str = ''
) -> Scene:
  backdrops = scenes.BACKDROPS if camera == STILL else scenes.TEXTURED
  return Scene(
    tuple(things), camera, relation, str(rng.choice(backdrops)), int(rng.integers(2**31))
  )


def _family(rng: np.random.Generator) -> tuple[str, ...]:
  families = list(MOTION_SHARES)
  return families[rng.choice(len(families), p=list(MOTION_SHARES.values()))]


@functools.cache
def _choices(split: str, motions: tuple[str, ...]) -> list[tuple[str, str, str]]:
  """Combinations of some motions that a split alone shows, or with '' all that training shows."""
  held_out = {name: scenes.held_out_combinations(name) for name in ('val', 'sealed')}
  if split:
    return [c for c in scenes.combinations() if c in held_out[split] and c[2] in motions]
  known = set(scenes.combinations()) - held_out['val'] - held_out['sealed']
  if motions == (STILL,):
    return [(color, shape, STILL) for color in captions.COLORS for shape in captions.SHAPES]
  return sorted(c for c in known if c[2] in motions)


def _actor(
  rng: np.random.Generator,
  split: str,
  motions: tuple[str, ...],
  radii: tuple[float, float],
  speeds: Sequence[str] = captions.SPEEDS,
  central: bool = False,
) -> Thing:
  """The first thing of a caption, whose combination is one of `_choices`."""
  motion = str(rng.choice(motions))
  choices = _choices(split, (motion,)) or _choices(split, motions)
  combination = choices[rng.integers(len(choices))]
  speed = '' if motion == STILL else str(rng.choice(speeds))
  thing = _place(rng, combination, speed, radii)
  return _move_to(thing, 0.5 + rng.uniform(-scenes.JITTER, scenes.JITTER, 2)) if central else thing


def _extra(rng: np.random.Generator, others: Sequence[Thing], motion: str) -> Thing:
  """A thing of another colour, of no combination that is held out."""
  taken = {thing.color for thing in others}
  choices = [c for c in _choices('', (motion,)) if c[0] not in taken]
  speed = '' if motion == STILL else str(rng.choice(captions.SPEEDS))
  return _place(rng, choices[rng.integers(len(choices))], speed, SMALLER)


def _place(
  rng: np.random.Generator,
  combination: tuple[str, str, str],
  speed: str,
  radii: tuple[float, float],
) -> Thing:
  color, shape, motion = map(str, combination)
  x, y = rng.uniform(radii[0], 1 - radii[0], 2)
  return Thing(color, shape, motion, speed, float(x), float(y), float(rng.uniform(*radii)))


def _move_to(thing: Thing, place: np.ndarray) -> Thing:
  return dataclasses.replace(thing, x=float(place[0]), y=float(place[1]))


def fits(scene: Scene) -> bool:
  """Whether all things stay whole in the frame, apart, and as the caption relates them."""
  is_apart = scene.relation not in ('behind', 'in front of')
  for seconds in CHECKED:
    things = scene.at(seconds)
    for thing in things:
      reach = outlines.REACH * thing.radius
      if not reach < min(thing.x, thing.y, 1 - thing.x, 1 - thing.y):
        return False
    for i, one in enumerate(things):
      for other in things[:i]:
        reach = outlines.REACH * (one.radius + other.radius) + scenes.GAP
        if is_apart and np.hypot(one.x - other.x, one.y - other.y) < reach:
          return False
    first, *others = things
    for other in others:
      down = first.y - other.y
      if scene.relation == 'above' and down > -APART or scene.relation == 'below' and down < APART:
        return False
  return True
