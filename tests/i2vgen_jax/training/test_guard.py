"""Steps that would break a run change nothing but the position, and are reported."""

import json
import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from data_pipelines.corpus import buckets
from data_pipelines.stream import fields, stream
from i2vgen_jax.diffusion import loss as loss_lib
from i2vgen_jax.process import errors
from i2vgen_jax.training import guard, optimizer, writer
from i2vgen_jax.training import step as step_lib

NUM_STEPS, BAD = 40, 35  # The median counts from guard.MIN_NORMS on.
TARGETS = np.random.default_rng(0).uniform(1, 2, (NUM_STEPS, 4, 3)).astype(np.float32)
BREAK = {
  'nan': lambda batch: batch.at[1, 2].set(np.nan),
  'gradient alone': lambda batch: batch.at[0, 0].set(0),
  'large': lambda batch: batch * 100,
}


def loss(params, frozen, batch, seed, step):
  """Of the part of the data that the step's own draw takes."""
  drawn = jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(seed), step))
  root = jnp.sqrt((params['bias'] * batch[0, 0]) ** 2).sum()  # Its gradient at 0 is 0 / 0.
  error = jnp.mean((batch - params['kernel'].sum(0) * drawn - params['bias']) ** 2)
  return error + root, jnp.zeros((2, loss_lib.NUM_LEVELS))


@pytest.fixture(scope='module')
def parts():
  """(first state, jitted step) with everything that follows the number of updates."""
  params = dict(kernel=jnp.ones((2, 3)), bias=jnp.ones(3))
  rate = optimizer.learning_rate_schedule('cosine', 0.1, 3, NUM_STEPS)
  rule = optimizer.make_optimizer(
    params, rate, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1, max_grad_norm=1.0,
    groups=[dict(match='kernel', lr=0.5)],
  )  # fmt: skip
  step = step_lib.make_train_step(
    loss, rule, rate, accumulation=2, ema_decay=0.99, ema_warmup=True, skip_norm=10.0,
    offload_optimizer=False,
  )  # fmt: skip
  state = step_lib.TrainState(
    step=jnp.int32(0),
    params=params,
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=rule.init(params),
    seed=jax.random.key_data(jax.random.key(0)),
    guard=guard.start(),
  )
  return state, jax.jit(step)


def run(parts, change=None):
  """(state before the bad step, after it, last) with that batch changed; None leaves it out."""
  state, step = parts
  found = []
  for number in range(NUM_STEPS):
    if number in (BAD, BAD + 1):
      found.append(state)
    batch = jnp.asarray(TARGETS[number])
    if number == BAD and change is None:
      skipped = state.guard.replace(num_skipped=state.guard.num_skipped + 1)
      state = state.replace(step=state.step + 1, guard=skipped)
      continue
    state, metrics = step(state, {}, change(batch) if number == BAD else batch)
    if number > BAD:
      assert np.isfinite(metrics['loss']) and metrics['num_skipped_steps'] == 1
  return *found, state


def trained(state):
  return jax.tree.leaves((state.params, state.ema_params, state.opt_state, state.seed))


def assert_same_bits(one, other):
  for left, right in zip(trained(one), trained(other), strict=True):
    assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


@pytest.mark.parametrize('how', BREAK)
def test_a_bad_step_moves_the_position_alone(parts, how):
  before, after, last = run(parts, BREAK[how])
  assert after.step == before.step + 1 == BAD + 1 and last.step == NUM_STEPS
  assert_same_bits(before, after)
  assert last.guard.num_skipped == 1 and last.guard.skipped_steps[0] == BAD
  assert np.isfinite(last.guard.skipped_norms[0]) == (how == 'large')
  # As if its batch had not been there.
  *_, without = run(parts)
  assert_same_bits(last, without)


