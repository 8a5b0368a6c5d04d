"""Aspects: sizes of about as many pixels in place of a bucket's one, so that less is cut away.

A batch has one size, so each aspect is a bucket of its own, and an example goes to the one that
crops it least. Common practice for pictures: NovelAI's aspect ratio bucketing (2022), and SDXL
(Podell et al. 2023, arXiv:2307.01952, Sec. 2.3).
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MULTIPLE = 64  # Of the sides, in pixels: the VAE's 8 times the U-Net's three halvings.
REFINED_MULTIPLE = 16  # In a refinement stage, whose 720 rows are not more either.
MAX_RATIO = 1.15  # Of the most pixels to the fewest: batches of all aspects take about the same.
MAX_CROP = 0.5  # What the bounds are with aspects, unless told.
MAX_ENLARGE = 2.0  # Keeps pictures of 256 pixels a side, of which 448x256 needs 1.75.
# Those of configs/i2v.py:aspects, (height, width).
BASE = ((256, 448), (448, 256), (320, 384), (384, 320))
REASONS = ('max_crop', 'max_enlarge')  # What leaves a source out.
CHUNK = 1 << 20  # Rows that are looked at together: bounds the memory.

Size = tuple[int, int]  # (height, width), pixels.


@dataclasses.dataclass(frozen=True)
class Framing:
  """Which sources a bucket takes by their size.

  Attributes:
    group: name of the config's bucket that this is an aspect of.
    sizes: of all aspects of the group; a source goes to the one that crops it least, of several to
      the first.
    max_crop: largest share of a source's area that may be cut away, in [0, 1); None for no bound.
    max_enlarge: largest factor by which a source may be enlarged; None for no bound.
  """

  group: str
  sizes: tuple[Size, ...]
  max_crop: float | None = None
  max_enlarge: float | None = None

  def __post_init__(self):
    if self.max_crop is not None and not 0 <= self.max_crop <= 1:
      raise ValueError(f'max_crop={self.max_crop} should be in [0, 1], a share of the area.')
    if self.max_enlarge is not None and self.max_enlarge <= 0:
      raise ValueError(f'max_enlarge={self.max_enlarge} should be > 0, a factor.')

  def assign(self, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Number of each source's size, or len(sizes) + number in REASONS of what leaves it out.

    Args:
      heights: int (N,), of the sources, pixels.
      widths: likewise.
    Returns:
      uint8 (N,).
    """
    found = np.empty(len(heights), np.uint8)
    for start in range(0, len(heights), CHUNK):
      part = slice(start, start + CHUNK)
      found[part] = self._assign(np.asarray(heights[part]), np.asarray(widths[part]))
    return found

  def _assign(self, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    kept = np.stack([kept_share(size, heights, widths) for size in self.sizes])
    best = kept.argmax(axis=0)  # The first of equals.
    found = best.astype(np.uint8)
    if self.max_enlarge is not None:
      height, width = np.array(self.sizes)[best].T
      factor = np.maximum(height / heights, width / widths)
      found[factor > self.max_enlarge * (1 + 1e-9)] = len(self.sizes) + 1
    if self.max_crop is not None:
      is_cut = 1 - np.take_along_axis(kept, best[None], axis=0)[0] > self.max_crop + 1e-9
      found[is_cut] = len(self.sizes)
    return found

  def count(
    self, heights: np.ndarray, widths: np.ndarray, counts: np.ndarray | None = None
  ) -> dict[str, int]:
    """How many sources each size takes, by name, and how many each reason leaves out.

    Args:
      heights: int (N,), of the sources, pixels.
      widths: likewise.
      counts: int (N,), how many sources each stands for; 1 if None.
    """
    return self.tally(self.assign(heights, widths), counts)

  def tally(self, assigned: np.ndarray, counts: np.ndarray | None = None) -> dict[str, int]:
    """`count` of what `assign` returned; counts as there."""
    names = [*map(name_of, self.sizes), *REASONS]
    found = np.bincount(assigned, counts, len(names))
    return dict(zip(names, found.astype(int).tolist(), strict=True))


def kept_share(size: Size, height: int | np.ndarray, width: int | np.ndarray) -> float | np.ndarray:
  """Share of a source's area that is left when it is scaled to cover a size and cut; elementwise.

  Equal shares are equal to the bit, wherever this runs.

  Args:
    size: of the cut.
    height: of the source, pixels.
    width: likewise.
  """
  one = np.asarray(height, np.int64) * size[1]
  other = np.asarray(width, np.int64) * size[0]
  return np.minimum(one, other) / np.maximum(one, other)


def content_size(
  height: int | np.ndarray,
  width: int | np.ndarray,
  height_share: float | np.ndarray,
  width_share: float | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """(height, width) of what frames hold within their borders, pixels, int32; elementwise.

  Args:
    height: of the frame, pixels.
    width: likewise.
    height_share: of the frame that the content takes, in (0, 1].
    width_share: likewise.
  """
  heights, widths = (
    np.maximum(1, np.rint(side * np.asarray(share, np.float64))).astype(np.int32)
    for side, share in ((height, height_share), (width, width_share))
  )
  return heights, widths


def nearest(sizes: Sequence[Size], height: int, width: int) -> Size:
  """The size that crops a source least, of several the first.

  Args:
    sizes: to choose from.
    height: of the source, pixels.
    width: likewise.
  """
  return max(sizes, key=lambda size: kept_share(size, height, width))


def name_of(size: Size) -> str:
  """WIDTHxHEIGHT."""
  return f'{size[1]}x{size[0]}'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds --aspects, --max_crop and --max_enlarge, of what a command counts for a run to come."""
  parser.add_argument(
    '--aspects',
    default=','.join(map(name_of, BASE)),
    help='WIDTHxHEIGHT,...: count the examples that each would take, as data.aspects; %(default)s',
  )
  parser.add_argument(
    '--max_crop', type=float, default=MAX_CROP,
    help='share of a picture that may be cut away, for these counts; %(default)s',
  )  # fmt: skip
  parser.add_argument(
    '--max_enlarge',
    type=float,
    default=MAX_ENLARGE,
    help='factor by which one may be enlarged, for these counts; %(default)s',
  )


def given(options: dict[str, Any]) -> Framing | None:
  """Takes the flags of `add_flags` out of a command's options; None where --aspects is ''."""
  sizes = parse(options.pop('aspects'))
  bounds = options.pop('max_crop'), options.pop('max_enlarge')
  return Framing('', sizes, *bounds) if sizes else None


def count_by_media(
  framing: Framing, sizes: Mapping[str, np.ndarray], media: Sequence[str]
) -> dict[str, dict[str, int]]:
  """Framing.count of each kind of media that there is.

  Args:
    framing: what to count.
    sizes: of sidecars.Sidecars.sizes.
    media: kinds, in the order that is wanted.
  """
  found = {}
  for kind in media:
    mine = sizes['media'] == kind
    if mine.any():
      found[kind] = framing.count(*(sizes[name][mine] for name in ('height', 'width', 'num')))
  return found


def text_of(counts: Mapping[str, int]) -> str:
  """What Framing.count found, on one line: the aspects, then what the bounds leave out."""
  taken, out = [], []
  for name, count in counts.items():
    (out if name in REASONS else taken).append(f'{name} {count:,}')
  return f'{", ".join(taken)}; left out by {", ".join(out)}'


def parse(text: str) -> tuple[Size, ...]:
  """The sizes of '448x256,256x448', WIDTHxHEIGHT each; raises ValueError for another text."""
  found = []
  for part in filter(None, text.split(',')):
    width, _, height = part.strip().partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
      raise ValueError(f'aspects={text!r} should be WIDTHxHEIGHT,...: such as 448x256,256x448.')
    found.append((int(height), int(width)))
  return tuple(found)


def check(sizes: Sequence[Any], multiple: int = MULTIPLE) -> tuple[Size, ...]:
  """The aspects of a config's data.aspects, checked.

  Args:
    sizes: (height, width) each.
    multiple: of which the sides should be multiples.
  Raises:
    ValueError: what is no size, sides that are no multiples, a size twice, or pixels too far apart.
  """
  found: list[Size] = []
  for size in sizes:
    if not (
      isinstance(size, (list, tuple)) and len(size) == 2 and all(type(s) is int for s in size)
    ):
      raise ValueError(
        f'data.aspects has {size!r}: give (height, width) of each, ((256, 448), (448, 256)).'
      )
    height, width = size
    for name, side in (('height', height), ('width', width)):
      if side < multiple or side % multiple:
        low = max(multiple, side // multiple * multiple)
        raise ValueError(
          f'data.aspects has {(height, width)}, (height, width): {name}={side} should be a '
          f'multiple of {multiple}, such as {low} or {low + multiple}.'
        )
    if (height, width) in found:
      raise ValueError(f'data.aspects has {(height, width)} twice.')
    found.append((height, width))
  check_pixels(found, 'data.aspects')
  return tuple(found)


def check_pixels(sizes: Sequence[Size], name: str) -> None:
  """Raises ValueError if the pixels of sizes differ by more than MAX_RATIO; `name` is whose."""
  if not sizes:
    return
  low, high = (pick(sizes, key=lambda size: size[0] * size[1]) for pick in (min, max))
  fewest, most = low[0] * low[1], high[0] * high[1]
  if most > fewest * MAX_RATIO:
    raise ValueError(
      f'{name}: {name_of(high)} has {most:,} pixels and {name_of(low)} {fewest:,}, which is '
      f'{most / fewest:.2f} times fewer. One batch size and rate serve all aspects: give sizes '
      f'(height, width) whose pixels lie within {MAX_RATIO - 1:.0%} of each other.'
    )
