"""Makes a video from an image and a caption: condition, denoise with guidance, decode.

A refinement stage starts from a video with noise on it, the base stage from noise alone.

As in the release's inference, guidance moves from {negative prompt, zeros} to {caption, CLIP
image}; the image's latents and the fps are the same on both sides, so that guidance never acts on
them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from i2vgen_jax import session as session_lib
from i2vgen_jax.diffusion import guidance, loss
from i2vgen_jax.diffusion import sampler as samplers
from i2vgen_jax.diffusion import schedule as schedule_lib
from i2vgen_jax.models import video_parts
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.process import ranges
from i2vgen_jax.sampling import calls
from i2vgen_jax.sampling import steps as steps_lib


class Inputs(NamedTuple):
  """The inputs of `generate`.

  Attributes:
    signals: inputs by signal, of session.of_batch or session.of_request.
    negative: of session.negative.
    video: uint8, of any size and with as many frames; a refinement stage refines it.
    step: of the parameters, see session.growth.
  """

  signals: Mapping[str, Mapping[str, jax.Array]]
  negative: Mapping[str, Mapping[str, jax.Array]]
  video: jax.Array | np.ndarray | None = None
  step: jax.Array | None = None


def settings(config: ml_collections.ConfigDict, **overrides: Any) -> dict[str, Any]:
  """The arguments of `make_generate`, from a run's config.

  Args:
    config: of the run.
    **overrides: fields of config.sample, and `levels` and `inversion_steps` of config.refine; None
      leaves the config's.

  Raises:
    ValueError: a number lies outside of its range, or the stage was not trained on so many noise
      levels.
  """
  chosen = {name: config.refine[name] for name in ('levels', 'inversion_steps')}
  chosen |= dict(config.sample) | {k: v for k, v in overrides.items() if v is not None}
  for elsewhere in ('bucket', 'seed'):  # Configs of earlier runs have a seed, which nothing read.
    chosen.pop(elsewhere, None)
  for name, value in overrides.items():
    if value is not None and f'sample.{name}' in ranges.RANGES:
      ranges.check_number(f'sample.{name}', value, name)
  lowest = 1 if config.refine.levels else 0
  if not lowest <= chosen['levels'] <= config.loss.timestep_range[1]:
    raise ValueError(
      f'levels={chosen["levels"]} must be at least 1, of a refinement stage, and lie within the '
      f'noise levels that were trained: {tuple(config.loss.timestep_range)}.'
    )
  return dict(chosen, prediction_type=config.loss.prediction_type)


def make_generate(
  session: session_lib.Session,
  *,
  prediction_type: str,
  num_steps: int,
  guidance_scale: float,
  guidance_rescale: float = 0.0,
  sampler: str = 'ddim',
  spacing: str = 'leading',
  schedule: str = '',
  eta: float = 0.0,
  set_alpha_to_one: bool = True,
  levels: int = 0,
  inversion_steps: int = 0,
  seed: int = 0,
  steps: steps_lib.Steps | None = None,
) -> jax.stages.Wrapped:
  """(params, frozen, inputs, noise_BFHWC) -> (latents_BFHWC float32, video_BFHWC uint8), jitted.

  Args:
    session: of the run, on the mesh that samples; kernels are chosen for it.
    prediction_type: what the U-Net was trained to predict.
    num_steps: of the sampler; 50 in the release.
    guidance_scale: 9 in the release.
    guidance_rescale: see guidance.guided.
    sampler: a name in samplers.KINDS.
    spacing: of timesteps, see samplers.spaced_timesteps.
    schedule: kind of noise schedule to sample on; '' is the one that the run was trained on.
    eta: 0 for deterministic DDIM.
    set_alpha_to_one: see samplers.make_table.
    levels: how many noise levels a refinement stage adds to inputs.video and removes again
      (SDEdit, Meng et al. 2022, arXiv:2108.01073); 0 starts from noise alone.
    inversion_steps: reach that noise level by this many steps of DDIM backwards, under the negative
      prompt, instead of adding noise; 0 adds noise.
    seed: of the noise that `eta` or the sampler adds.
    steps: told of how many network calls there are, and of each.

  `inputs` are Inputs. The image's latents are the posterior's mean.

  Raises:
    ValueError: settings that are unknown or do not fit the schedule.
  """
  chosen = calls.tables(
    session, num_steps=num_steps, sampler=sampler, spacing=spacing, schedule=schedule, eta=eta,
    set_alpha_to_one=set_alpha_to_one, levels=levels, inversion_steps=inversion_steps,
  )  # fmt: skip
  on_call = None
  if steps:
    steps.per_run, on_call = chosen.num_calls, steps.callback

  def generate(params, frozen, inputs, noise_BFHWC):
    batch_size = noise_BFHWC.shape[0]
    conditioning, unconditional = both_sides(session, frozen, inputs, batch_size)
    denoise = denoiser(session, params)
    start_BFHWC = noise_BFHWC
    if levels:
      start_BFHWC = encode_start(session, frozen, inputs.video, noise_BFHWC)
      if chosen.inversion is None:
        timestep = chosen.table['timestep'][0]
        start_BFHWC = with_noise(start_BFHWC, noise_BFHWC, timestep, chosen.schedule)
      else:
        start_BFHWC = samplers.sample(
          functools.partial(denoise, conditioning=unconditional), start_BFHWC, chosen.inversion,
          prediction_type=prediction_type, on_call=on_call,
        )  # fmt: skip
    latents_BFHWC = samplers.sample(
      guidance.guided(denoise, conditioning, unconditional, guidance_scale, guidance_rescale),
      start_BFHWC,
      chosen.table,
      prediction_type=prediction_type,
      keys_B=row_keys(seed, batch_size),
      on_call=on_call,
    )
    return latents_BFHWC, session.autoencoder.decode_video(frozen, latents_BFHWC)

  return jax.jit(mesh_lib.within(session.mesh, generate))


def both_sides(
  session: session_lib.Session, frozen: Any, inputs: Inputs, batch_size: int
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """`conditioning` that guidance moves towards, and that it moves away from."""
  conditioning = session.condition(frozen, inputs.signals)
  unconditional = session.unconditional(frozen, inputs.negative, conditioning)
  growth = session.growth(batch_size, inputs.step)
  return conditioning | growth, unconditional | growth


def denoiser(session: session_lib.Session, params: Any) -> Callable[..., jax.Array]:
  """(noisy_BFHWC, timesteps_B, conditioning) -> prediction_BFHWC, by the U-Net."""

  def denoise(noisy_BFHWC, timesteps_B, conditioning):
    apply = video_parts.split_videos(session.unet.apply)
    return apply({'params': params}, noisy_BFHWC, timesteps_B, conditioning)

  return denoise


def encode_start(
  session: session_lib.Session, frozen: Any, video_BFHWC: Any, noise_BFHWC: jax.Array
) -> jax.Array:
  """Latents of a uint8 video of any size, brought to the size of `noise_BFHWC`."""
  codec = session.autoencoder
  size = [codec.downsampling * side for side in noise_BFHWC.shape[2:4]]
  return codec.encode_video(frozen, resize(video_BFHWC, *size))


def with_noise(
  latents_BFHWC: jax.Array,
  noise_BFHWC: jax.Array,
  timestep: jax.Array | np.ndarray,
  schedule: schedule_lib.NoiseSchedule,
) -> jax.Array:
  """z at a timestep, the same for all videos."""
  timesteps_B = jnp.full(latents_BFHWC.shape[:1], timestep)
  return loss.add_noise(latents_BFHWC, noise_BFHWC, timesteps_B, schedule)


def resize(video_BFHWC: jax.Array, height: int, width: int) -> jax.Array:
  """uint8 -> uint8 of another size, bilinear; averaged where it shrinks.

  Args:
    video_BFHWC: uint8.
    height: pixels.
    width: pixels.
  """
  shape = (*video_BFHWC.shape[:2], height, width, video_BFHWC.shape[-1])
  resized = jax.image.resize(video_BFHWC.astype(jnp.float32), shape, 'linear')
  return jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8)


def row_keys(seed: int, num: int) -> jax.Array:
  """One key per sample from (seed, row)."""
  return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(jnp.arange(num))


def start_noise(
  session: session_lib.Session,
  seed: int,
  batch_size: int,
  size: tuple[int, int, int],
  stage: int = 0,
) -> jax.Array:
  """float32 (B, F, H/f, W/f, C) standard normal noise; row b depends on (seed, b, stage) alone.

  Args:
    session: of the run.
    seed: of the noise.
    batch_size: B.
    size: (frames, height, width) of the videos, pixels.
    stage: 0 for a base stage; each has noise of its own.
  """
  shape = session.unet_inputs(*size)[0].shape[1:]
  keys_B = row_keys(seed, batch_size)
  if stage:
    # Beyond all timesteps, which are folded into the same keys.
    keys_B = jax.vmap(lambda key: jax.random.fold_in(key, 1_000_000 + stage))(keys_B)
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys_B)
