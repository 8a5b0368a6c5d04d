"""Steps of a run that are taken again give its next checkpoint to the bit, or the tensors that
differ are named."""

import functools
import json

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax import replay
from i2vgen_jax.training import examine, writer
from tests import runs


def test_a_run_repeats_to_the_bit(finished_run):
  done = runs.module('i2vgen_jax.replay', f'--workdir={finished_run}', '--step=4')
  assert done.returncode == 0, done.stderr[-2000:]
  assert f'steps 4 to 5 of {finished_run}, taken again: all ' in done.stderr


def test_checkpoints_that_have_no_successor_are_refused(finished_run):
  with pytest.raises(ValueError, match=r'holds checkpoints \[1, 2, 3, 4, 5, 6\]: --step must be'):
    replay.replay(finished_run, 6)


@flax.struct.dataclass
class State:
  params: dict
  guard: jax.Array


def steps_of(flipped_call=0):
  """A step that donates its state and, when called for that time, flips one bit of a kernel."""
  calls = []

  @functools.partial(jax.jit, donate_argnums=0)
  def take(state, batch):
    params = jax.tree.map(lambda value: value * 2 + batch, state.params)
    return state.replace(params=params)

  def steps(bucket, state, frozen, batch):
    calls.append(bucket)
    state = take(state, batch)
    if len(calls) == flipped_call:
      bits = np.array(state.params['mid']['kernel']).view(np.int32)
      bits[1] ^= 1
      state.params['mid']['kernel'] = jnp.asarray(bits.view(np.float32))
    return state, {'loss': 1.0, 'grad_norms': {'mid': jnp.float32(3)}}

  return steps, calls


def first():
  kernels = {
    name: {'kernel': jnp.arange(1.0, 5.0) * size} for size, name in ((1, 'in'), (2, 'mid'))
  }
  return State(kernels, jnp.full(3, jnp.nan))  # NaN equals itself to the bit.


def test_a_step_is_taken_twice_at_its_cadence_and_its_result_is_that_of_once(tmp_path):
  steps, calls = steps_of()
  examined = examine.Examined(steps, writer.Writer(tmp_path), 3, 0)
  state, plain = first(), first()
  for step in range(4):
    state, metrics = examined(step, f'{step}', state, {}, 0.1)
    plain, _ = steps_of()[0]('', plain, {}, 0.1)
  assert calls == ['0', '1', '2', '2', '3'] and metrics == {'loss': 1.0}
  jax.tree.map(np.testing.assert_array_equal, state, plain)


def test_another_bit_the_second_time_ends_the_run_with_the_tensor_and_device(tmp_path):
  steps, _ = steps_of(flipped_call=2)
  examined = examine.Examined(steps, writer.Writer(tmp_path), 1, 0)
  message = r'DATA_LOSS: step 0 taken twice: 1 of 3 .*\n  params/mid/kernel: by up to .*, on .*CPU'
  with pytest.raises(jax.errors.JaxRuntimeError, match=f'(?i){message}'):
    examined(0, '', first(), {}, 0.1)


def test_norms_by_block_are_of_the_gradient_and_of_what_the_step_changed(tmp_path):
  steps, calls = steps_of()
  examined = examine.Examined(steps, writer.Writer(tmp_path), 0, 2)
  state = first()
  for step in range(3):
    before = jax.tree.map(np.array, state.params)
    state, _ = examined(step, '', state, {}, 0.5)
    if step == 1:
      change = np.linalg.norm(np.array(state.params['in']['kernel']) - before['in']['kernel'])
  [row] = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').open()]
  assert row['step'] == 2 and row['grad_norm/mid'] == 3 and len(calls) == 3
  assert row['update_norm/in'] == pytest.approx(change, rel=1e-6) and 'update_norm/mid' in row
