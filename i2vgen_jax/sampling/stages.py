"""Trained stages as functions from an image and a caption to a video, and lists of such pairs."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from i2vgen_jax import checkpoint
from i2vgen_jax import components as components_lib
from i2vgen_jax.sampling import generate as generate_lib
from i2vgen_jax.sampling import video_file
from i2vgen_jax.training import data

SEPARATOR = '|||'  # VGen's lists: image|||caption.


@dataclasses.dataclass(frozen=True)
class Stage:
  """A trained run and the videos that it makes: base stages of noise, refinements of videos."""

  config: Any
  components: components_lib.Components
  params: Any
  frozen: Any
  generate: Callable
  frames: int
  height: int
  width: int
  fps: float
  negative_prompt: str

  @property
  def refines(self):
    """Whether it starts from a video."""
    return bool(self.config.refine.levels)

  def run(self, image, caption, seed, video_FHWC=None):
    """uint8 (F, H, W, 3) of a PIL image and a caption; of a video too, where the stage refines."""
    inputs = generate_lib.prepare_inputs(
      self.components,
      [image],
      [caption],
      height=self.height,
      width=self.width,
      fps=self.fps,
      negative_prompt=self.negative_prompt,
    )
    if self.refines:
      inputs['video'] = np.asarray(video_FHWC)[None]
    noise_BFHWC = generate_lib.start_noise(
      self.components, seed, 1, self.frames, self.height, self.width, stage=int(self.refines)
    )
    _, video_BFHWC = self.generate(self.params, self.frozen, inputs, noise_BFHWC)
    return np.asarray(video_BFHWC[0])


def load_stage(
  workdir, *, weights='ema', step=None, seed=0, frames=None, height=None, width=None, fps=None,
  negative_prompt=None, overrides=(),
):  # fmt: skip
  """A stage of a run's weights; what is None is the run's own.

  Args:
    workdir: of the run.
    weights: 'ema' or 'raw'.
    step: checkpoint; default the newest.
    seed: of the noise that a sampler adds.
    frames, height, width, fps: of the videos; default the run's sampling bucket.
    negative_prompt: what to move away from.
    overrides: field of config.sample -> value or None.

  Raises:
    ValueError: no such run, or settings that cannot be.
  """
  config, built, mesh, params, frozen = components_lib.load_run(
    workdir, weights, step, jax.local_devices()[:1]
  )
  bucket = data.sample_bucket(config, data.make_buckets(config, built))
  given = dict(frames=frames, height=height, width=width, fps=fps)
  size = {name: getattr(bucket, name) if value is None else value for name, value in given.items()}
  generate_lib.check_size(built, size['frames'], size['height'], size['width'])
  if size['fps'] <= 0:
    raise ValueError(f'fps={size["fps"]} must be above 0.')
  settings = generate_lib.settings(config, **dict(overrides))
  return Stage(
    config=config,
    components=built,
    params=params,
    frozen=frozen,
    generate=generate_lib.make_generate(built, mesh, seed=seed, **settings),
    negative_prompt=config.negative_prompt if negative_prompt is None else negative_prompt,
    **size,
  )


def check_stages(workdir, refine_workdir=None):
  """Raises ValueError if the first run makes nothing of noise, or the second refines nothing.

  From their configs alone: before anything is loaded.
  """
  if checkpoint.read_config(workdir).refine.levels:
    raise ValueError(
      f'--workdir={workdir} is a refinement stage: give the base stage there, and this one to '
      '--refine_workdir.'
    )
  if refine_workdir and not checkpoint.read_config(refine_workdir).refine.levels:
    raise ValueError(
      f'--refine_workdir={refine_workdir} is no refinement stage: its config.refine.levels is 0.'
    )


def make_folder(path):
  """Makes the folder that videos are written to; raises ValueError if it cannot be."""
  try:
    epath.Path(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(f'folder {path} cannot be made: {error}. Check --output.') from error


def make_video(stages, image, caption, seed, path):
  """Runs the stages one after the other and writes the last one's mp4."""
  video_FHWC = None
  for stage in stages:
    video_FHWC = stage.run(image, caption, seed, video_FHWC)
    logging.info('%d frames of %dx%d', stage.frames, stage.width, stage.height)
  video_file.write_mp4(path, video_FHWC, stages[-1].fps)
  logging.info('%d frames at %g fps in %s', len(video_FHWC), stages[-1].fps, path)


def make_list(stages, path, folder, seed, part=0, num_parts=1):
  """A video for every line of a list, named by its number and its image; what is there is skipped.

  Args:
    stages: to run.
    path: list of `image|||caption` lines; '#' begins a comment line.
    folder: to write to.
    seed: of every video: a line's is the one that it would have alone.
    part: which of the lines: those whose number is `part` modulo `num_parts`.
    num_parts: among how many such commands the lines are split.

  Raises:
    ValueError: at the end, naming all lines that failed and why; or an unreadable list.
  """
  lines = read_list(path)[part::num_parts]
  make_folder(folder)
  failed = []
  for done, (number, line) in enumerate(lines):
    try:
      image_path, caption = split_line(line, pathlib.Path(path).parent)
      output = epath.Path(folder) / f'{number:04d}_{image_path.stem}.mp4'
      if output.exists():
        logging.info('%s is there: skipped', output)
        continue
      make_video(stages, generate_lib.open_image(image_path), caption, seed, output)
    except (ValueError, OSError) as error:
      logging.error('line %d: %s', number, error)
      failed.append(f'line {number}: {error}')
    logging.info('%d of %d lines', done + 1, len(lines))
  if failed:
    raise ValueError(
      f'{len(failed)} of {len(lines)} lines of {path} failed:\n  ' + '\n  '.join(failed)
    )


def read_list(path):
  """[(line number from 1, line)] without comments and empty lines; raises ValueError."""
  try:
    text = pathlib.Path(path).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f'list {path} cannot be read: {error}.') from error
  lines = [
    (number, line.strip())
    for number, line in enumerate(text.splitlines(), 1)
    if line.strip() and not line.lstrip().startswith('#')
  ]
  if not lines:
    raise ValueError(f'list {path} holds no image{SEPARATOR}caption line.')
  return lines


def split_line(line, folder):
  """(image path, caption); a path that is not found as given is looked for beside the list."""
  image, separator, caption = line.partition(SEPARATOR)
  if not separator or not image.strip() or not caption.strip():
    raise ValueError(f'{line!r} is not image{SEPARATOR}caption.')
  given = pathlib.Path(image.strip())
  return given if os.path.exists(given) else folder / given, caption.strip()
