"""The denoising loss. Every random draw is keyed per sample, so it is the same on any mesh and
micro-batch.

Source: the I2VGen-XL release trains v-prediction with mean squared error, uniform timesteps and
offset noise of strength 0.1 drawn per frame and channel (VGen,
tools/modules/diffusions/diffusion_ddim.py).
"""

import jax
import jax.numpy as jnp

from i2vgen_jax.diffusion import parameterization


def draw_noise(keys_B, latents_BFHWC, offset_noise):
  """Standard normal noise plus `offset_noise` times one normal per frame and channel; float32.

  The variance is 1 + offset_noise^2: as released, not renormalised.
  """

  def one(key, latents_FHWC):
    noise_key, offset_key = jax.random.split(key)
    noise_FHWC = jax.random.normal(noise_key, latents_FHWC.shape)
    if not offset_noise:
      return noise_FHWC
    frames, _, _, channels = latents_FHWC.shape
    return noise_FHWC + offset_noise * jax.random.normal(offset_key, (frames, 1, 1, channels))

  return jax.vmap(one)(keys_B, latents_BFHWC)


def draw_timesteps(keys_B, num_timesteps, shift=1.0):
  """int32 timesteps in [0, num_timesteps), one per key.

  Args:
    keys_B: one key per sample.
    num_timesteps: T.
    shift: 1 draws uniformly, as released; above 1 prefers high noise, where the large structure is
      decided: u -> shift u / (1 + (shift - 1) u) (Esser et al. 2024, arXiv:2403.03206, Sec. 5.3.2).
  """
  uniform_B = jax.vmap(jax.random.uniform)(keys_B)
  shifted_B = shift * uniform_B / (1 + (shift - 1) * uniform_B)
  return jnp.minimum((shifted_B * num_timesteps).astype(jnp.int32), num_timesteps - 1)


def add_noise(latents_BFHWC, noise_BFHWC, timesteps_B, schedule):
  """z_t = alpha_t x_0 + sigma_t eps."""
  alpha, sigma = schedule.alpha_sigma(timesteps_B, latents_BFHWC.ndim)
  return alpha * latents_BFHWC + sigma * noise_BFHWC


def denoising_loss(denoise, latents_BFHWC, noise_BFHWC, timesteps_B, schedule, prediction_type):
  """Mean squared error of the prediction, per sample.

  Args:
    denoise: (noisy_latents_BFHWC, timesteps_B) -> prediction_BFHWC.
    latents_BFHWC: clean latents, scaled to about unit variance.
    noise_BFHWC: same shape.
    timesteps_B: int32, in [0, T).
    schedule: a NoiseSchedule.
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
