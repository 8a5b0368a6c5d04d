"""The losses that a run reports: which steps and samples each mean is of."""

import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax.diffusion import loss
from i2vgen_jax.training import losses

ALL = (0, 1000)


def metrics(value, norm=1.0, levels=None):
  """Of one step."""
  levels = np.zeros((2, loss.NUM_LEVELS)) if levels is None else levels
  return dict(loss=np.float32(value), grad_norm=np.float32(norm), levels=np.float32(levels))


def test_a_report_is_of_the_steps_since_the_last_one_and_of_the_buckets_that_they_had():
  kept = losses.Losses(ALL, 0, first_step=0)
  for bucket, value in (('videos', 1.0), ('images', 4.0), ('videos', 2.0), ('videos', 3.0)):
    step = metrics(value)
    kept.add(bucket, step)
    assert step == {'grad_norm': 1}  # What is left for the log is a number of this step alone.
  assert kept.report(4) == {'loss': 2.5, 'loss/images': 4.0, 'loss/videos': 2.0}
  kept.add('videos', metrics(7.0))
  assert kept.report(5) == {'loss': 7.0, 'loss/videos': 7.0}
  assert kept.report(6) == {}


@pytest.mark.parametrize('bad', [(np.nan, np.nan), (np.inf, 1.0), (0.5, np.nan)])
def test_steps_that_are_not_finite_do_not_count(bad):
  kept = losses.Losses(ALL, 1, first_step=0)
  kept.add('videos', metrics(*bad, levels=np.full((2, 4), bad[0])))
  assert kept.report(1) == {}
  kept.add('videos', metrics(*bad, levels=np.full((2, 4), bad[0])))
  kept.add('videos', metrics(3.0, levels=[[2, 0, 0, 4], [2, 0, 0, 1]]))
  found = kept.report(3)
  assert found == {
    'loss': 3.0, 'loss/videos': 3.0, 'loss/timesteps_0-250': 1.0, 'loss/timesteps_750-1000': 4.0
  }  # fmt: skip


def test_levels_are_reported_at_their_own_cadence_over_all_samples_since_then():
  kept = losses.Losses((0, 100), 4, first_step=6)
  name, found = 'loss/timesteps_0-25', {}
  for step in range(7, 14):
    total = 2.0 if step < 9 else 30.0
    kept.add('videos', metrics(1.0, levels=[[total, 0, 0, 0], [2, 0, 0, 0]]))
    if step % 3 == 0:
      found[step] = kept.report(step).get(name)
  # Due from step 8 and from step 12 on; steps 7 and 8 have means of 1, all later ones of 15.
  assert found == {9: pytest.approx((2 + 2 + 30) / 6), 12: 15.0}
  never = losses.Losses((0, 100), 0, first_step=0)
  never.add('videos', metrics(1.0, levels=[[2, 0, 0, 0], [2, 0, 0, 0]]))
  assert name not in never.report(1000)


@pytest.mark.parametrize('timestep_range', [(0, 1000), (3, 600), (10, 17)])
def test_levels_divide_all_samples_by_their_timesteps(timestep_range):
  edges = loss.level_edges(timestep_range)
  assert (edges[0], edges[-1]) == timestep_range and len(edges) == loss.NUM_LEVELS + 1
  assert np.ptp(np.diff(edges)) <= 1
  timesteps_B = np.arange(*timestep_range)
  loss_B = np.random.default_rng(0).random(len(timesteps_B), np.float32)
  found = loss.by_level(jnp.asarray(loss_B), jnp.asarray(timesteps_B), timestep_range)
  for level, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
    within = loss_B[(timesteps_B >= low) & (timesteps_B < high)]
    np.testing.assert_allclose(found[:, level], [within.sum(), len(within)], rtol=1e-5)
