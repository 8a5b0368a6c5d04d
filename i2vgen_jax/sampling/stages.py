"""Trained stages as functions from an image and a caption to a video, and lists of such pairs."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import PIL.Image
from absl import logging
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.media import pictures
from i2vgen_jax import checkpoint
from i2vgen_jax import session as session_lib
from i2vgen_jax.conditions import base
from i2vgen_jax.sampling import generate as generate_lib
from i2vgen_jax.sampling import video_file

SEPARATOR = '|||'  # VGen's lists: image|||caption.


@dataclasses.dataclass(frozen=True)
class Stage:
  """A trained run that makes videos: a base stage from noise, a refinement stage from videos.

  Attributes:
    session: of the run, with its frozen weights.
    params: of the U-Net.
    bucket: whose shape and rate the videos have; with aspects, see `fitting`.
    settings: of the sampler, see generate.settings.
    generate: made by generate.make_generate.
    negative_prompt: what to move away from.
  """

  session: session_lib.Session
  params: Any
  bucket: buckets_lib.Bucket
  settings: dict
  generate: Callable
  negative_prompt: str

  @property
  def refines(self) -> bool:
    """True if it starts from a video."""
    return bool(self.settings['levels'])

  def __call__(
    self,
    signals: Mapping[str, Mapping],
    noise_BFHWC: jax.Array | np.ndarray,
    video_BFHWC: jax.Array | np.ndarray | None = None,
  ) -> jax.Array:
    """uint8 videos (B, F, H, W, 3).

    Args:
      signals: inputs by signal, see session.of_batch and session.of_request.
      noise_BFHWC: to start from, of generate.start_noise.
      video_BFHWC: uint8, what a refinement stage refines, of any size.
    """
    negative = self.session.negative(self.negative_prompt)
    inputs = generate_lib.Inputs(signals, negative, video_BFHWC if self.refines else None)
    return self.generate(self.params, self.session.frozen, inputs, noise_BFHWC)[1]

  def fitting(self, height: int, width: int) -> 'Stage':
    """The stage at the aspect of its bucket that crops such a picture least, in pixels; itself
    without aspects, or where a size was asked for."""
    return dataclasses.replace(self, bucket=buckets_lib.fitting(self.bucket, height, width))

  def noise(self, seed: int, num_videos: int) -> jax.Array:
    """The noise to start from; see generate.start_noise."""
    size = self.bucket.frames, self.bucket.height, self.bucket.width
    return generate_lib.start_noise(self.session, seed, num_videos, size, int(self.refines))

  def run(
    self,
    image: bytes | PIL.Image.Image,
    caption: str,
    seed: int,
    video_FHWC: np.ndarray | None = None,
    more: Mapping[str, str] | None = None,
  ) -> np.ndarray:
    """uint8 (F, H, W, 3) of a picture and a caption, at the aspect that is nearest to it.

    Args:
      image: the first frame, encoded or decoded already.
      caption: what happens.
      seed: of the noise.
      video_FHWC: what a refinement stage refines; its aspect is kept.
      more: values of the signals' own flags.
    """
    if video_FHWC is None:
      picture = pictures.decode_image(image) if isinstance(image, bytes) else image
      size = picture.height, picture.width
    else:
      size = video_FHWC.shape[1:3]
    stage = self.fitting(*size)
    bucket = stage.bucket
    request = base.Request([image], [caption], bucket.height, bucket.width, bucket.fps, more or {})
    video_BFHWC = None if video_FHWC is None else np.asarray(video_FHWC)[None]
    signals = self.session.of_request(request)
    return np.asarray(stage(signals, stage.noise(seed, 1), video_BFHWC)[0])


def load(
  workdir: epath.PathLike,
  *,
  weights: str = 'ema',
  step: int | None = None,
  seed: int = 0,
  size: Mapping[str, Any] | None = None,
  negative_prompt: str | None = None,
  devices: list | None = None,
  **overrides: Any,
) -> Stage:
  """A stage with a run's weights; an argument that is None leaves the run's own value.

  Args:
    workdir: of the run.
    weights: 'ema' or 'raw'.
    step: checkpoint; default the newest.
    seed: of the noise that a sampler adds.
    size: frames, height, width, fps of the videos; default those of the run's sampling bucket, at
      the aspect that is nearest to each picture if the run has several.
    negative_prompt: what to move away from.
    devices: to sample on; default all.
    **overrides: fields of config.sample, and of config.refine's levels.

  Raises:
    ValueError: there is no such run, or a setting is invalid.
  """
  session = session_lib.open_run(workdir, devices)
  params, _ = checkpoint.load_params(workdir, session.abstract_params(), weights, step)
  bucket = session.sample_bucket()
  given = {name: value for name, value in (size or {}).items() if value is not None}
  if given.get('fps', 1) <= 0:
    raise ValueError(f'fps={given["fps"]} must be above 0.')
  session.check_size(*((vars(bucket) | given)[name] for name in ('frames', 'height', 'width')))
  if 'height' in given or 'width' in given:
    bucket = dataclasses.replace(bucket, framing=None)  # Told: no aspect is chosen.
  settings = generate_lib.settings(session.config, **overrides)
  return Stage(
    session=session.load_frozen(workdir),
    params=params,
    bucket=dataclasses.replace(bucket, **given),
    settings=settings,
    generate=generate_lib.make_generate(session, seed=seed, **settings),
    negative_prompt=session.config.negative_prompt if negative_prompt is None else negative_prompt,
  )


def check_stages(workdir: epath.PathLike, refine_workdir: epath.PathLike | None = None) -> None:
  """Checks by their configs alone, before anything is loaded, that each run has the right place.

  Raises:
    ValueError: the first run is a refinement stage, or the second is none.
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


