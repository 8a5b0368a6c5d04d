"""Noise schedule, parameterisations, loss draws, guidance and DDIM."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from i2vgen_jax.diffusion import guidance, loss, parameterization, sampler, schedule

RELEASED = schedule.NoiseSchedule.create('cosine', 1000, zero_terminal_snr=True)
# scheduler/scheduler_config.json of the released pipeline.
SCHEDULER_CONFIG = dict(
  num_train_timesteps=1000,
  beta_start=0.0001,
  beta_end=0.02,
  beta_schedule='squaredcos_cap_v2',
  trained_betas=None,
  rescale_betas_zero_snr=True,
  prediction_type='v_prediction',
  set_alpha_to_one=True,
  steps_offset=1,
  timestep_spacing='leading',
  clip_sample=False,
  clip_sample_range=1.0,
  thresholding=False,
  dynamic_thresholding_ratio=0.995,
  sample_max_value=1.0,
)


def test_schedule_equals_the_released_table():
  # Values of the released schedule at float64, as VGen computes them.
  expected = {
    0: 0.9999587, 1: 0.9999126, 21: 0.9979710, 500: 0.4922645, 700: 0.2018445,
    981: 7.840299e-4, 998: 2.277811e-6, 999: 0.0,
  }  # fmt: skip
  for t, value in expected.items():
    assert RELEASED.alphas_cumprod_T[t] == pytest.approx(value, rel=1e-6, abs=1e-12)
  assert RELEASED.alphas_cumprod_T.dtype == np.float64


def test_schedule_equals_diffusers():
  oracle = diffusers.DDIMScheduler.from_config(SCHEDULER_CONFIG)
  # diffusers computes in float32, which costs it 8e-7.
  np.testing.assert_allclose(RELEASED.alphas_cumprod_T, oracle.alphas_cumprod.numpy(), atol=1e-6)


def test_logsnr_cosine_interp_equals_the_refinement_s_released_table():
  """VGen's sigmas at three timesteps, and zero terminal SNR on top."""
  table = schedule.NoiseSchedule.create('logsnr_cosine_interp', 1000, zero_terminal_snr=False)
  sigma_T = np.sqrt(1 - table.alphas_cumprod_T)
  np.testing.assert_allclose(sigma_T[[0, 699, 999]], [0.001106, 0.98788, 1.0], rtol=5e-4)
  assert RELEASED.like('logsnr_cosine_interp').alphas_cumprod_T[-1] == 0


def test_zero_terminal_snr_keeps_the_first_timestep_and_ends_in_noise():
  plain = schedule.NoiseSchedule.create('cosine', 1000, zero_terminal_snr=False)
  assert RELEASED.alphas_cumprod_T[0] == pytest.approx(plain.alphas_cumprod_T[0], rel=1e-12)
  assert RELEASED.alphas_cumprod_T[-1] == 0
  assert np.all(np.diff(RELEASED.alphas_cumprod_T) < 0)


@pytest.mark.parametrize('kind', parameterization.TO_X0_EPS)
def test_parameterizations_go_there_and_back(kind):
  x0, eps = jax.random.normal(jax.random.key(0), (2, 5))
  alpha, sigma = 0.6, 0.8
  z = alpha * x0 + sigma * eps
  prediction = parameterization.FROM_X0_EPS[kind](x0, eps, alpha, sigma)
  back = parameterization.TO_X0_EPS[kind](prediction, z, alpha, sigma)
  np.testing.assert_allclose(back, (x0, eps), atol=1e-6)


def test_eps_prediction_with_zero_terminal_snr_is_refused():
  with pytest.raises(ValueError, match="use 'v'"):
    parameterization.check_prediction_type('eps', RELEASED)


def test_noise_depends_on_the_sample_s_key_alone():
  keys = jax.random.split(jax.random.key(0), 4)
  latents = jnp.zeros((4, 3, 2, 2, 4))
  whole = loss.draw_noise(keys, latents, 0.1)
  np.testing.assert_array_equal(whole[2:], loss.draw_noise(keys[2:], latents[2:], 0.1))


def test_timesteps_are_uniform_or_shifted_to_high_noise():
  keys = jax.random.split(jax.random.key(0), 20_000)
  plain, shifted = (np.asarray(loss.draw_timesteps(keys, (0, 1000), shift)) for shift in (1.0, 6.0))
  for timesteps in (plain, shifted):
    assert timesteps.min() >= 0 and timesteps.max() == 999
  assert (plain >= 900).mean() == pytest.approx(0.1, abs=0.01)
  assert (shifted >= 900).mean() == pytest.approx(0.4, abs=0.01)  # 1 - 0.9 / (6 - 0.9 * 5).


