"""Trained stages as functions from an image and a caption to a video."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import PIL.Image
from absl import logging
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.media import pictures
from i2vgen_jax import session as session_lib
from i2vgen_jax.conditions import base
from i2vgen_jax.models import lora
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.process import output_folder
from i2vgen_jax.sampling import generate as generate_lib
from i2vgen_jax.sampling import steps as steps_lib
from i2vgen_jax.sampling import stepwise as stepwise_lib
from i2vgen_jax.sampling import video_file
from i2vgen_jax.stored import run_config, trained

TOLD_CUT = 0.1  # Share of a picture; of less that is cut away, nothing is said.


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
    step: updates done, of the weights; 0 if they were loaded.
    rests: whether the weights lie in the host's memory but while the stage works.
    steps: that `generate` tells of its network calls.
    stepwise: the same computation, call by call, for `run`; None makes it for each video.
  """

  session: session_lib.Session
  params: Any
  bucket: buckets_lib.Bucket
  settings: dict
  generate: Callable
  negative_prompt: str
  step: int = 0
  rests: bool = False
  steps: steps_lib.Steps = dataclasses.field(default_factory=steps_lib.Steps)
  stepwise: Callable | None = None

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
    return self.generate(*self._weights(), self._inputs(signals, video_BFHWC), noise_BFHWC)[1]

  def _weights(self) -> tuple[Any, Any]:
    weights = self.params, self.session.frozen
    if self.rests:
      weights = jax.device_put(weights, mesh_lib.replicated(self.session.mesh))
    return weights

  def _inputs(self, signals: Mapping[str, Mapping], video_BFHWC: Any) -> generate_lib.Inputs:
    negative = self.session.negative(self.negative_prompt)
    return generate_lib.Inputs(signals, negative, video_BFHWC if self.refines else None)

  def fitting(self, height: int, width: int) -> 'Stage':
    """The stage at the aspect of its bucket that crops such a picture least; itself without any."""
    return dataclasses.replace(self, bucket=buckets_lib.fitting(self.bucket, height, width))

  def noise(self, seed: int, num_videos: int) -> jax.Array:
    """The noise to start from; see generate.start_noise."""
    size = self.bucket.frames, self.bucket.height, self.bucket.width
    return generate_lib.start_noise(self.session, seed, num_videos, size, int(self.refines))

  def run(
    self,
    image: pictures.Encoded | PIL.Image.Image,
    caption: str,
    seed: int,
    video_FHWC: np.ndarray | None = None,
    more: Mapping[str, str] | None = None,
    watch: stepwise_lib.Watch | None = None,
  ) -> np.ndarray:
    """uint8 (F, H, W, 3) of a picture and a caption, at the aspect that is nearest to it.

    Args:
      image: the first frame, encoded or decoded already.
      caption: what happens.
      seed: of the noise.
      video_FHWC: what a refinement stage refines; its aspect is kept.
      more: values of the signals' own flags.
      watch: told of each network call; by default a bar is.
    """
    size = (image.height, image.width) if video_FHWC is None else video_FHWC.shape[1:3]
    stage = self.fitting(*size)
    bucket = stage.bucket
    cut = cut_away(size, (bucket.height, bucket.width))
    if video_FHWC is None and cut > TOLD_CUT:
      logging.warning(
        'The picture, %dx%d, has another shape than the video, %dx%d: %.0f %% of it is cut away at '
        'its edges. --width and --height ask for another.',
        *size[::-1], bucket.width, bucket.height, 100 * cut,
      )  # fmt: skip
    request = base.Request([image], [caption], bucket.height, bucket.width, bucket.fps, more or {})
    video_BFHWC = None if video_FHWC is None else np.asarray(video_FHWC)[None]
    inputs = stage._inputs(self.session.of_request(request), video_BFHWC)
    stepwise = self.stepwise or stepwise_lib.Stepwise(self.session)
    given = stage._weights(), inputs, stage.noise(seed, 1), self.settings, seed
    with stepwise_lib.bar() as bar:
      return np.asarray(stepwise(*given, watch or bar)[0])


def cut_away(picture: Sequence[int], video: Sequence[int]) -> float:
  """Share of a picture that is cut away at its edges for a video; both are (height, width)."""
  shapes = picture[0] / picture[1], video[0] / video[1]
  return 1 - min(shapes) / max(shapes)


