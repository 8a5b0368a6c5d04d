"""Chooses a corpus's aspects: the few sizes of about as many pixels that crop its clips least."""

import math

import numpy as np

from data_pipelines.corpus import aspects

MOST = 4  # Each is a program to compile, and splits a small corpus.
LEAST_GAIN = 0.02  # Share of all clips' area that one more size must save from the crop.
SLACK = aspects.MAX_RATIO**0.5  # Of pixels, either way: any two sizes lie within MAX_RATIO.


def near(size: aspects.Size, pixels: int, multiple: int = aspects.MULTIPLE) -> aspects.Size:
  """A size of a shape with at most about `pixels`, of sides that are multiples; or the size itself.

  Args:
    size: (height, width) that gives the shape.
    pixels: most of them; more only by rounding.
    multiple: of both sides.
  """
  height, width = size
  if height * width <= pixels:
    return size
  factor = math.sqrt(pixels / (height * width))
  sides = (max(multiple, multiple * round(side * factor / multiple)) for side in size)
  height, width = sides
  return height, width


def candidates(own: aspects.Size, multiple: int = aspects.MULTIPLE) -> tuple[aspects.Size, ...]:
  """`own` first, then all sizes of about its pixels; `own` alone if its sides are no multiples."""
  if any(side % multiple for side in own):
    return (own,)
  pixels = own[0] * own[1]
  sides = range(multiple, int(pixels * SLACK) // multiple + 1, multiple)
  found = [
    (height, width)
    for height in sides
    for width in sides
    if pixels / SLACK <= height * width <= pixels * SLACK
  ]
  return (own, *(size for size in found if size != own))


def choose(own: aspects.Size, heights: np.ndarray, widths: np.ndarray) -> tuple[aspects.Size, ...]:
  """At most MOST sizes, the most useful first: each saves LEAST_GAIN of the clips' area, or more.

  Args:
    own: (height, width) that says about how many pixels; taken unless another crops less.
    heights: int (N,), of the clips, pixels.
    widths: likewise.
  """
  sizes = candidates(own)
  kept = np.stack([aspects.kept_share(size, heights, widths) for size in sizes])
  chosen: list[int] = []
  best = np.zeros(kept.shape[1])
  while len(chosen) < MOST:
    means = np.maximum(kept, best).mean(axis=1)
    # The first of equals, so `own` where another is not better.
    index = int((means + LEAST_GAIN * (np.arange(len(sizes)) == 0) * (not chosen)).argmax())
    if chosen and means[index] - best.mean() < LEAST_GAIN:
      break
    chosen.append(index)
    best = np.maximum(best, kept[index])
  return tuple(sizes[index] for index in chosen)
