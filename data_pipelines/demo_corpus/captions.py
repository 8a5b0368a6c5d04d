"""The words of the scenes: a small grammar of several phrasings, written and read back exactly."""

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np

COLORS = {  # Hues at least 38 degrees apart, so that a colour is still known after the VAE.
  'red': (226, 58, 54),
  'yellow': (244, 202, 48),
  'green': (46, 168, 78),
  'cyan': (44, 190, 200),
  'blue': (56, 104, 226),
  'purple': (142, 78, 214),
  'pink': (240, 104, 190),
}
SHAPES = ('circle', 'square', 'triangle', 'star', 'cross', 'ring', 'heart')
STILL = 'still'
MOVES = {'left': (-1, 0), 'right': (1, 0), 'up': (0, -1), 'down': (0, 1)}  # (x, y), y downwards.
SIZES = {'grows': 1, 'shrinks': -1}
TURNS = {'clockwise': 1, 'counterclockwise': -1}
ZOOMS = {'in': 1, 'out': -1}
MOTIONS = (*MOVES, *SIZES, *TURNS)
CAMERAS = (*MOVES, *ZOOMS)
SPEEDS = ('slowly', '', 'fast')
RELATIONS = ('behind', 'in front of', 'above', 'below')
MAX_WORDS = 14  # With start and end 16 tokens, if each word is one.

_PHRASES = {
  STILL: ('stays still',),
  'grows': ('grows', 'gets bigger'),
  'shrinks': ('shrinks', 'gets smaller'),
  **{turn: (f'turns {turn}', f'spins {turn}') for turn in TURNS},
  **{move: (f'moves {move}', f'slides {move}', f'goes {move}') for move in ('up', 'down')},
  **{
    move: (f'moves {move}', f'slides {move}', f'goes {move}', f'moves to the {move}')
    for move in ('left', 'right')
  },
}
_CAMERA = {
  **{move: f'pans {move}' for move in ('left', 'right')},
  **{move: f'tilts {move}' for move in ('up', 'down')},
  **{zoom: f'zooms {zoom}' for zoom in ZOOMS},
}
_MOTION_WORDS = {'bigger': 'grows', 'smaller': 'shrinks', **{name: name for name in MOTIONS}}
_RELATION_WORDS = {
  relation.split()[1 if ' ' in relation else 0]: relation for relation in RELATIONS
}
_OTHER_WORDS = set(
  'a and camera front from gets goes in moves of on out over pans slides spins stays still the '
  'tilts to turns while zooms'.split()
)


@dataclasses.dataclass(frozen=True)
class Words:
  """What a caption says of one thing.

  Attributes:
    color: of COLORS.
    shape: of SHAPES.
    motion: of MOTIONS, relative to the scene, not to the frame; or STILL.
    speed: of SPEEDS.
  """

  color: str
  shape: str
  motion: str = STILL
  speed: str = ''

  @property
  def combination(self) -> tuple[str, str, str]:
    """(colour, shape, motion), of which some are held out."""
    return self.color, self.shape, self.motion


@dataclasses.dataclass(frozen=True)
class Description:
  """What a caption says.

  Attributes:
    things: in the order in which they are named.
    camera: of CAMERAS, or STILL.
    relation: of RELATIONS, of the first thing to the others; or ''.
  """

  things: tuple[Words, ...]
  camera: str = STILL
  relation: str = ''


def vocabulary() -> list[str]:
  """All words that captions are made of, sorted: what a tokenizer should know."""
  words = {*COLORS, *SHAPES, *_MOTION_WORDS, *_RELATION_WORDS, *_OTHER_WORDS, *filter(None, SPEEDS)}
  return sorted(words)


def write(description: Description, rng: np.random.Generator) -> str:
  """A caption of at most MAX_WORDS words, in one of the phrasings."""
  while True:
    caption = _sentence(description, rng)
    if len(caption.split()) <= MAX_WORDS:
      return caption


def write_picture(things: Iterable[Words]) -> str:
  """The caption of a picture, in which nothing moves."""
  return ' and '.join(map(_name, things))


def _sentence(description: Description, rng: np.random.Generator) -> str:
  first, *others = description.things
  clause = _clause(first, rng)
  if description.relation:
    names = ' and '.join(map(_name, others))
    return f'{clause} {description.relation} {names}'
  if others:
    return ' and '.join([clause, *(_clause(other, rng) for other in others)])
  if description.camera == STILL:
    return clause
  camera = f'the camera {_CAMERA[description.camera]}'
  forms = [f'{clause} while {camera}', f'{camera} while {clause}']
  if first.motion == STILL:
    towards = {'in': 'on', 'out': 'from'}.get(description.camera, 'over')
    forms.append(f'{camera} {towards} {_name(first)}')
  return str(rng.choice(forms))


def _name(thing: Words) -> str:
  return f'a {thing.color} {thing.shape}'


def _clause(thing: Words, rng: np.random.Generator) -> str:
  phrases = _PHRASES[thing.motion]
  # The first phrase is as frequent as the others together.
  phrase = phrases[0] if rng.integers(2) else str(rng.choice(phrases))
  if thing.speed == 'slowly' and rng.integers(2):
    phrase = f'slowly {phrase}'
  elif thing.speed:
    phrase = f'{phrase} {thing.speed}'
  return f'{_name(thing)} {phrase}'


def parse(caption: str) -> Description:
  """What a caption of a video or a picture says.

  Raises:
    ValueError: it is none of this grammar's.
  """
  words = caption.split()
  things: list[dict[str, str]] = []
  said = {'camera': STILL, 'relation': ''}
  subject: dict[str, str] = {}  # The thing that is spoken of.
  is_camera = False
  for word, following in itertools.pairwise([*words, '']):
    if word in COLORS and following in SHAPES:
      subject = dict(color=word, shape=following, motion=STILL, speed='')
      things.append(subject)
      is_camera = False
    elif word in SHAPES and subject and subject.get('shape') == word:
      continue
    elif word == 'camera':
      subject, is_camera = {}, True
    elif word in _MOTION_WORDS and subject.get('motion') == STILL:
      subject['motion'] = _MOTION_WORDS[word]
    elif word in CAMERAS and is_camera and said['camera'] == STILL:
      said['camera'] = word
    elif word in SPEEDS and subject.get('speed') == '':
      subject['speed'] = word
    elif word in _RELATION_WORDS:
      said['relation'] = _RELATION_WORDS[word]
    elif word not in _OTHER_WORDS:
      raise ValueError(
        f'caption {caption!r} is no scene of the demo corpus: {word!r} does not fit.'
      )
  if not things:
    raise ValueError(f'caption {caption!r} is no scene of the demo corpus: it names no shape.')
  return Description(tuple(Words(**thing) for thing in things), **said)