def make_folder(path: epath.PathLike) -> None:
  """Makes the folder that videos are written to; raises ValueError if that fails."""
  try:
    epath.Path(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(f'folder {path} cannot be made: {error}. Check --output.') from error


def make_video(
  stages: Sequence[Stage],
  image: bytes | PIL.Image.Image,
  caption: str,
  seed: int,
  path: epath.PathLike,
  more: Mapping[str, str] | None = None,
) -> None:
  """Runs the stages one after the other and writes the last one's video.

  Args:
    stages: to run, a base stage first.
    image: the first frame, encoded or decoded already.
    caption: what happens.
    seed: of the noise.
    path: of the video; its ending says what is written, see video_file.write.
    more: values of the signals' own flags.
  """
  video_FHWC: Any = None  # Of the stage before.
  for stage in stages:
    video_FHWC = stage.run(image, caption, seed, video_FHWC, more)
    logging.info('%d frames of %dx%d', *(video_FHWC.shape[i] for i in (0, 2, 1)))
  fps = stages[-1].bucket.fps
  video_file.write(path, video_FHWC, fps)
  logging.info('%d frames at %g fps in %s', len(video_FHWC), fps, path)


def make_list(
  stages: Sequence[Stage],
  path: epath.PathLike,
  folder: epath.PathLike,
  seed: int,
  part: int = 0,
  num_parts: int = 1,
  more: Mapping[str, str] | None = None,
) -> None:
  """Makes a video for every line of a list, named by its number and its image; skips those that
  exist.

  Args:
    stages: to run, a base stage first.
    path: list of `image|||caption` lines; '#' begins a comment line.
    folder: to write to.
    seed: of the noise, the same for every line: each video is the one that its line alone gives.
    part: which of the lines: those whose number is `part` modulo `num_parts`.
    num_parts: among how many such commands the lines are split.
    more: values of the signals' own flags, the same for all lines.

  Raises:
    ValueError: the list is unreadable; or lines failed: after the last one, all are named with the
      reason.
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
      make_video(stages, pictures.read_image(image_path), caption, seed, output, more)
    except (ValueError, OSError) as error:
      logging.error('line %d: %s', number, error)
      failed.append(f'line {number}: {error}')
    logging.info('%d of %d lines', done + 1, len(lines))
  if failed:
    raise ValueError(
      f'{len(failed)} of {len(lines)} lines of {path} failed:\n  ' + '\n  '.join(failed)
    )


def read_list(path: epath.PathLike) -> list[tuple[int, str]]:
  """[(line number from 1, line)] without comments and empty lines.

  Raises:
    ValueError: the file is unreadable, or has no line.
  """
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


def split_line(line: str, folder: pathlib.Path) -> tuple[pathlib.Path, str]:
  """(image path, caption); a path that does not exist as given is one in the list's folder.

  Raises:
    ValueError: the line is not image|||caption.
  """
  image, separator, caption = line.partition(SEPARATOR)
  if not separator or not image.strip() or not caption.strip():
    raise ValueError(f'{line!r} is not image{SEPARATOR}caption.')
  given = pathlib.Path(image.strip())
  return given if os.path.exists(given) else folder / given, caption.strip()
