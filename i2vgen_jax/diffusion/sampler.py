"""Samplers: from noise to latents in one `lax.scan`. They know no model but `denoise`.

A sampler is a table of coefficients, a row per network call:

    z <- row.z * z + row.x0 * x0 + row.last_x0 * last_x0 + row.noise * fresh noise

x0 is what the network makes of z at row.timestep, last_x0 what it made of it a row before. Tables
are float64 numpy, computed before anything compiles.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from i2vgen_jax.diffusion import parameterization
from i2vgen_jax.diffusion import schedule as schedule_lib

SPACINGS = ('leading', 'trailing', 'linspace')
Table = dict[str, np.ndarray]  # Columns by name, each (K,): a row per network call.
Column = np.ndarray | float

# Log-SNR must be finite for DPM-Solver: a terminal SNR of zero is lifted to this alphas_cumprod, as
# diffusers does.
MIN_ALPHAS_CUMPROD = 2.0**-24
# Below this many steps the last one is of first order (diffusers' lower_order_final).
SECOND_ORDER_TO_THE_END = 15


def make_table(
  schedule: schedule_lib.NoiseSchedule,
  num_steps: int,
  *,
  kind: str = 'ddim',
  spacing: str = 'leading',
  levels: int | None = None,
  eta: float = 0.0,
  set_alpha_to_one: bool = True,
) -> Table:
  """The coefficients of a sampler.

  Args:
    schedule: the noise schedule.
    num_steps: number of steps; a step is one network call, but two in 'heun' (the last is one).
    kind: a name in `KINDS`.
    spacing: one of SPACINGS (Lin et al. 2023, arXiv:2305.08891, Table 2).
    levels: start from z at about timestep levels - 1, not from pure noise; default all of T.
    eta: noise of 'ddim': 0 is deterministic, 1 as noisy as the ancestral sampler.
    set_alpha_to_one: end at alpha = 1; False ends at the first timestep's alpha, as VGen does.

  Returns:
    dict of arrays, one entry per network call; row 0 says at which timestep z must start.

  Raises:
    ValueError: unknown name, or numbers that do not fit the schedule.
  """
  if kind not in KINDS:
    raise ValueError(f'sample.sampler={kind!r} is unknown; known: {", ".join(KINDS)}.')
  if eta and kind != 'ddim':
    raise ValueError(f"sample.eta={eta} is of sampler 'ddim'; {kind!r} has none: set it to 0.")
  levels = schedule.num_timesteps if levels is None else levels
  if not 1 <= levels <= schedule.num_timesteps:
    raise ValueError(f'levels={levels} must be between 1 and {schedule.num_timesteps} timesteps.')
  # Multistep solvers space one point more and leave out the one at the data, as in diffusers.
  timesteps_K = spaced_timesteps(spacing, num_steps, levels, leave_last=kind.startswith('dpmpp'))
  alphas_cumprod_K = schedule.alphas_cumprod_T[timesteps_K]
  final = 1.0 if set_alpha_to_one else schedule.alphas_cumprod_T[0]
  if kind.startswith('dpmpp'):
    alphas_cumprod_K = np.maximum(alphas_cumprod_K, MIN_ALPHAS_CUMPROD)
  now_K = np.append(alphas_cumprod_K, final)
  return KINDS[kind](timesteps_K, np.sqrt(now_K), np.sqrt(1 - now_K), eta)


def spaced_timesteps(
  spacing: str, num_steps: int, levels: int, leave_last: bool = False
) -> np.ndarray:
  """int32 (num_steps,), descending, below `levels`.

  'leading' are multiples of a stride, plus one: 981, 961, ..., 1 for 50 of 1000, the release's,
  which never meets a terminal SNR of zero. 'trailing' starts at levels - 1. 'linspace' starts there
  and ends at 0, rounded.

  Args:
    spacing: name.
    num_steps: how many.
    levels: size of the range.
    leave_last: space one more and leave out the last ('trailing' has none at the data).

  Raises:
    ValueError: unknown spacing, or no room for so many steps.
  """
  points = num_steps + leave_last
  timesteps_K = np.zeros(0)
  if num_steps >= 1:
    if spacing == 'leading':
      timesteps_K = (np.arange(points) * (levels // points))[::-1] + 1
    elif spacing == 'trailing':
      timesteps_K = np.arange(levels, 0, -levels / num_steps).round() - 1
    elif spacing == 'linspace':
      # Take two points at least: a single one is the noisy end.
      timesteps_K = np.linspace(0, levels - 1, max(points, 2)).round()[::-1]
    else:
      raise ValueError(f'sample.spacing={spacing!r} is unknown; known: {str(SPACINGS)[1:-1]}.')
    # Above the first timestep, 'leading' leaves about a stride, unless that is rounded far down.
    first, stride = timesteps_K[0], levels // points
    too_low = num_steps == 1 or levels - 1 - first > max(2 * stride, levels / 10)
    if spacing == 'leading' and stride and too_low:
      raise ValueError(
        f"sample.num_steps={num_steps}, spaced 'leading', starts at timestep {first:.0f} of "
        f"{levels}, where a video is not noise: use sample.spacing='trailing', or other steps."
      )
  timesteps_K = timesteps_K[:num_steps].astype(np.int32)
  if num_steps < 1 or timesteps_K[0] >= levels or np.any(np.diff(timesteps_K) >= 0):
    raise ValueError(
      f'sample.num_steps={num_steps} must be at least 1 and, spaced {spacing!r}, fit into '
      f'{levels} timesteps.'
    )
  return timesteps_K


def inversion_table(schedule: schedule_lib.NoiseSchedule, num_steps: int, levels: int) -> Table:
  """DDIM backwards: from clean latents to z at timestep levels - 1 that DDIM would bring back.

  As VGen's refinement does it: timesteps 0, s, 2s, ... with s = levels // num_steps.

  Args:
    schedule: the noise schedule.
    num_steps: network calls.
    levels: timesteps to climb; 2 to T.

  Raises:
    ValueError: numbers that do not fit the schedule.
  """
  if not 1 <= num_steps < levels <= schedule.num_timesteps:
    raise ValueError(
      f'Inversion in {num_steps} steps to {levels} levels must have 1 <= steps < levels <= '
      f'{schedule.num_timesteps}.'
    )
  timesteps_K = np.arange(0, levels - 1, levels // num_steps, dtype=np.int32)
  now_K = schedule.alphas_cumprod_T[np.append(timesteps_K, levels - 1)]
  return _ddim(timesteps_K, np.sqrt(now_K), np.sqrt(1 - now_K), eta=0.0)


def sample(
  denoise: Callable[[jax.Array, jax.Array], jax.Array],
  start_BFHWC: jax.Array,
  table: Table,
  *,
  prediction_type: str = 'v',
  keys_B: jax.Array | None = None,
  on_call: Callable[[], None] | None = None,
) -> jax.Array:
  """Runs a table.

  Args:
    denoise: (noisy_latents_BFHWC, timesteps_B) -> prediction_BFHWC.
    start_BFHWC: float32 z at the table's first timestep: noise, or latents with noise added.
    table: what `make_table` or `inversion_table` returns.
    prediction_type: what `denoise` returns.
    keys_B: one key per sample; needed by tables that add noise.
    on_call: called on the host after each network call, at any time.

  Returns:
    float32 latents, same shape.
  """
  if adds_noise(table) and keys_B is None:
    raise ValueError('This sampler adds noise at every step: pass keys_B.')
  rows = {name: jnp.asarray(column, _dtype(name)) for name, column in table.items()}
  start_BFHWC = start_BFHWC.astype(jnp.float32)
  noise_keys_B = keys_B if adds_noise(table) else None

  def step(carry, row):
    z_BFHWC, last_x0_BFHWC = carry
    carry = advance(denoise, z_BFHWC, last_x0_BFHWC, row, prediction_type, noise_keys_B)
    if on_call:
      jax.debug.callback(on_call)
    return carry, None

  (z_BFHWC, _), _ = jax.lax.scan(step, (start_BFHWC, jnp.zeros_like(start_BFHWC)), rows)
  return z_BFHWC


def adds_noise(table: Table) -> bool:
  """Whether its rows add fresh noise."""
  return bool(np.any(table['noise']))


def row(table: Table, index: int) -> dict[str, np.ndarray]:
  """A row of a table as `advance` takes it: scalars, of the types that `sample` has them in."""
  return {name: np.asarray(column[index], _dtype(name)) for name, column in table.items()}


def _dtype(column: str) -> type:
  return np.int32 if column == 'timestep' else np.float32


def advance(
  denoise: Callable[[jax.Array, jax.Array], jax.Array],
  z_BFHWC: jax.Array,
  last_x0_BFHWC: jax.Array,
  row: Mapping[str, jax.Array | np.ndarray],
  prediction_type: str,
  keys_B: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """One network call: float32 (z, x0) after a row, of what they were before it.

  Args:
    denoise: as of `sample`, like `prediction_type`.
    z_BFHWC: float32 latents.
    last_x0_BFHWC: x0 of the row before; zeros before the first.
    row: scalars by the name of their column.
    prediction_type: what `denoise` returns.
    keys_B: one key per sample, if the row adds noise.
  """
  timesteps_B = jnp.full((z_BFHWC.shape[0],), row['timestep'], jnp.int32)
  prediction_BFHWC = denoise(z_BFHWC, timesteps_B).astype(jnp.float32)
  x0_BFHWC, _ = parameterization.TO_X0_EPS[prediction_type](
    prediction_BFHWC, z_BFHWC, row['alpha'], row['sigma']
  )
  z_BFHWC = row['z'] * z_BFHWC + row['x0'] * x0_BFHWC + row['last_x0'] * last_x0_BFHWC
  if keys_B is not None:
    z_BFHWC += row['noise'] * step_noise(keys_B, row['timestep'], z_BFHWC.shape)
  return z_BFHWC, x0_BFHWC


def step_noise(
  keys_B: jax.Array, timestep: jax.Array | np.ndarray, shape: tuple[int, ...]
) -> jax.Array:
  """Standard normal noise of one step; each sample's depends on its key and the timestep alone.

  Args:
    keys_B: one key per sample.
    timestep: int32 scalar, where the step starts.
    shape: (B, F, H, W, C).
  """
  return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, timestep), shape[1:]))(
    keys_B
  )


def _rows(
  timesteps_K: np.ndarray,
  alpha: Column,
  sigma: Column,
  z: Column,
  x0: Column,
  last_x0: Column = 0.0,
  noise: Column = 0.0,
) -> Table:
  """A table of K calls at (alpha, sigma); a number stands for a column of equal numbers."""
  columns = dict(alpha=alpha, sigma=sigma, z=z, x0=x0, last_x0=last_x0, noise=noise)
  shape = timesteps_K.shape
  return {'timestep': timesteps_K} | {
    name: np.broadcast_to(np.asarray(column, np.float64), shape) for name, column in columns.items()
  }


def _ddim(timesteps_K: np.ndarray, alpha: np.ndarray, sigma: np.ndarray, eta: float) -> Table:
  """Song et al. 2021 (arXiv:2010.02502), Eq. 12 and 16; alpha and sigma end with one entry more.

  diffusers' scheduler goes to t - T // num_steps, which is the next timestep only where the
  spacing is 'leading' or num_steps divides T; here it is always the next.
  """
  now, sigma_now, alpha_next, sigma_next = alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]
  noise = eta * sigma_next / sigma_now * np.sqrt(np.maximum(1 - (now / alpha_next) ** 2, 0))
  eps = np.sqrt(np.maximum(sigma_next**2 - noise**2, 0))
  return _rows(
    timesteps_K, now, sigma_now, eps / sigma_now, alpha_next - eps * now / sigma_now, noise=noise
  )


def _dpmpp_2m(
  timesteps_K: np.ndarray,
  alpha: np.ndarray,
  sigma: np.ndarray,
  eta: float,
  stochastic: bool = False,
) -> Table:
  """DPM-Solver++(2M), midpoint: Lu et al. 2022 (arXiv:2211.01095), Algorithm 2; `stochastic`: its
  SDE form.

  The first step is of first order, and so is the last where it ends at alpha = 1.
  """
  sigma_now, alpha_next, sigma_next = sigma[:-1], alpha[1:], sigma[1:]
  with np.errstate(divide='ignore'):
    log_snr = np.log(alpha) - np.log(sigma)
  h = np.diff(log_snr)
  decay = np.exp(-h)
  power = 2 if stochastic else 1
  gain = alpha_next * (1 - decay**power)
  extrapolation = np.zeros(len(h))
  extrapolation[1:] = h[1:] / (2 * h[:-1])
  if sigma[-1] == 0 or len(h) < SECOND_ORDER_TO_THE_END:
    extrapolation[-1] = 0
  return _rows(
    timesteps_K,
    alpha[:-1],
    sigma_now,
    sigma_next / sigma_now * decay ** (power - 1),
    gain * (1 + extrapolation),
    -gain * extrapolation,
    sigma_next * np.sqrt(1 - decay**2) if stochastic else 0.0,
  )


def _heun(timesteps_K: np.ndarray, alpha: np.ndarray, sigma: np.ndarray, eta: float) -> Table:
  """Heun's method on dx = eps d(sigma/alpha), x = z/alpha: Karras et al. 2022 (arXiv:2206.00364),
  Algorithm 1.

  Rows alternate: Euler's step, then its correction by half the change of x0. No correction follows
  the last step, nor one that starts at alpha = 0, where sigma/alpha is infinite.
  """
  euler = _ddim(timesteps_K, alpha, sigma, 0.0)
  with np.errstate(divide='ignore'):
    growth = sigma[:-2] * alpha[1:-1] / (alpha[:-2] * sigma[1:-1])
  change = np.where(alpha[:-2] > 0, alpha[1:-1] * (growth - 1) / 2, 0)
  correct = _rows(timesteps_K[1:], alpha[1:-1], sigma[1:-1], 1.0, change, -change)
  table = {name: np.empty(2 * len(timesteps_K) - 1, euler[name].dtype) for name in euler}
  for name, column in table.items():
    column[::2], column[1::2] = euler[name], correct[name]
  return table


KINDS = {
  'ddim': _ddim,
  'dpmpp_2m': _dpmpp_2m,
  'dpmpp_2m_sde': functools.partial(_dpmpp_2m, stochastic=True),
  'heun': _heun,
}
