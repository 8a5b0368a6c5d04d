"""The training objective: what a batch becomes, what is drawn for it, and the loss.

Paper Sec. 3; the order of the reconstructed training loop of the release. Every draw of a sample
is keyed by (seed, step, its row in the global batch): the same on any mesh, number of hosts and of
micro-batches.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from i2vgen_jax import session as session_lib
from i2vgen_jax.diffusion import guidance, loss
from i2vgen_jax.diffusion import schedule as schedule_lib
from i2vgen_jax.models import lora, unet3d, video_parts

# (..., seed, step) -> (mean loss of the rows, their `loss.by_level`).
Loss = Callable[..., tuple[jax.Array, jax.Array]]


class Draws(NamedTuple):
  """Keys of a batch in a step, one per sample each."""

  posterior: jax.Array  # Of the clip's latents.
  image: jax.Array  # Of the signals' own draws, such as the first frame's latents.
  drop: jax.Array  # Which signals are dropped.
  time: jax.Array
  noise: jax.Array
  dropout: jax.Array  # Within the U-Net.


def data_seed(seed: int) -> jax.Array:
  """uint32 key data of a run's draws, from config.seed."""
  return jax.random.key_data(jax.random.fold_in(jax.random.key(seed), 1))


def sample_keys(
  seed: jax.Array, step: jax.Array | int, position_B: jax.Array, num: int
) -> list[jax.Array]:
  """`num` arrays of one key per sample, from (seed, step, global position).

  Args:
    seed: uint32 key data, of `data_seed`.
    step: updates done.
    position_B: int, rows of the global batch.
    num: how many keys each sample gets.
  """
  step_key = jax.random.fold_in(jax.random.wrap_key_data(seed), step)
  keys_BK = jax.vmap(lambda row: jax.random.split(jax.random.fold_in(step_key, row), num))(
    position_B
  )
  return [keys_BK[:, k] for k in range(num)]


def draws_of(seed: jax.Array, step: jax.Array | int, position_B: jax.Array) -> Draws:
  """The Draws of a step for rows of the global batch.

  Args:
    seed: uint32 key data, of `data_seed`.
    step: updates done.
    position_B: int, rows of the global batch.
  """
  return Draws(*sample_keys(seed, step, position_B, len(Draws._fields)))


def make_encoded_loss(
  unet: unet3d.UNet3D | lora.AdaptedUNet,
  schedule: schedule_lib.NoiseSchedule,
  *,
  prediction_type: str,
  offset_noise: float,
  timestep_shift: float,
  timestep_range: tuple[int, int],
  min_snr_gamma: float,
) -> Loss:
  """(params, encoded, seed, step) -> losses of dict(latents, conditioning, position).

  Args:
    unet: to be trained.
    schedule: of the noise.
    prediction_type: what the U-Net predicts, a name in parameterization.TO_X0_EPS.
    offset_noise: see loss.draw_noise.
    timestep_shift: see loss.draw_timesteps.
    timestep_range: (start, stop) of the noise levels.
    min_snr_gamma: see loss.min_snr_weight; 0 weights all noise levels alike.
  """

  apply = video_parts.split_videos(unet.apply)

  def encoded_loss(params, encoded, seed, step):
    draws = draws_of(seed, step, encoded['position'])
    latents_BFHWC, conditioning = jax.lax.stop_gradient(
      (encoded['latents'], encoded['conditioning'])
    )
    timesteps_B = loss.draw_timesteps(draws.time, timestep_range, timestep_shift)
    noise_BFHWC = loss.draw_noise(draws.noise, latents_BFHWC, offset_noise)

    def denoise(noisy_BFHWC, timesteps_B):
      return apply({'params': params}, noisy_BFHWC, timesteps_B, conditioning, draws.dropout)

    loss_B = loss.denoising_loss(
      denoise, latents_BFHWC, noise_BFHWC, timesteps_B, schedule, prediction_type
    )
    if min_snr_gamma:
      loss_B *= loss.min_snr_weight(timesteps_B, schedule, prediction_type, min_snr_gamma)
    return loss_B.mean(), loss.by_level(loss_B, timesteps_B, timestep_range)

  return encoded_loss


def make_loss(session: session_lib.Session, rates: Mapping[str, float]) -> Loss:
  """(params, frozen, batch, seed, step) -> losses of the batch; one fresh draw for every sample.

  Args:
    session: of the run.
    rates: how often signals are dropped, of session.dropout_rates.
  """
  slots = {name: signal.drop_slot for name, signal in session.signals.items()}
  encoded_loss = make_encoded_loss(session.unet, session.schedule, **session.config.loss)

  def batch_loss(params, frozen, batch, seed, step):
    position = batch['position']
    draws = draws_of(seed, step, position)
    latents_BFHWC, conditioning = session.encode(frozen, batch, draws.posterior, draws.image)
    conditioning = guidance.drop_conditions(
      draws.drop, conditioning, session.null(frozen), rates, slots
    )
    conditioning |= session.growth(len(position), step)
    encoded = dict(latents=latents_BFHWC, conditioning=conditioning, position=position)
    return encoded_loss(params, encoded, seed, step)

  return batch_loss


def make_eval_loss(session: session_lib.Session, timestep_range: tuple) -> Callable[..., jax.Array]:
  """(params, frozen, batch, seed, step) -> loss_B at timesteps and noise of the row alone.

  Timesteps are spread evenly over the rows by a multiplicative permutation, so that any prefix of
  rows covers all noise levels of the range, unweighted. Latents are posterior means and nothing is
  dropped, so that the number is the same at every call. `step` is of the parameters, see
  session.growth.

  Args:
    session: of the run.
    timestep_range: (start, stop) of the noise levels.
  """

  apply = video_parts.split_videos(session.unet.apply)

  def eval_loss(params, frozen, batch, seed, step=None):
    (noise_B,) = sample_keys(seed, 0, batch['position'], 1)
    latents_BFHWC = session.autoencoder.encode_video(frozen, batch['video'])
    conditioning = session.condition(frozen, session.of_batch(batch))
    conditioning |= session.growth(len(latents_BFHWC), step)
    # Golden-ratio steps fill [0, 1) evenly for any number of rows.
    fraction_B = jnp.mod((batch['position'] + 0.5) * 0.6180339887, 1.0)
    start, stop = timestep_range
    timesteps_B = start + (fraction_B * (stop - start)).astype(jnp.int32)
    noise_BFHWC = loss.draw_noise(noise_B, latents_BFHWC, 0.0)

    def denoise(noisy_BFHWC, timesteps_B):
      return apply({'params': params}, noisy_BFHWC, timesteps_B, conditioning)

    return loss.denoising_loss(
      denoise,
      latents_BFHWC,
      noise_BFHWC,
      timesteps_B,
      session.schedule,
      session.config.loss.prediction_type,
    )

  return eval_loss
