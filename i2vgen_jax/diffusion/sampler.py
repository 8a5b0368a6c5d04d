"""DDIM: from noise to latents in one `lax.scan`. Knows no model: it is given `denoise`.

Song et al. 2021 (arXiv:2010.02502), Eq. 12, in (x0, eps) form. The timesteps are the release's:
leading spacing plus one (981, 961, ..., 1 for 50 of 1000), which never meet the last timestep of a
zero-terminal-SNR schedule.
"""

import jax
import jax.numpy as jnp
import numpy as np

from i2vgen_jax.diffusion import parameterization


def leading_timesteps(num_steps, num_timesteps):
  """int32 (num_steps,), descending; multiples of T // num_steps, plus one.

  Raises:
    ValueError: more steps than the schedule has room for.
  """
  stride = num_timesteps // num_steps if num_steps > 0 else 0
  if num_steps < 1 or (num_steps - 1) * stride + 1 > num_timesteps - 1 or stride < 1:
    raise ValueError(
      f'sample.num_steps={num_steps} must be at least 1 and below {num_timesteps} timesteps.'
    )
  return (np.arange(num_steps, dtype=np.int32) * stride + 1)[::-1].copy()


def ddim(
  denoise,
  noise_BFHWC,
  schedule,
  num_steps,
  *,
  prediction_type='v',
  eta=0.0,
  set_alpha_to_one=True,
  keys_B=None,
):
  """Samples latents from `noise_BFHWC`.

  Args:
    denoise: (noisy_latents_BFHWC, timesteps_B) -> prediction_BFHWC.
    noise_BFHWC: float32 start noise, unit variance.
    schedule: a NoiseSchedule.
    num_steps: number of network calls.
    prediction_type: what `denoise` returns.
    eta: 0 is deterministic, 1 as noisy as the ancestral sampler.
    set_alpha_to_one: end at alpha = 1 (the released scheduler config); False ends at the first
    timestep's alpha
      as VGen does.
    keys_B: one key per sample; needed when eta > 0.

  Returns:
    float32 latents, same shape.
  """
  if eta and keys_B is None:
    raise ValueError(f'eta={eta} adds noise at every step: pass keys_B.')
  timesteps_K = leading_timesteps(num_steps, schedule.num_timesteps)
  final = 1.0 if set_alpha_to_one else schedule.alphas_cumprod_T[0]
  previous_K = timesteps_K - schedule.num_timesteps // num_steps
  now_K = schedule.alphas_cumprod_T[timesteps_K]
  next_K = np.where(previous_K >= 0, schedule.alphas_cumprod_T[np.maximum(previous_K, 0)], final)
  # Song et al., Eq. 16.
  spread_K = eta * np.sqrt((1 - next_K) / (1 - now_K) * (1 - now_K / next_K))
  table_K = {
    'timestep': timesteps_K,
    'alpha': np.sqrt(now_K),
    'sigma': np.sqrt(1 - now_K),
    'next_alpha': np.sqrt(next_K),
    'next_sigma': np.sqrt(np.maximum(1 - next_K - spread_K**2, 0)),
    'spread': spread_K,
  }
  table_K = {
    name: jnp.asarray(column, jnp.int32 if name == 'timestep' else jnp.float32)
    for name, column in table_K.items()
  }
  batch_size = noise_BFHWC.shape[0]

  def step(latents_BFHWC, row):
    timesteps_B = jnp.full((batch_size,), row['timestep'], jnp.int32)
    prediction_BFHWC = denoise(latents_BFHWC, timesteps_B).astype(jnp.float32)
    x0_BFHWC, eps_BFHWC = parameterization.TO_X0_EPS[prediction_type](
      prediction_BFHWC, latents_BFHWC, row['alpha'], row['sigma']
    )
    latents_BFHWC = row['next_alpha'] * x0_BFHWC + row['next_sigma'] * eps_BFHWC
    if eta:
      fresh_BFHWC = jax.vmap(
        lambda key: jax.random.normal(
          jax.random.fold_in(key, row['timestep']), noise_BFHWC.shape[1:]
        )
      )(keys_B)
      latents_BFHWC = latents_BFHWC + row['spread'] * fresh_BFHWC
    return latents_BFHWC, None

  latents_BFHWC, _ = jax.lax.scan(step, noise_BFHWC.astype(jnp.float32), table_K)
  return latents_BFHWC
