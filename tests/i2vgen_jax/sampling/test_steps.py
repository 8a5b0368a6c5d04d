"""A program that samples tells how far it is, and computes the same."""

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import progress
from i2vgen_jax.diffusion import sampler, schedule
from i2vgen_jax.sampling import steps as steps_lib

SCHEDULE = schedule.NoiseSchedule.create('cosine', 1000, zero_terminal_snr=True)
# Thirteen network calls: the last step has no correction.
TABLE = sampler.make_table(SCHEDULE, 7, kind='heun', spacing='leading')
NOISE = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 4)).astype(np.float32)


def denoise(z, timesteps):
  return jnp.tanh(z) * (1 + timesteps[:, None, None, None, None] / 1000)


def test_each_network_call_is_told_and_changes_no_bit(monkeypatch):
  counted = []
  monkeypatch.setattr(progress.Progress, 'update', lambda self, number: counted.append(number))
  steps = steps_lib.Steps()
  steps.per_run = len(TABLE['timestep'])
  told = jax.jit(lambda noise: sampler.sample(denoise, noise, TABLE, on_call=steps._tick))
  silent = jax.jit(lambda noise: sampler.sample(denoise, noise, TABLE))
  with steps.shown(1):
    np.testing.assert_array_equal(told(NOISE), silent(NOISE))
    jax.effects_barrier()
    assert counted == [1] * 13


def test_a_run_that_tells_nothing_counts_when_it_ends(monkeypatch):
  counted = []
  monkeypatch.setattr(progress.Progress, 'update', lambda self, number: counted.append(number))
  for folder, ticks, rest in (('/kept', 0, 5), (None, 0, 0), (None, 5, 0), (None, 3, 2)):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', folder)
    try:
      steps, counted[:] = steps_lib.Steps(), []
      steps.per_run = 5
      with steps.shown(2):
        assert (steps.callback is None) == bool(folder)
        for _ in range(ticks):
          steps._tick()
        steps.end_run()
      assert sum(counted) == ticks + rest
    finally:
      jax.config.update('jax_compilation_cache_dir', before)
