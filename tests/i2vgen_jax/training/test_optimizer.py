"""Parameter groups, schedule and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from i2vgen_jax.training import optimizer

PARAMS = {
  'spatial': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones((2,))},
  'temporal': {'kernel': jnp.ones((2, 2))},
}
ADAMW = dict(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, max_grad_norm=0.0)


def updated(grads=None, learning_rate=lambda step: 0.1, groups=(), **changes):
  rule = optimizer.make_optimizer(PARAMS, learning_rate, **(ADAMW | changes), groups=groups)
  grads = grads or {
    'spatial': {'kernel': jnp.full((2, 2), 3.0), 'bias': jnp.full((2,), -3.0)},
    'temporal': {'kernel': jnp.full((2, 2), 3.0)},
  }
  updates, state = rule.update(grads, rule.init(PARAMS), PARAMS)
  return optax.apply_updates(PARAMS, updates), state


def test_without_groups_it_is_optax_adamw():
  grads = {
    'spatial': {'kernel': jnp.array([[1.0, -2.0], [0.5, 3.0]]), 'bias': jnp.array([1.0, -1.0])},
    'temporal': {'kernel': jnp.array([[0.1, 0.2], [0.3, 0.4]])},
  }
  ours, _ = updated(grads, weight_decay=0.01)
  mask = {'spatial': {'kernel': True, 'bias': False}, 'temporal': {'kernel': True}}
  theirs = optax.adamw(0.1, weight_decay=0.01, mask=mask)
  updates, _ = theirs.update(grads, theirs.init(PARAMS), PARAMS)
  expected = optax.apply_updates(PARAMS, updates)
  for name in ('spatial', 'temporal'):
    np.testing.assert_allclose(ours[name]['kernel'], expected[name]['kernel'], rtol=1e-6)


def test_a_group_s_lr_multiplies_its_steps():
  params, _ = updated(groups=(dict(match='temporal', lr=0.5),))
  np.testing.assert_allclose(params['spatial']['kernel'], 0.9, rtol=1e-5)
  np.testing.assert_allclose(params['temporal']['kernel'], 0.95, rtol=1e-5)


def test_a_frozen_group_stays_and_has_no_moments():
  params, state = updated(groups=(dict(match='spatial', freeze=True),))
  np.testing.assert_array_equal(params['spatial']['kernel'], 1)
  np.testing.assert_allclose(params['temporal']['kernel'], 0.9, rtol=1e-5)
  assert sum(leaf.size for leaf in _arrays(state)) < 2 * 4 + 8


def test_the_first_matching_group_wins():
  groups = (dict(match='spatial/kernel', lr=0.0), dict(match='spatial', lr=0.5))
  params, _ = updated(groups=groups)
  np.testing.assert_allclose(params['spatial']['kernel'], 1.0)
  np.testing.assert_allclose(params['spatial']['bias'], 1.05, rtol=1e-5)


def test_weight_decay_is_for_kernels_and_can_be_set_by_group():
  zero = {
    'spatial': {'kernel': jnp.zeros((2, 2)), 'bias': jnp.zeros((2,))},
    'temporal': {'kernel': jnp.zeros((2, 2))},
  }
  params, _ = updated(zero, weight_decay=0.5, groups=(dict(match='temporal', weight_decay=0.0),))
  np.testing.assert_allclose(params['spatial']['kernel'], 0.95, rtol=1e-6)
  np.testing.assert_allclose(params['spatial']['bias'], 1.0)
  np.testing.assert_allclose(params['temporal']['kernel'], 1.0)


def test_clipping_counts_trained_parameters_only():
  """With eps far above the gradient Adam is linear in it, so that a clipped gradient shows."""
  groups = (dict(match='spatial', freeze=True),)
  settings = dict(learning_rate=lambda step: 1e5, groups=groups, eps=1e6)
  plain, _ = updated(**settings)
  clipped, _ = updated(**settings, max_grad_norm=3.0)  # |temporal| is 6.
  step = lambda params: float(1 - params['temporal']['kernel'][0, 0])  # noqa: E731
  assert step(clipped) == pytest.approx(step(plain) / 2, rel=0.05)


@pytest.mark.parametrize(
  ('group', 'message'),
  [
    (dict(match='nowhere'), 'fits no parameter'),
    (dict(match='.', freeze=True), 'nothing is left'),
    (dict(match='.', learning_rate=2.0), "unknown: \\['learning_rate'\\]"),
    (dict(lr=2.0), 'needs `match`'),
  ],
)
def test_groups_that_cannot_be_are_named(group, message):
  with pytest.raises(ValueError, match=message):
    updated(groups=(group,))


def test_warm_up_rises_to_the_peak_then_the_cosine_falls_to_zero():
  rate = optimizer.learning_rate_schedule('cosine', 1.0, warmup_steps=10, num_steps=110)
  values = np.array([float(rate(step)) for step in range(111)])
  np.testing.assert_allclose(values[:10], np.arange(1, 11) / 10, rtol=1e-6)
  assert values.argmax() in (9, 10) and np.all(np.diff(values[10:]) < 0)
  assert values[60] == pytest.approx(0.5, abs=1e-6) and values[110] == pytest.approx(0, abs=1e-7)


def test_a_constant_schedule_stays_at_its_peak():
  rate = optimizer.learning_rate_schedule('constant', 0.3, warmup_steps=0, num_steps=10)
  assert [float(rate(step)) for step in (0, 5, 9)] == pytest.approx([0.3] * 3)


def _arrays(state):
  return [leaf for leaf in jax.tree.leaves(state) if hasattr(leaf, 'size')]


def test_muon_steps_along_an_orthogonal_matrix_of_the_asked_size():
  grads = {
    'spatial': {'kernel': jnp.array([[3.0, 1.0], [0.0, 0.1]]), 'bias': jnp.array([1.0, -1.0])},
    'temporal': {'kernel': jnp.zeros((2, 2))},
  }
  params, _ = updated(grads, kind='muon', muon_rms=0.5, learning_rate=lambda step: 0.1)
  step = 1 - np.asarray(params['spatial']['kernel'])
  assert np.sqrt((step**2).mean()) == pytest.approx(0.05, rel=0.3)  # Newton-Schulz is rough.
  gram = step @ step.T / (step**2).sum() * 2
  np.testing.assert_allclose(gram, np.eye(2), atol=0.5)
  bias = np.asarray(params['spatial']['bias']) - 1  # Adam's, with momentum looked ahead.
  assert bias[0] == pytest.approx(-bias[1]) and 0.1 <= bias[1] < 0.2


def test_an_unknown_kind_lists_the_known_ones():
  with pytest.raises(ValueError, match="known: 'adamw', 'muon'"):
    updated(kind='sgd')


def test_muon_by_shape_is_muon():
  """Stacking tensors of one shape changes nothing but the compile time."""
  rng = np.random.default_rng(0)
  params = {f'k{i}': jnp.asarray(rng.normal(size=(4, 6)), jnp.float32) for i in range(3)}
  params['conv'] = jnp.asarray(rng.normal(size=(3, 3, 4, 6)), jnp.float32)
  params['bias'] = jnp.asarray(rng.normal(size=(6,)), jnp.float32)
  grads = jax.tree.map(lambda x: jnp.cos(3 * x), params)

  def dims(tree):
    numbers = optax.contrib.MuonDimensionNumbers
    return jax.tree.map(
      lambda x: numbers(tuple(range(x.ndim - 1)), (x.ndim - 1,)) if x.ndim > 1 else None, tree
    )

  theirs = optax.contrib.muon(
    1.0, consistent_rms=0.2, adam_learning_rate=1.0, muon_weight_dimension_numbers=dims
  )
  expected, _ = theirs.update(grads, theirs.init(params), params)
  rule = optimizer.make_optimizer(
    params, lambda step: 1.0, **(ADAMW | dict(kind='muon', muon_rms=0.2)), groups=()
  )
  found, _ = rule.update(grads, rule.init(params), params)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
