"""The kinds of demo corpus: what their examples show, and which are held out."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.demo_corpus import captions, painting, scenes, shapes, staging


class Example(NamedTuple):
  """Frames uint8 (F, H, W, 3), of a picture one; the caption; what is known of it, if written."""

  frames: np.ndarray
  caption: str
  truth: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Kind:
  """How a kind's examples are made, each from (seed, number, side in pixels) alone.

  Attributes:
    size: side of the square frames in pixels.
    counts: videos to train on, held-out videos and pictures, unless others are asked for.
    clip: makes a video.
    picture: makes a picture.
    held_out: (training videos, whether sealed) -> the number of the first held-out video.
  """

  size: int
  counts: dict[str, int]
  clip: Callable[[int, int, int], Example]
  picture: Callable[[int, int, int], Example]
  held_out: Callable[[int, bool], int]


def _shape_clip(seed: int, number: int, size: int) -> Example:
  rng = np.random.default_rng((seed, 0, number))
  frames, caption, _ = shapes.render_video(rng, shapes.attributes_of(number), size)
  return Example(frames, caption, None)


def _shape_picture(seed: int, number: int, size: int) -> Example:
  rng = np.random.default_rng((seed, 1, number))
  image, caption, _ = shapes.render_image(rng, shapes.attributes_of(number), size)
  return Example(image[None], caption, None)


def _shapes_held_out(num_videos: int, sealed: bool) -> int:
  if sealed:
    raise ValueError("the kind 'shapes' has no sealed clips: add --kind=scenes.")
  return num_videos


def _scene_clip(seed: int, number: int, size: int) -> Example:
  scene = staging.draw(seed, number)
  caption = captions.write(scene.describe(), np.random.default_rng((seed, number, 2)))
  split = scenes.split_of(number)
  held_out = frozenset() if split == 'train' else scenes.held_out_combinations(split)
  truth = dict(caption=caption, fps=scenes.FPS, num_frames=scenes.NUM_FRAMES)
  truth |= dict(combination_is_held_out=scene.things[0].combination in held_out, **scene.truth())
  return Example(painting.paint_clip(scene, size), caption, truth)


def _scene_picture(seed: int, number: int, size: int) -> Example:
  scene = staging.draw_picture(seed, number)
  frames = painting.paint_clip(scene, size, num_frames=1)
  return Example(frames, captions.write_picture(scene.describe().things), None)


def _scenes_held_out(num_videos: int, sealed: bool) -> int:
  split = 'sealed' if sealed else 'val'
  if num_videos > scenes.OFFSETS['val']:
    raise ValueError(f'num_videos={num_videos} should be <= {scenes.OFFSETS["val"]}.')
  return scenes.OFFSETS[split]


KINDS = {
  'shapes': Kind(
    shapes.SIZE,
    dict(num_videos=3000, num_validation=144, num_images=1000),
    _shape_clip,
    _shape_picture,
    _shapes_held_out,
  ),
  'scenes': Kind(
    scenes.SIZE,
    dict(num_videos=3000, num_validation=240, num_images=1000),
    _scene_clip,
    _scene_picture,
    _scenes_held_out,
  ),
}
