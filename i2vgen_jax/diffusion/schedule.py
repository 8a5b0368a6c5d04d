"""Noise schedules: how much signal and how much noise z_t holds at each timestep.

z_t = alpha_t x_0 + sigma_t eps with alpha^2 + sigma^2 = 1 and alpha^2 = `alphas_cumprod`. Tables
are float64 numpy, computed once; only what is looked up reaches the device, as float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


def cosine_alphas_cumprod(num_timesteps: int) -> np.ndarray:
  """Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. 17, with each beta capped at 0.999.

  Returns:
    float64 (T,), strictly decreasing, in (0, 1).
  """
  time = np.arange(num_timesteps + 1, dtype=np.float64) / num_timesteps
  offset = 0.008
  signal = np.cos((time + offset) / (1 + offset) * np.pi / 2) ** 2
  betas_T = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
  return np.cumprod(1 - betas_T)


def scaled_linear_alphas_cumprod(num_timesteps: int) -> np.ndarray:
  """Stable Diffusion's schedule: betas linear in their square root. float64 (T,)."""
  betas_T = np.linspace(0.00085**0.5, 0.012**0.5, num_timesteps, dtype=np.float64) ** 2
  return np.cumprod(1 - betas_T)


def logsnr_cosine_interp_alphas_cumprod(num_timesteps: int) -> np.ndarray:
  """Cosine in log-SNR, shifted for a picture 2 to 4 times larger: a little more noise at low
  timesteps, much more at high ones. ModelScope's Video-to-Video and VGen's SR600 refine with it.

  Hoogeboom et al. 2023 (arXiv:2301.11093), Sec. 2.1. float64 (T,).
  """
  max_logsnr, scales = 15.0, (2.0, 4.0)
  time = np.linspace(0, 1, num_timesteps)
  first, last = np.arctan(np.exp(-max_logsnr / 2)), np.arctan(np.exp(max_logsnr / 2))
  logsnr_T = -2 * np.log(np.tan(first + time * (last - first)))
  shift_T = (1 - time) * 2 * np.log(1 / scales[0]) + time * 2 * np.log(1 / scales[1])
  return 1 / (1 + np.exp(-(logsnr_T + shift_T)))


def rescale_to_zero_terminal_snr(alphas_cumprod_T: np.ndarray) -> np.ndarray:
  """Shifts and scales sqrt(alphas_cumprod) so that the last timestep is pure noise.

  Lin et al. 2023 (arXiv:2305.08891), Algorithm 1. The first timestep is unchanged.

  Args:
    alphas_cumprod_T: float64, strictly decreasing, in (0, 1].

  Returns:
    Same shape; last entry exactly 0. An eps-prediction is undefined there: use 'v'.
  """
  alpha_T = np.sqrt(alphas_cumprod_T)
  first, last = alpha_T[0], alpha_T[-1]
  return ((alpha_T - last) * first / (first - last)) ** 2


KINDS = {
  'cosine': cosine_alphas_cumprod,
  'scaled_linear': scaled_linear_alphas_cumprod,
  'logsnr_cosine_interp': logsnr_cosine_interp_alphas_cumprod,
}


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
  """The table of one schedule; `alphas_cumprod_T` is float64 (T,), decreasing, in [0, 1]."""

  alphas_cumprod_T: np.ndarray

  @classmethod
  def create(cls, kind: str, num_timesteps: int, zero_terminal_snr: bool) -> 'NoiseSchedule':
    """Builds the named schedule.

    Args:
      kind: a name in `KINDS`.
      num_timesteps: T.
      zero_terminal_snr: let the last timestep be pure noise.

    Raises:
      ValueError: unknown `kind`.
    """
    if kind not in KINDS:
      raise ValueError(f'schedule.kind={kind!r} is unknown; known: {", ".join(sorted(KINDS))}.')
    alphas_cumprod_T = KINDS[kind](num_timesteps)
    if zero_terminal_snr:
      alphas_cumprod_T = rescale_to_zero_terminal_snr(alphas_cumprod_T)
    return cls(alphas_cumprod_T)

  def like(self, kind: str) -> 'NoiseSchedule':
    """Another kind with as many timesteps, and zero terminal SNR where this has it."""
    return self.create(kind, self.num_timesteps, self.alphas_cumprod_T[-1] == 0)

  @property
  def num_timesteps(self) -> int:
    """T."""
    return len(self.alphas_cumprod_T)

  def alpha_sigma(self, timesteps_B: jax.Array, ndim: int) -> tuple[jax.Array, jax.Array]:
    """(alpha, sigma) at `timesteps_B`, float32, shaped (B, 1, ..., 1) for tensors of rank
    `ndim`."""
    shape = (-1,) + (1,) * (ndim - 1)
    alpha_T = jnp.asarray(np.sqrt(self.alphas_cumprod_T), jnp.float32)
    sigma_T = jnp.asarray(np.sqrt(1 - self.alphas_cumprod_T), jnp.float32)
    return alpha_T[timesteps_B].reshape(shape), sigma_T[timesteps_B].reshape(shape)