def test_a_lasting_rise_is_not_skipped_for_ever():
  state = guard.start()
  judge = jax.jit(lambda g, step, norm: guard.judge(g, step, 0.0, norm, 5.0))
  kept = []
  for step in range(300):
    keep, state = judge(state, step, jnp.float32(1 if step < 150 else 20))
    kept.append(bool(keep))
  assert kept[:150] == [True] * 150 and not any(kept[150:200]) and all(kept[230:])


def test_few_norms_skip_nothing_for_its_size():
  first = guard.start().replace(norms=jnp.full(guard.NORMS, jnp.nan).at[:31].set(1.0))
  assert guard.judge(first, 31, 0.0, 1e6, 5.0)[0]
  enough = first.replace(norms=first.norms.at[31].set(1.0))
  assert not guard.judge(enough, 32, 0.0, 1e6, 5.0)[0]
  assert guard.judge(enough, 32, 0.0, 1e6, 0.0)[0]


def state_of(skipped):
  """After skips at these steps."""
  state = guard.start()
  for number in skipped:
    _, state = guard.judge(state, jnp.int32(number), jnp.nan, jnp.float32(1), 0.0)
  return state


def test_skipped_steps_are_reported_once_with_their_keys(demo_corpus, tmp_path, caplog):
  video = buckets.Bucket('video', 4, 32, 32, fps=8, batch_size=4)
  source = stream.TrainStream(
    str(demo_corpus / 'videos'), [video], fields.released(len, 16), seed=0, sandbox=False
  )
  log = writer.Writer(tmp_path)
  skips = guard.Skips(state_of([1]), source, log, max_skipped=2, skip_window=10)
  metrics = dict(loss=np.float32(np.nan), num_skipped_steps=2, bucket='video')
  absl_logging.use_absl_handler()
  with caplog.at_level(logging.WARNING, 'absl'):
    absl_logging.get_absl_logger().propagate = True
    found = skips.report(6, state_of([1, 5]), metrics)
    skips.report(7, state_of([1, 5]), metrics)
  assert found == dict(num_skipped_steps=2, bucket='video')  # NaN is not JSON.
  keys = ', '.join(example['key'] for example in source.examples_at(5))
  assert caplog.text.count('Skipped step 5: loss or gradient not finite') == 1
  assert f'Bucket video, keys {keys}.' in caplog.text and 'step 1:' not in caplog.text
  [row] = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').open()]
  assert row['step'] == 5 and row['skipped_keys'] == keys
  # Steps 1 and 5 are no longer of the last ten: two more are within the budget, three are not.
  skips.report(18, state_of([1, 5, 16, 17]), {})
  with pytest.raises(errors.TrainingError, match=r'3 of the last 10 steps.* last good step is 15,'):
    skips.report(19, state_of([1, 5, 16, 17, 18]), {})


def test_a_run_without_a_gradient_says_so_once(tmp_path, caplog):
  log = writer.Writer(tmp_path)
  absl_logging.use_absl_handler()
  with caplog.at_level(logging.WARNING, 'absl'):
    absl_logging.get_absl_logger().propagate = True
    for first, said in ((0.0, 1), (1.0, 1)):
      skips = guard.Skips(guard.start(), None, log, max_skipped=2, skip_window=10)
      skips.report(1, guard.start(), dict(grad_norm=np.float32(first)))
      skips.report(2, guard.start(), dict(grad_norm=np.float32(0)))
      assert caplog.text.count('No parameter that learns gets a gradient') == said


@pytest.mark.parametrize(
  'change', [dict(max_skipped=64), dict(skip_window=0), dict(skip_norm=0.5), dict(skip_norm=-1)]
)
def test_budgets_that_make_no_sense_are_refused(change):
  train = dict(max_skipped=10, skip_window=1000, skip_norm=0.0) | change
  [(name, _)] = change.items()
  with pytest.raises(ValueError, match=f'train.{name}='):
    guard.check(types.SimpleNamespace(train=types.SimpleNamespace(**train)))
