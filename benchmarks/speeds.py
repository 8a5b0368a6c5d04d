"""How far a shape goes when it is asked to go slowly and fast, of a model of the scenes.

  python -m benchmarks.speeds --workdir=scenes/run --corpus=scenes/corpus/sealed [--num_examples=64]

Each held-out clip in which one shape goes somewhere before a camera that stands still gives its
first frame and its caption, said slowly and fast: by the word in the caption, by the number
(`sample --motion`), and by both. The numbers are medians of the run's own held-out clips of that
speed. Prints how many times as far the fast ones go, over all clips, with an interval of 95 % by
bootstrap; of real clips it is 3.
"""

from absl import flags

from i2vgen_jax.process import cli, run_flags

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  run_flags.define()
  flags.DEFINE_string('corpus', None, "Folder of an ingested corpus; default the run's corpora.")
  flags.DEFINE_integer(
    'num_examples', 64, 'Number of held-out clips that are asked.', lower_bound=1
  )
  flags.mark_flags_as_required(['workdir'])
  cli.run(__file__)

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from data_pipelines.demo_corpus import captions
from i2vgen_jax.conditions import base
from i2vgen_jax.evaluation import scenes
from i2vgen_jax.sampling import held_out, stage_flags, stages

READ = 8  # Clips are read for each that is asked: so many are of other kinds.
SPEEDS = ('slowly', 'fast')
TRUE_RATIO = 3.0


def main() -> None:
  """Samples, measures, prints."""
  given = flags.FLAGS
  [stage] = stage_flags.load(given)
  num_read = READ * given.num_examples
  own = held_out.clips(stage.session, stage.bucket, num_read)
  motion = {speed: median_motion(own, speed) for speed in SPEEDS}
  read = held_out.clips(stage.session, stage.bucket, num_read, corpus=given.corpus)
  rows = [i for i, text in enumerate(read['caption']) if goes_somewhere(text)]
  images = [PIL.Image.fromarray(read['video'][i, 0]) for i in rows[: given.num_examples]]
  texts = [read['caption'][i] for i in rows[: given.num_examples]]
  found: dict[str, Any] = dict(motion=motion, num_examples=len(texts), real=TRUE_RATIO)
  for name, says, numbers in (
    ('word', True, dict.fromkeys(SPEEDS)), ('number', False, motion), ('both', True, motion)
  ):  # fmt: skip
    distances = {
      speed: sample_distances(
        stage,
        images,
        [say(text, speed if says else '') for text in texts],
        numbers[speed],
        given.seed,
      )
      for speed in SPEEDS
    }
    found[name] = ratio(distances['slowly'], distances['fast'], given.seed)
  print(json.dumps(found))


def goes_somewhere(caption: str) -> bool:
  """Whether it is of one shape that goes somewhere, before a camera that stands still."""
  wanted = captions.parse(caption)
  [first, *others] = wanted.things
  return first.motion in captions.MOVES and not others and wanted.camera == captions.STILL


def say(caption: str, speed: str) -> str:
  """The caption in its first phrasing, at another speed."""
  wanted = captions.parse(caption)
  thing = dataclasses.replace(wanted.things[0], speed=speed)
  phrase = f'a {thing.color} {thing.shape} moves {thing.motion} {speed}'.strip()
  assert captions.parse(phrase) == dataclasses.replace(wanted, things=(thing,))
  return phrase


def median_motion(batch: Mapping[str, Any], speed: str) -> float:
  """Of the clips like those that are asked, at a speed: diagonals per second.

  Raises:
    ValueError: the corpus was not curated, so that no clip's motion is known.
  """
  found = [
    value
    for text, value in zip(batch['caption'], batch['motion'], strict=True)
    if goes_somewhere(text) and captions.parse(text).things[0].speed == speed
  ]
  if not np.isfinite(found).all() or not found:
    raise ValueError("the motion of the run's held-out clips is unknown: curate its corpus.")
  return float(np.median(found))


def sample_distances(
  stage: stages.Stage,
  images: Sequence[PIL.Image.Image],
  texts: Sequence[str],
  motion: float | None,
  seed: int,
) -> np.ndarray:
  """(N,) pixels that the shapes go; see scenes.distance."""
  size = stage.bucket.height, stage.bucket.width, stage.bucket.fps
  more = {} if motion is None else {'motion': str(motion)}
  signals = stage.session.of_request(base.Request(images, texts, *size, more))
  arrays = signals, np.asarray(stage.noise(seed, len(texts))), None
  made = []
  for part, count in held_out.parts(arrays, len(texts), held_out.BATCH, stage.session.mesh):
    made.extend(np.asarray(stage(*part))[:count])
  return np.array([scenes.distance(*pair) for pair in zip(made, texts, strict=True)])


def ratio(slow_N: np.ndarray, fast_N: np.ndarray, seed: int) -> dict[str, float]:
  """The fast ones' way by the slow ones', with its interval."""
  rows = np.random.default_rng(seed).integers(0, len(slow_N), (1000, len(slow_N)))
  low, high = np.percentile(fast_N[rows].sum(1) / slow_N[rows].sum(1), (2.5, 97.5))
  return dict(ratio=fast_N.sum() / slow_N.sum(), low=low, high=high)