def load(
  workdir: epath.PathLike,
  *,
  weights: str = 'ema',
  step: int | None = None,
  seed: int = 0,
  size: Mapping[str, Any] | None = None,
  negative_prompt: str | None = None,
  devices: list | None = None,
  shares: bool = False,
  rests: bool = False,
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
    shares: whether devices share each video, as many as can; else they split a batch.
    rests: as of Stage.
    **overrides: fields of config.sample, and of config.refine's levels.

  Raises:
    ValueError: there is no such run, or a setting is invalid.
  """
  session, bucket, settings = prepare(workdir, size, devices, seed, **overrides)
  params, step = trained.load_params(workdir, session.abstract_params(), weights, step)
  if run_config.still_grows(session.config, step):
    session = dataclasses.replace(session, step=step)
  if shares:
    session = share(session, bucket)
    params = jax.device_put(params, mesh_lib.replicated(session.mesh))
  params, session = session.held(params), session.load_frozen(workdir)
  networks = {name: session.held(session.frozen[name]) for name in session.networks}
  session = dataclasses.replace(session, frozen=session.frozen | networks)
  if rests:
    params, frozen = jax.device_get((params, session.frozen))
    session = dataclasses.replace(session, frozen=frozen)
  steps = steps_lib.Steps()
  return Stage(
    session,
    params,
    bucket,
    settings,
    generate=generate_lib.make_generate(session, seed=seed, steps=steps, **settings),
    negative_prompt=session.config.negative_prompt if negative_prompt is None else negative_prompt,
    step=step,
    rests=rests,
    steps=steps,
    stepwise=stepwise_lib.Stepwise(session),
  )


def prepare(
  workdir: epath.PathLike,
  size: Mapping[str, Any] | None = None,
  devices: list | None = None,
  seed: int = 0,
  **overrides: Any,
) -> tuple[session_lib.Session, buckets_lib.Bucket, dict[str, Any]]:
  """(session without weights, bucket of the videos, settings of the sampler) of a stage.

  The arguments are as of `load`. Raises ValueError as that does, before weights are read.
  """
  session = session_lib.open_run(workdir, devices)
  return session, *prepare_request(session, size, seed, **overrides)


def prepare_request(
  session: session_lib.Session,
  size: Mapping[str, Any] | None = None,
  seed: int = 0,
  **overrides: Any,
) -> tuple[buckets_lib.Bucket, dict[str, Any]]:
  """(bucket of the videos, settings of the sampler) of a session, as `prepare`."""
  bucket = session.sample_bucket()
  given = {name: value for name, value in (size or {}).items() if value is not None}
  if not 0 < given.get('fps', 1) < math.inf:
    raise ValueError(f'fps={given["fps"]} must be above 0, and finite.')
  session.check_size(*((vars(bucket) | given)[name] for name in ('frames', 'height', 'width')))
  if 'height' in given or 'width' in given:
    bucket = dataclasses.replace(bucket, framing=None)  # Told: no aspect is chosen.
  settings = generate_lib.settings(session.config, **overrides)
  generate_lib.make_generate(session, seed=seed, **settings)
  return dataclasses.replace(bucket, **given), settings


def share(session: session_lib.Session, bucket: buckets_lib.Bucket) -> session_lib.Session:
  """The session on as many of its devices as can share one video of the bucket: they divide its
  frames, and the latent pixels of each level of the U-Net."""
  unet, numbers = lora.bare(session.unet), [bucket.frames]
  for height, width in bucket.framing.sizes if bucket.framing else (bucket.size,):
    height, width = (side // session.autoencoder.downsampling for side in (height, width))
    for _ in unet.block_channels:
      numbers.append(height * width)
      height, width = -(-height // 2), -(-width // 2)
  most = 1 if unet.row_margin else session.mesh.size
  number = max(n for n in range(1, most + 1) if math.gcd(*numbers) % n == 0)
  devices = list(session.mesh.devices.flat[:number])
  sizes = dict(data=1, fsdp=1, context=number, tensor=1)
  return session.on(mesh_lib.make_mesh(sizes, devices))


def make_folder(path: epath.PathLike) -> None:
  """Makes the folder that videos are written to; raises ValueError if nothing can be."""
  output_folder.check_writable(path)
  epath.Path(path).mkdir(parents=True, exist_ok=True)


def make_video(
  stages: Sequence[Stage],
  image: pictures.Encoded | PIL.Image.Image,
  caption: str,
  seed: int,
  path: epath.PathLike,
  more: Mapping[str, str] | None = None,
  watch: stepwise_lib.Watch | None = None,
) -> np.ndarray:
  """Runs the stages one after the other, writes the last one's video, and returns it: uint8
  (F, H, W, 3).

  Args:
    stages: to run, a base stage first.
    image: the first frame, encoded or decoded already.
    caption: what happens.
    seed: of the noise.
    path: of the video; its ending says what is written, see video_file.write.
    more: values of the signals' own flags.
    watch: as of Stage.run, of each stage.
  """
  video_FHWC: Any = None  # Of the stage before.
  for stage in stages:
    video_FHWC = stage.run(image, caption, seed, video_FHWC, more, watch)
    logging.info('%d frames of %dx%d', *(video_FHWC.shape[i] for i in (0, 2, 1)))
  fps = stages[-1].bucket.fps
  video_file.write(path, video_FHWC, fps)
  logging.info('%d frames at %g fps in %s', len(video_FHWC), fps, path)
  return video_FHWC
