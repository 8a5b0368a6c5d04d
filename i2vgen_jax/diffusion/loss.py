"""The denoising loss. Every random draw is keyed per sample, so it is the same on any mesh and
micro-batch.

Source: the I2VGen-XL release trains v-prediction with mean squared error, uniform timesteps and
offset noise of strength 0.1 drawn per frame and channel (VGen,
tools/modules/diffusions/diffusion_ddim.py).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from i2vgen_jax.diffusion import parameterization
from i2vgen_jax.diffusion import schedule as schedule_lib

NUM_LEVELS = 4  # Equal parts of the trained timesteps, by which losses are told apart.


def draw_noise(keys_B: jax.Array, latents_BFHWC: jax.Array, offset_noise: float) -> jax.Array:
  """Standard normal noise plus `offset_noise` times one normal per frame and channel; float32.

  The variance is 1 + offset_noise^2: the release does not renormalise it.

  Args:
    keys_B: one key per sample.
    latents_BFHWC: latents, whose shape the noise has.
    offset_noise: standard deviation of what a frame's channel shares; 0.1 in the release.
  """

  def one(key: jax.Array, latents_FHWC: jax.Array) -> jax.Array:
    noise_key, offset_key = jax.random.split(key)
    noise_FHWC = jax.random.normal(noise_key, latents_FHWC.shape)
    if not offset_noise:
      return noise_FHWC
    frames, _, _, channels = latents_FHWC.shape
    return noise_FHWC + offset_noise * jax.random.normal(offset_key, (frames, 1, 1, channels))

  return jax.vmap(one)(keys_B, latents_BFHWC)


def draw_timesteps(
  keys_B: jax.Array, timestep_range: Sequence[int], shift: float = 1.0
) -> jax.Array:
  """int32 timesteps in [start, stop), one per key.

  Args:
    keys_B: one key per sample.
    timestep_range: (start, stop); (0, T) is all.
    shift: 1 draws uniformly, as released; above 1 prefers high noise, where the large structure is
      decided: u -> shift u / (1 + (shift - 1) u) (Esser et al. 2024, arXiv:2403.03206, Sec. 5.3.2).
  """
  uniform_B = jax.vmap(jax.random.uniform)(keys_B)
  shifted_B = shift * uniform_B / (1 + (shift - 1) * uniform_B)
  start, stop = timestep_range
  return jnp.minimum(start + (shifted_B * (stop - start)).astype(jnp.int32), stop - 1)


def check_options(
  timestep_range: Sequence[int], min_snr_gamma: float, schedule: schedule_lib.NoiseSchedule
) -> None:
  """Raises ValueError for a range outside the schedule or a negative gamma.

  Args:
    timestep_range: (start, stop).
    min_snr_gamma: 0 is off.
    schedule: the noise schedule of the training.
  """
  if len(timestep_range) != 2 or not (
    0 <= timestep_range[0] < timestep_range[1] <= schedule.num_timesteps
  ):
    raise ValueError(
      f'loss.timestep_range={tuple(timestep_range)} must be (start, stop) with 0 <= start < stop '
      f'<= schedule.num_timesteps={schedule.num_timesteps}.'
    )
  if min_snr_gamma < 0:
    raise ValueError(
      f'loss.min_snr_gamma={min_snr_gamma} must be positive (5 is usual), or 0: off.'
    )


def add_noise(
  latents_BFHWC: jax.Array,
  noise_BFHWC: jax.Array,
  timesteps_B: jax.Array,
  schedule: schedule_lib.NoiseSchedule,
) -> jax.Array:
  """z_t = alpha_t x_0 + sigma_t eps.

  Args:
    latents_BFHWC: clean latents.
    noise_BFHWC: standard normal, same shape.
    timesteps_B: int32, in [0, T).
    schedule: the noise schedule, which gives alpha and sigma.
  """
  alpha, sigma = schedule.alpha_sigma(timesteps_B, latents_BFHWC.ndim)
  return alpha * latents_BFHWC + sigma * noise_BFHWC


def min_snr_weight(
  timesteps_B: jax.Array, schedule: schedule_lib.NoiseSchedule, prediction_type: str, gamma: float
) -> jax.Array:
  """Min-SNR-gamma: weighs the squared error of x0 by min(SNR, gamma), whatever is predicted.

  Hang et al. 2023 (arXiv:2303.09556), Sec. 3.4. The squared error of v is (SNR + 1) times that of
  x0, that of eps is SNR times as large.

  Args:
    timesteps_B: int32, in [0, T).
    schedule: the noise schedule, which gives alpha and sigma.
    prediction_type: 'x0', 'eps' or 'v'.
    gamma: above 0; 5 in the paper.

  Returns:
    float32 (B,).
  """
  alpha_B, sigma_B = schedule.alpha_sigma(timesteps_B, 1)
  snr_B = jnp.square(alpha_B / sigma_B)
  clipped_B = jnp.minimum(snr_B, gamma)
  return {'x0': clipped_B, 'eps': clipped_B / snr_B, 'v': clipped_B / (snr_B + 1)}[prediction_type]


def level_edges(timestep_range: Sequence[int]) -> list[int]:
  """The first timestep of each level of noise, and the end of the last; (start, stop) is cut."""
  start, stop = timestep_range
  return [start - -level * (stop - start) // NUM_LEVELS for level in range(NUM_LEVELS + 1)]


def by_level(loss_B: jax.Array, timesteps_B: jax.Array, timestep_range: Sequence[int]) -> jax.Array:
  """float32 (2, NUM_LEVELS): the sum of the losses at each level of noise, and how many they are.

  Args:
    loss_B: one per sample.
    timesteps_B: int32, in the range.
    timestep_range: (start, stop).
  """
  first_L = jnp.asarray(level_edges(timestep_range)[1:-1], jnp.int32)
  level_B = jnp.sum(timesteps_B[:, None] >= first_L, axis=1)
  within_BL = level_B[:, None] == jnp.arange(NUM_LEVELS)
  losses_BL = jnp.where(within_BL, loss_B[:, None], 0)
  return jnp.stack([losses_BL.sum(0), within_BL.sum(0).astype(jnp.float32)])


def denoising_loss(
  denoise: Callable[[jax.Array, jax.Array], jax.Array],
  latents_BFHWC: jax.Array,
  noise_BFHWC: jax.Array,
  timesteps_B: jax.Array,
  schedule: schedule_lib.NoiseSchedule,
  prediction_type: str,
) -> jax.Array:
  """Mean squared error of the prediction, per sample.

  Args:
    denoise: (noisy_latents_BFHWC, timesteps_B) -> prediction_BFHWC.
    latents_BFHWC: clean latents, scaled to about unit variance.
    noise_BFHWC: same shape.
    timesteps_B: int32, in [0, T).
    schedule: the noise schedule.
    prediction_type: 'x0', 'eps' or 'v'.

  Returns:
    float32 (B,).
  """
  latents_BFHWC = latents_BFHWC.astype(jnp.float32)
  noisy_BFHWC = add_noise(latents_BFHWC, noise_BFHWC, timesteps_B, schedule)
  alpha, sigma = schedule.alpha_sigma(timesteps_B, latents_BFHWC.ndim)
  target_BFHWC = parameterization.FROM_X0_EPS[prediction_type](
    latents_BFHWC, noise_BFHWC, alpha, sigma
  )
  error_BFHWC = denoise(noisy_BFHWC, timesteps_B).astype(jnp.float32) - target_BFHWC
  return jnp.mean(jnp.square(error_BFHWC), axis=(1, 2, 3, 4))
