"""Every sampler against diffusers' scheduler of the same name, on one nonlinear 'network'."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from i2vgen_jax.diffusion import loss, sampler, schedule

RELEASED = schedule.NoiseSchedule.create('cosine', 1000, zero_terminal_snr=True)
KEYS = jax.random.split(jax.random.key(3), 2)
START = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 4)).astype(np.float32)
SPACINGS = ('leading', 'trailing', 'linspace')


def network(z, t, xp=jnp):
  """v of nothing in particular: it depends on z, on t and on the other sample."""
  return xp.tanh(0.7 * z + 0.3 * xp.flip(z, (0,)) + t / 1000)


def ours(num_steps, start=START, **settings):
  table = sampler.make_table(RELEASED, num_steps, **settings)
  run = jax.jit(
    lambda z: sampler.sample(
      lambda z, t: network(z, t.reshape(-1, 1, 1, 1, 1)), z, table, keys_B=KEYS
    )
  )
  return table, np.asarray(run(start))


def theirs(oracle, timesteps, **noise):
  """`noise`: how `step` takes the noise of a timestep."""
  z = torch.from_numpy(START)
  for t in timesteps:
    drawn = {
      name: torch.from_numpy(np.array(sampler.step_noise(KEYS, int(t), START.shape)))
      for name in noise
    }
    z = oracle.step(network(z, t, torch), t, z, **drawn).prev_sample
  return z.numpy()


def assert_close(actual, expected):
  """To 1e-5 of the largest value: float32 rounding over 50 steps."""
  assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def make_oracle(cls, **arguments):
  """A diffusers scheduler on our float64 table; its own, in float32, is off by 6e-7."""
  common = dict(prediction_type='v_prediction', steps_offset=1)
  if cls is diffusers.HeunDiscreteScheduler:
    oracle = cls(beta_schedule='squaredcos_cap_v2', **common, **arguments)
  else:
    oracle = cls(
      beta_schedule='squaredcos_cap_v2', rescale_betas_zero_snr=True, **common, **arguments
    )
  oracle.alphas_cumprod = torch.from_numpy(RELEASED.alphas_cumprod_T.copy())
  if cls is diffusers.DPMSolverMultistepScheduler:
    oracle.alphas_cumprod[-1] = sampler.MIN_ALPHAS_CUMPROD
  return oracle


@pytest.mark.parametrize('eta', [0.0, 0.7])
@pytest.mark.parametrize('spacing', ['leading', 'trailing'])
def test_ddim_equals_diffusers(spacing, eta):
  oracle = make_oracle(diffusers.DDIMScheduler, timestep_spacing=spacing, clip_sample=False)
  oracle.set_timesteps(50)
  table, actual = ours(50, spacing=spacing, eta=eta)
  np.testing.assert_array_equal(table['timestep'], oracle.timesteps)
  z = torch.from_numpy(START)
  for t in oracle.timesteps:
    noise = torch.from_numpy(np.array(sampler.step_noise(KEYS, int(t), START.shape)))
    z = oracle.step(network(z, t, torch), t, z, eta=eta, variance_noise=noise).prev_sample
  assert_close(actual, z.numpy())


@pytest.mark.parametrize('spacing', SPACINGS)
@pytest.mark.parametrize(('num_steps', 'set_alpha_to_one'), [(30, True), (30, False), (8, False)])
@pytest.mark.parametrize('stochastic', [False, True])
def test_dpm_solver_equals_diffusers(stochastic, num_steps, set_alpha_to_one, spacing):
  """Below 15 steps the last is of first order, also where it does not end at the data; 'trailing'
  and 'linspace' start at a terminal SNR of zero."""
  oracle = make_oracle(
    diffusers.DPMSolverMultistepScheduler,
    timestep_spacing=spacing,
    algorithm_type='sde-dpmsolver++' if stochastic else 'dpmsolver++',
    final_sigmas_type='zero' if set_alpha_to_one else 'sigma_min',
  )
  oracle.set_timesteps(num_steps)
  kind = 'dpmpp_2m_sde' if stochastic else 'dpmpp_2m'
  table, actual = ours(num_steps, kind=kind, spacing=spacing, set_alpha_to_one=set_alpha_to_one)
  np.testing.assert_array_equal(table['timestep'], oracle.timesteps)
  assert_close(actual, theirs(oracle, oracle.timesteps, variance_noise=True))


@pytest.mark.parametrize(
  ('spacing', 'levels'), [('leading', 1000), ('linspace', 600), ('trailing', 600)]
)
def test_heun_equals_diffusers(spacing, levels):
  """diffusers has no zero terminal SNR for Heun, so those spacings start inside the schedule."""
  table, actual = ours(20, kind='heun', spacing=spacing, levels=levels)
  oracle = make_oracle(diffusers.HeunDiscreteScheduler, timestep_spacing=spacing)
  if levels == 1000:
    oracle.set_timesteps(20)
  else:
    oracle.set_timesteps(timesteps=table['timestep'][::2])
  np.testing.assert_array_equal(table['timestep'], oracle.timesteps)
  # diffusers' Heun holds z / alpha.
  alpha = float(table['alpha'][0])
  z = torch.from_numpy(START) / alpha
  for t in oracle.timesteps:
    z = oracle.step(network(oracle.scale_model_input(z, t), t, torch), t, z).prev_sample
  assert_close(actual, z.numpy())


@pytest.mark.parametrize('spacing', SPACINGS)
@pytest.mark.parametrize('kind', ['ddim', 'dpmpp_2m', 'dpmpp_2m_sde'])
def test_sampling_from_inside_the_schedule_equals_diffusers(kind, spacing):
  """DDIM is DPM-Solver++ of order one, which diffusers can start anywhere."""
  table, actual = ours(12, kind=kind, spacing=spacing, levels=600)
  assert table['timestep'][0] < 600
  oracle = make_oracle(
    diffusers.DPMSolverMultistepScheduler,
    algorithm_type='sde-dpmsolver++' if kind.endswith('sde') else 'dpmsolver++',
    solver_order=1 if kind == 'ddim' else 2,
  )
  oracle.set_timesteps(timesteps=table['timestep'])
  assert_close(actual, theirs(oracle, oracle.timesteps, variance_noise=True))


@pytest.mark.parametrize('num_steps', [1, 400, 600])
def test_leading_steps_that_do_not_begin_at_noise_are_refused(num_steps):
  message = f"num_steps={num_steps}, spaced 'leading', starts at timestep .* use .*'trailing'"
  with pytest.raises(ValueError, match=message):
    sampler.make_table(RELEASED, num_steps)
  sampler.make_table(RELEASED, num_steps, spacing='trailing')


@pytest.mark.parametrize('num_steps', [2, 3, 30, 50, 70, 250, 500, 999])
def test_leading_steps_that_begin_at_noise_are_taken(num_steps):
  assert len(sampler.make_table(RELEASED, num_steps)['timestep']) == num_steps


def true_velocity(x0):
  def denoise(z, t):
    alpha, sigma = RELEASED.alpha_sigma(t, 5)
    return jnp.where(sigma > 0, alpha * (z - alpha * x0) / sigma - sigma * x0, 0)

  return denoise


@pytest.mark.parametrize(('spacing', 'levels'), [('leading', 600), ('trailing', 1000)])
@pytest.mark.parametrize('kind', sampler.KINDS)
def test_every_sampler_with_the_true_velocity_returns_the_data(kind, spacing, levels):
  """From pure noise or inside the schedule: the start is where the table says, nowhere else."""
  x0, eps = jax.random.normal(jax.random.key(1), (2, 2, 2, 4, 4, 4))
  table = sampler.make_table(RELEASED, 10, kind=kind, spacing=spacing, levels=levels)
  start = loss.add_noise(x0, eps, jnp.full((2,), table['timestep'][0]), RELEASED)
  latents = sampler.sample(true_velocity(x0), start, table, keys_B=KEYS)
  np.testing.assert_allclose(latents, x0, atol=2e-3)


@pytest.mark.parametrize('kind', sampler.KINDS)
def test_every_sampler_draws_a_known_normal_distribution(kind, mean=0.6, deviation=0.4):
  """With the exact velocity of Gaussian data: one step gives its mean, and more steps come as near
  to its deviation as their order lets them, up to as many as there are timesteps."""

  def denoise(z, t):
    alpha, sigma = RELEASED.alpha_sigma(t, 5)
    gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
    x0 = mean + gain * (z - alpha * mean)
    eps = jnp.where(sigma > 0, (z - alpha * x0) / sigma, 0)
    return alpha * eps - sigma * x0

  start = np.random.default_rng(0).standard_normal((2, 1, 64, 64, 8)).astype(np.float32)
  start = (start - start.mean()) / start.std()
  errors = {}
  for num_steps in (1, 5, 20, 100, 1000):
    table = sampler.make_table(RELEASED, num_steps, kind=kind, spacing='trailing')
    run = jax.jit(lambda z, table=table: sampler.sample(denoise, z, table, keys_B=KEYS))
    latents = np.asarray(run(start))
    assert abs(latents.mean() - mean) < 0.005
    errors[num_steps] = abs(latents.std() / deviation - 1)
  assert errors[1] > 0.99 and errors[5] < 0.35  # One step is blind to how z differs.
  assert errors[20] < (0.1 if kind == 'ddim' else 0.04)
  assert errors[100] < 0.025 and errors[1000] < 0.005


def test_inversion_is_undone_by_ddim(levels=700):
  """Of a smooth velocity, as of a denoiser of Gaussian data."""

  def denoise(z, t):
    alpha, sigma = RELEASED.alpha_sigma(t, 5)
    variance = 0.25 * alpha**2 + sigma**2
    return alpha * sigma * z * 0.75 / variance

  back = sampler.make_table(RELEASED, 200, spacing='trailing', levels=levels)
  inverted = sampler.sample(denoise, START, sampler.inversion_table(RELEASED, 200, levels))
  returned = sampler.sample(denoise, inverted, back)
  assert np.abs(inverted - START).max() > 0.3
  np.testing.assert_allclose(returned, START, atol=0.05)


def test_inversion_takes_vgens_timesteps():
  timesteps = sampler.inversion_table(RELEASED, 30, 700)['timestep']
  np.testing.assert_array_equal(timesteps, np.arange(0, 691, 23))


def test_a_sampler_s_noise_depends_on_the_sample_s_key_alone():
  table = sampler.make_table(RELEASED, 4, kind='dpmpp_2m_sde', spacing='trailing')
  start = np.ones_like(START)
  run = lambda keys: np.asarray(sampler.sample(lambda z, t: 0.1 * z, start, table, keys_B=keys))  # noqa: E731
  noisy = run(KEYS)
  assert np.abs(noisy[0] - noisy[1]).max() > 0.01
  np.testing.assert_allclose(noisy[::-1], run(KEYS[::-1]), atol=1e-6)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(kind='plms'), "sample.sampler='plms' is unknown; known: ddim, dpmpp_2m"),
    (dict(spacing='karras'), "sample.spacing='karras' is unknown"),
    (dict(kind='heun', eta=0.5), "sample.eta=0.5 is of sampler 'ddim'"),
    (dict(levels=1001), 'levels=1001 must be between 1 and 1000'),
    (dict(num_steps=0), 'num_steps=0 must be at least 1'),
    (dict(num_steps=700, levels=600, spacing='trailing'), 'num_steps=700 .* fit into 600'),
    (dict(num_steps=1000, kind='dpmpp_2m'), 'num_steps=1000 .* fit into 1000'),
  ],
)
def test_impossible_samplers_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    sampler.make_table(RELEASED, **dict(num_steps=20) | settings)
