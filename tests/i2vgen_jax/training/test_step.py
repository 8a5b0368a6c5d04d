"""One optimizer step: what it averages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from i2vgen_jax.diffusion import loss as loss_lib
from i2vgen_jax.training import guard
from i2vgen_jax.training import step as train_step
from tests import averages

FIRST = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
TARGETS = np.random.default_rng(0).standard_normal((6, 8, 4)).astype(np.float32)


def squared_error(params, frozen, batch, seed, step):
  loss_B = jnp.mean((batch['target'] - params['bias'] - params['kernel'].sum(0)) ** 2, axis=1)
  timesteps_B = jnp.linspace(0, 999, 8, dtype=jnp.int32)[: len(loss_B)]
  return loss_B.mean(), loss_lib.by_level(loss_B, timesteps_B, (0, 1000))


def states(num_steps, ema_decay, ema_warmup, first_step=0, accumulation=1):
  """The state before each of the steps and after the last."""
  optimizer = optax.sgd(0.3)
  step = train_step.make_train_step(
    squared_error,
    optimizer,
    lambda step: 0.3,
    accumulation=accumulation,
    ema_decay=ema_decay,
    ema_warmup=ema_warmup,
    offload_optimizer=False,
  )
  params = dict(kernel=jnp.asarray(FIRST), bias=jnp.zeros(4))
  state = train_step.TrainState(
    step=jnp.int32(first_step),
    params=params,
    ema_params=params,
    opt_state=optimizer.init(params),
    seed=jax.random.key_data(jax.random.key(0)),
    guard=guard.start(),
  )
  found = [state]
  for number in range(num_steps):
    state, _ = jax.jit(step)(state, {}, dict(target=TARGETS[number]))
    found.append(state)
  return found


@pytest.mark.parametrize('ema_warmup', [False, True])
@pytest.mark.parametrize(('ema_decay', 'first_step'), [(0.9, 0), (0.3, 0), (0.9, 100)])
def test_the_average_is_the_weighted_sum_of_the_parameters_after_each_step(
  ema_decay, first_step, ema_warmup
):
  """With warm-up, decay 0.9 is not reached in six steps from 0, 0.3 is after three, 0.9 at once
  from step 100."""
  found = states(6, ema_decay, ema_warmup, first_step)
  for name in ('kernel', 'bias'):
    history = [np.asarray(state.params[name]) for state in found]
    expected = averages.closed_form(history, ema_decay, ema_warmup, first_step)
    np.testing.assert_allclose(found[-1].ema_params[name], expected, rtol=2e-6, atol=2e-7)
    # Neither the last parameters nor the first ones, which a wrong decay may come near to.
    for other in (history[-1], history[0]):
      assert np.abs(expected - other).max() > 1e-3


def test_without_decay_the_average_is_the_last_parameters():
  last = states(3, ema_decay=0.0, ema_warmup=False)[-1]
  jax.tree.map(np.testing.assert_array_equal, last.ema_params, last.params)


@pytest.mark.parametrize('accumulation', [2, 8])
def test_micro_batches_give_the_parameters_of_whole_ones(accumulation):
  """Each mean over rows is of all of them: the sums differ by their order alone."""
  whole, split = (states(6, 0.9, True, accumulation=number)[-1] for number in (1, accumulation))
  for name in ('kernel', 'bias'):
    np.testing.assert_allclose(split.params[name], whole.params[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(split.ema_params[name], whole.ema_params[name], rtol=1e-5, atol=1e-6)