def test_timesteps_stay_in_their_range():
  keys = jax.random.split(jax.random.key(0), 20_000)
  for shift in (1.0, 6.0):
    timesteps = np.asarray(loss.draw_timesteps(keys, (200, 600), shift))
    assert timesteps.min() == 200 and timesteps.max() == 599


@pytest.mark.parametrize('timestep_range', [(0, 1001), (600, 600), (-1, 600), (600,)])
def test_impossible_timestep_ranges_are_refused(timestep_range):
  with pytest.raises(ValueError, match='loss.timestep_range='):
    loss.check_options(timestep_range, 0.0, RELEASED)


def test_min_snr_weighs_the_same_error_of_x0_alike_in_every_parameterization():
  """The weighted loss of a wrong x0 is min(SNR, gamma) times its error, whatever is predicted."""
  x0, eps = jax.random.normal(jax.random.key(0), (2, 4, 2, 4, 4, 4))
  timesteps, gamma = jnp.array([10, 300, 700, 950]), 5.0
  alpha, sigma = RELEASED.alpha_sigma(timesteps, 5)
  z = loss.add_noise(x0, eps, timesteps, RELEASED)
  wrong_x0 = x0 + 0.1
  wrong_eps = (z - alpha * wrong_x0) / sigma
  snr = RELEASED.alphas_cumprod_T[timesteps] / (1 - RELEASED.alphas_cumprod_T[timesteps])
  assert snr[0] > gamma > snr[-1]
  for kind, predict in parameterization.FROM_X0_EPS.items():
    wrong = predict(wrong_x0, wrong_eps, alpha, sigma)
    losses = loss.denoising_loss(lambda z, t: wrong, x0, eps, timesteps, RELEASED, kind)  # noqa: B023
    weight = loss.min_snr_weight(timesteps, RELEASED, kind, gamma)
    np.testing.assert_allclose(weight * losses, np.minimum(snr, gamma) * 0.01, rtol=1e-3)


def test_min_snr_gives_pure_noise_no_weight():
  assert float(loss.min_snr_weight(jnp.array([999]), RELEASED, 'v', 5.0)[0]) == 0


def test_offset_noise_is_one_value_per_frame_and_channel():
  keys = jax.random.split(jax.random.key(0), 2)
  latents = jnp.zeros((2, 3, 64, 64, 4))
  offset = loss.draw_noise(keys, latents, 0.1) - loss.draw_noise(keys, latents, 0.0)
  np.testing.assert_allclose(offset, np.broadcast_to(offset[:, :, :1, :1], offset.shape), atol=1e-6)
  assert 0.03 < float(jnp.std(offset[:, :, 0, 0])) < 0.3


def test_loss_of_a_perfect_prediction_is_zero_at_every_timestep():
  latents, noise = jax.random.normal(jax.random.key(0), (2, 3, 2, 4, 4, 4))
  timesteps = jnp.array([0, 500, 999])
  alpha, sigma = RELEASED.alpha_sigma(timesteps, 5)
  perfect = alpha * noise - sigma * latents
  losses = loss.denoising_loss(lambda z, t: perfect, latents, noise, timesteps, RELEASED, 'v')
  np.testing.assert_allclose(losses, 0, atol=1e-10)


def test_dropped_conditions_become_null_at_their_own_rates():
  keys = jax.random.split(jax.random.key(0), 4000)
  ones = {name: jnp.ones((4000, 2)) for name in ('text', 'image_embedding', 'fps')}
  null = {'text': jnp.full((1, 2), -1.0), 'image_embedding': jnp.zeros(())}
  rates = {'text': 0.3, 'image_embedding': 0.1, 'all': 0.05}
  slots = {'text': 2, 'image_embedding': None}
  dropped = guidance.drop_conditions(keys, ones, null, rates, slots)
  text, image = dropped['text'][:, 0] == -1, dropped['image_embedding'][:, 0] == 0
  assert float(text.mean()) == pytest.approx(1 - 0.7 * 0.95, abs=0.03)
  assert float(image.mean()) == pytest.approx(1 - 0.9 * 0.95, abs=0.03)
  assert float((text & image).mean()) == pytest.approx(0.05 + 0.95 * 0.03, abs=0.02)
  np.testing.assert_array_equal(dropped['fps'], 1)


