"""Samplers. A table has a row per network call:

z <- row.z * z + row.x0 * x0 + row.last_x0 * last_x0 + row.noise * fresh noise
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Table = dict[str, Tensor]
PREDICTED_X0 = {
  'x0': lambda x0, z, alpha, sigma: x0,
  'eps': lambda eps, z, alpha, sigma: (z - sigma * eps) / alpha,
  'v': lambda v, z, alpha, sigma: alpha * z - sigma * v,
}


def make_table(
  alphas_cumprod_T: Tensor,
  num_steps: int,
  sampler: str = 'ddim',
  spacing: str = 'leading',
  levels: int | None = None,
  eta: float = 0.0,
  set_alpha_to_one: bool = True,
) -> Table:
  """The coefficients of a sampler, float64.

  Args:
    alphas_cumprod_T: the noise schedule.
    num_steps: of the sampler; 'heun' calls the network twice a step.
    sampler: a name in SAMPLERS.
    spacing: 'leading', 'trailing' or 'linspace' (Lin et al. 2023, arXiv:2305.08891, Table 2).
    levels: start at about timestep levels - 1; all by default.
    eta: noise of 'ddim'.
    set_alpha_to_one: end at alpha = 1, not at the first timestep's.

  Raises:
    ValueError: unknown names, or no room for so many steps.
  """
  if sampler not in SAMPLERS:
    raise ValueError(f'sampler={sampler!r} is unknown; known: {", ".join(SAMPLERS)}.')
  multistep = sampler.startswith('dpmpp')
  timesteps_K = spaced_timesteps(spacing, num_steps, levels or len(alphas_cumprod_T), multistep)
  now_K = alphas_cumprod_T[timesteps_K]
  if multistep:
    now_K = now_K.clamp(min=2.0**-24)
  final = alphas_cumprod_T.new_ones(1) if set_alpha_to_one else alphas_cumprod_T[:1]
  now_K = torch.cat([now_K, final])
  return SAMPLERS[sampler](timesteps_K, now_K.sqrt(), (1 - now_K).sqrt(), eta)


def spaced_timesteps(spacing: str, num_steps: int, levels: int, leave_last: bool = False) -> Tensor:
  """int64 (num_steps,), descending, below `levels`; raises ValueError as `make_table`."""
  points = num_steps + leave_last
  if spacing not in ('leading', 'trailing', 'linspace'):
    raise ValueError(f"spacing={spacing!r}: give 'leading', 'trailing' or 'linspace'.")
  if not 1 <= num_steps < levels:
    raise ValueError(f'num_steps={num_steps} must lie between 1 and {levels - 1}.')
  if spacing == 'leading':
    stride = levels // points
    found = torch.arange(points).flip(0) * stride + 1
    unseen = levels - 1 - int(found[0])  # Noise levels above the first.
    if num_steps == 1 or unseen > max(2 * stride, levels / 10):
      raise ValueError(
        f"num_steps={num_steps} of {levels}, spaced 'leading', start at timestep {int(found[0])}, "
        "where a video is not noise: use spacing='trailing', or other steps."
      )
  elif spacing == 'trailing':
    found = (levels - torch.arange(num_steps).double() * levels / num_steps).round().long() - 1
  else:
    step = (levels - 1) / max(points - 1, 1)
    found = (torch.arange(max(points, 2)).double() * step).round().long().flip(0)
  found = found[:num_steps]
  if found[0] >= levels or (found.diff() >= 0).any():
    raise ValueError(f'num_steps={num_steps}, spaced {spacing!r}, do not fit {levels} timesteps.')
  return found


def inversion_table(alphas_cumprod_T: Tensor, num_steps: int, levels: int) -> Table:
  """DDIM backwards: from clean latents to z at timestep levels - 1."""
  timesteps_K = torch.arange(0, levels - 1, levels // num_steps)
  now_K = alphas_cumprod_T[torch.cat([timesteps_K, torch.tensor([levels - 1])])]
  return _ddim(timesteps_K, now_K.sqrt(), (1 - now_K).sqrt(), 0.0)


def _rows(timesteps_K: Tensor, **columns: Any) -> Table:
  """A table; a number stands for a column, and what is not given is 0."""
  given = dict(last_x0=0.0, noise=0.0) | columns
  table = {
    name: torch.as_tensor(column, dtype=torch.float64).expand(timesteps_K.shape)
    for name, column in given.items()
  }
  return table | dict(timestep=timesteps_K)


def _ddim(timesteps_K: Tensor, alpha: Tensor, sigma: Tensor, eta: float) -> Table:
  """Song et al. 2021, arXiv:2010.02502, Eq. 12 and 16; alpha and sigma have an entry more."""
  now, sigma_now, after, sigma_after = alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]
  noise = eta * sigma_after / sigma_now * (1 - (now / after) ** 2).clamp(min=0).sqrt()
  eps = (sigma_after**2 - noise**2).clamp(min=0).sqrt()
  z = eps / sigma_now
  return _rows(timesteps_K, alpha=now, sigma=sigma_now, z=z, x0=after - z * now, noise=noise)


def _dpmpp_2m(
  timesteps_K: Tensor, alpha: Tensor, sigma: Tensor, eta: float, stochastic: bool = False
) -> Table:
  """DPM-Solver++(2M): Lu et al. 2022, arXiv:2211.01095, Algorithm 2; `stochastic`: its SDE form."""
  h = (alpha.log() - sigma.log()).diff()
  decay, power = (-h).exp(), 2 if stochastic else 1
  gain = alpha[1:] * (1 - decay**power)
  extrapolation = torch.zeros_like(h)
  extrapolation[1:] = h[1:] / (2 * h[:-1])
  if sigma[-1] == 0 or len(h) < 15:
    extrapolation[-1] = 0
  return _rows(
    timesteps_K,
    alpha=alpha[:-1],
    sigma=sigma[:-1],
    z=sigma[1:] / sigma[:-1] * decay ** (power - 1),
    x0=gain * (1 + extrapolation),
    last_x0=-gain * extrapolation,
    noise=sigma[1:] * (1 - decay**2).sqrt() if stochastic else 0.0,
  )


def _heun(timesteps_K: Tensor, alpha: Tensor, sigma: Tensor, eta: float) -> Table:
  """Karras et al. 2022, arXiv:2206.00364, Algorithm 1: Euler's steps, each but the last followed by
  its correction."""
  euler = _ddim(timesteps_K, alpha, sigma, 0.0)
  growth = sigma[:-2] * alpha[1:-1] / (alpha[:-2] * sigma[1:-1])
  change = torch.where(alpha[:-2] > 0, alpha[1:-1] * (growth - 1) / 2, 0)
  correct = _rows(
    timesteps_K[1:], alpha=alpha[1:-1], sigma=sigma[1:-1], z=1.0, x0=change, last_x0=-change
  )
  table = {}
  for name, column in euler.items():
    table[name] = column.new_empty(2 * len(column) - 1)
    table[name][::2], table[name][1::2] = column, correct[name]
  return table


SAMPLERS = {
  'ddim': _ddim,
  'dpmpp_2m': _dpmpp_2m,
  'dpmpp_2m_sde': functools.partial(_dpmpp_2m, stochastic=True),
  'heun': _heun,
}


def run_table(
  denoise: Callable[[Tensor, Tensor], Tensor],
  z: Tensor,
  table: Table,
  prediction_type: str,
  generator: torch.Generator | None = None,
) -> Tensor:
  """Latents of a table, from z at its first timestep.

  Args:
    denoise: (noisy latents, timesteps_B) -> prediction.
    z: float32 (B, C, F, H, W).
    table: of `make_table` or `inversion_table`.
    prediction_type: 'v', 'eps' or 'x0'.
    generator: on the CPU, of the noise that some tables add.
  """
  last_x0 = torch.zeros_like(z)
  for i, timestep in enumerate(table['timestep'].tolist()):
    row = {name: column[i].item() for name, column in table.items()}
    prediction = denoise(z, torch.full((len(z),), timestep, device=z.device))
    x0 = PREDICTED_X0[prediction_type](prediction, z, row['alpha'], row['sigma'])
    z = row['z'] * z + row['x0'] * x0 + row['last_x0'] * last_x0
    if row['noise']:
      z = z + row['noise'] * torch.randn(z.shape, generator=generator).to(z.device)
    last_x0 = x0
  return z