def test_guidance_of_one_is_the_conditional_prediction():
  denoise = lambda z, t, c: z * c['text'][:, None, None, None]  # noqa: E731
  z, t = jnp.ones((3, 1, 2, 2, 4)), jnp.zeros((3,), jnp.int32)
  with_text, without = {'text': jnp.arange(3.0)[:, None]}, {'text': jnp.full((3, 1), 7.0)}
  np.testing.assert_allclose(
    guidance.guided(denoise, with_text, without, 1.0)(z, t), denoise(z, t, with_text), atol=1e-6
  )
  far = guidance.guided(denoise, with_text, without, 3.0)(z, t)
  np.testing.assert_allclose(far[:, 0, 0, 0, 0], 7 + 3 * (np.arange(3) - 7), atol=1e-5)


def test_of_large_batches_the_sides_of_guidance_come_in_turn_and_are_the_same(monkeypatch):
  rows = []

  def denoise(z, t, c):
    rows.append(len(z))
    return z * c['text'][:, None, None, None] + t[:, None, None, None, None]

  sides = {'text': jnp.arange(12.0).reshape(3, 4)}, {'text': jnp.full((3, 4), 7.0)}
  z, t = jnp.linspace(-1, 1, 96).reshape(3, 2, 2, 2, 4), jnp.arange(3)
  at_once = guidance.guided(denoise, *sides, 9.0, 0.2)(z, t)
  monkeypatch.setattr(guidance, 'MOST_AT_ONCE', 23)  # Of 24.
  in_turn = guidance.guided(denoise, *sides, 9.0, 0.2)(z, t)
  assert rows == [6, 3]
  np.testing.assert_allclose(in_turn, at_once, rtol=1e-6)


@pytest.mark.parametrize('rescale', [0.3, 1.0])
def test_guidance_rescale_equals_diffusers(rescale):
  without, with_text = np.random.default_rng(0).standard_normal((2, 3, 2, 4, 4, 4), np.float32)
  denoise = lambda z, t, c: c['text']  # noqa: E731
  actual = guidance.guided(denoise, {'text': with_text}, {'text': without}, 9.0, rescale)(
    jnp.ones((3, 2, 4, 4, 4)), jnp.zeros((3,), jnp.int32)
  )
  expected = rescale_noise_cfg(
    torch.from_numpy(without + 9 * (with_text - without)), torch.from_numpy(with_text), rescale
  )
  np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('set_alpha_to_one', [True, False])
@pytest.mark.parametrize('num_steps', [50, 30])
def test_ddim_trajectory_equals_diffusers(num_steps, set_alpha_to_one):
  """The same nonlinear 'network' on both sides; float32 rounding over 50 steps stays below 1e-5
  relative."""
  start = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 4)).astype(np.float32)
  ours = sampler.sample(
    lambda z, t: jnp.tanh(0.7 * z + t[:, None, None, None, None] / 1000),
    start,
    sampler.make_table(RELEASED, num_steps, set_alpha_to_one=set_alpha_to_one),
  )
  oracle = diffusers.DDIMScheduler.from_config(
    SCHEDULER_CONFIG | dict(set_alpha_to_one=set_alpha_to_one)
  )
  oracle.set_timesteps(num_steps)
  latents = torch.from_numpy(start)
  for t in oracle.timesteps:
    latents = oracle.step(torch.tanh(0.7 * latents + t / 1000), t, latents).prev_sample
  np.testing.assert_array_equal(
    sampler.spaced_timesteps('leading', num_steps, 1000), oracle.timesteps
  )
  error = np.abs(np.asarray(ours) - latents.numpy()).max()
  assert error <= 1e-5 * np.abs(latents.numpy()).max()


def test_ancestral_noise_depends_on_the_key_and_eta():
  start, keys = jnp.ones((2, 1, 2, 2, 4)), jax.random.split(jax.random.key(0), 2)

  def run(eta, keys_B=None):
    table = sampler.make_table(RELEASED, 5, eta=eta)
    return np.asarray(sampler.sample(lambda z, t: 0.1 * z, start, table, keys_B=keys_B))

  noisy = run(1.0, keys)
  assert np.abs(noisy - run(0.0)).max() > 0.01
  np.testing.assert_array_equal(noisy, run(1.0, keys))
  np.testing.assert_allclose(noisy[1:], run(1.0, keys[::-1])[:1], atol=1e-6)


@pytest.mark.parametrize('num_steps', [0, -3, 1000, 5000])
def test_impossible_step_counts_are_refused(num_steps):
  with pytest.raises(ValueError, match=f'num_steps={num_steps}'):
    sampler.spaced_timesteps('leading', num_steps, 1000)
