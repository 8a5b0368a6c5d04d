"""A run stopped at any time, by any means, and started again, also on another mesh."""

import pathlib
import re
import signal
import time

import jax
import numpy as np
import pytest

from data_pipelines.corpus import json_lines
from i2vgen_jax import train
from i2vgen_jax.parallel import sharding
from i2vgen_jax.process import exit_codes
from i2vgen_jax.stored import checkpoint
from tests import averages, runs, tiny


def final_state(workdir):
  """Every array of the newest checkpoint, on the host."""
  step = checkpoint.latest_step(pathlib.Path(workdir) / 'checkpoints')
  return step, arrays(runs.state(workdir, step))


def arrays(tree):
  """Path -> array."""
  return {
    sharding.path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def test_killed_and_resumed_run_equals_the_straight_one_bit_for_bit(
  finished_run, demo_corpus, tmp_path
):
  log = tmp_path.with_suffix('.log')
  with log.open('w') as file:
    first = runs.start(tmp_path, demo_corpus, 'train.num_steps=6', stderr=file)
  saved = tmp_path / 'checkpoints' / '3' / 'commit_success.txt'
  deadline = time.monotonic() + 600
  while not saved.exists() and first.poll() is None and time.monotonic() < deadline:
    time.sleep(0.01)
  first.kill()
  first.wait()
  assert saved.exists(), log.read_text()[-3000:]
  # Whatever it had done after step 3 was lost or repeated; leave exactly three steps behind.
  for later in (tmp_path / 'checkpoints').iterdir():
    if later.name != '3':
      for file in sorted(later.rglob('*'), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
      later.rmdir()
  # What is reported, and how often, changes no bit; and no video is sampled at the end.
  reports = 'train.log_every=5', 'train.levels_every=4'
  none = 'train.sample_every=3', 'train.num_sample_videos=0'
  second = runs.start(tmp_path, demo_corpus, *reports, *none)
  _, stderr = second.communicate(timeout=600)
  assert second.returncode == 0, stderr[-3000:]
  assert 'Resuming at step 3' in stderr
  expected, found = final_state(finished_run), final_state(tmp_path)
  assert expected[0] == found[0] == 6
  assert expected[1].keys() == found[1].keys()
  for name, value in expected[1].items():
    np.testing.assert_array_equal(found[1][name], value, err_msg=name)
  assert not (tmp_path / 'samples').exists()
  assert_reports_are_of_the_steps_since_it_resumed(tmp_path, runs.losses(finished_run))


def assert_reports_are_of_the_steps_since_it_resumed(workdir, expected):
  rows = {row['step']: row for row in json_lines.read(workdir / 'metrics.jsonl') if 'loss' in row}
  for last, steps in ((5, (4, 5)), (6, (6,))):
    mean = np.mean([expected[step] for step in steps])
    assert rows[last]['loss'] == rows[last]['loss/videos'] == mean
  levels = {step: [name for name in rows[step] if 'timesteps' in name] for step in rows}
  assert 'loss/timesteps_750-1000' in levels[5] and not levels[6]


@pytest.mark.slow
def test_resuming_on_another_mesh_changes_losses_by_rounding_only(
  finished_run, demo_corpus, tmp_path
):
  config = tiny.get_config(demo_corpus)
  config.train.stop_at = 3
  config.mesh = dict(data=8, fsdp=1, tensor=1)
  assert train.train(config, tmp_path) == 0
  config.train.stop_at = 0
  config.mesh = dict(data=2, fsdp=2, tensor=2)
  assert train.train(config, tmp_path) == 0
  expected, found = runs.losses(finished_run), runs.losses(tmp_path)
  np.testing.assert_allclose(
    [found[step] for step in range(1, 7)], [expected[step] for step in range(1, 7)], rtol=1e-5
  )


def test_a_run_averages_the_parameters_of_all_its_steps(finished_run, demo_corpus):
  """Of what it saved after each step; the resumed run above has the same bits."""
  config = tiny.get_config(demo_corpus).train
  saved = [runs.state(finished_run, step) for step in range(1, 7)]
  averaged = arrays(saved[-1]['ema_params'])
  first = arrays(saved[0]['ema_params'])
  later = [arrays(state['params']) for state in saved[1:]]
  for name, average in averaged.items():
    history = [first[name], *(params[name] for params in later)]
    expected = averages.closed_form(history, config.ema_decay, config.ema_warmup, first_step=1)
    np.testing.assert_allclose(average, expected, rtol=1e-6, atol=1e-7, err_msg=name)
  moved = [np.abs(later[-1][name] - average).max() > 1e-5 for name, average in averaged.items()]
  assert np.mean(moved) > 0.5  # Else an average of any kind would do.


@pytest.mark.slow
def test_an_optimizer_in_host_memory_computes_the_same(finished_run, demo_corpus, tmp_path):
  """The first half with it on the device, the second from the host."""
  config = tiny.get_config(demo_corpus)
  config.train.stop_at = 3
  assert train.train(config, tmp_path) == 0
  config.train.stop_at = 0
  config.sharding.offload_optimizer = True
  assert train.train(config, tmp_path) == 0
  expected, found = final_state(finished_run), final_state(tmp_path)
  assert expected[0] == found[0] == 6
  # Another program, whose rounding an optimizer makes more of where a gradient is near zero: each
  # tensor by its norm, as gradients are compared elsewhere, not by its worst element.
  for name, value in expected[1].items():
    error = np.linalg.norm(np.asarray(found[1][name], np.float64) - value)
    assert error <= 1e-4 * np.linalg.norm(value), name
  losses = [runs.losses(run) for run in (finished_run, tmp_path)]
  np.testing.assert_allclose(losses[1][6], losses[0][6], rtol=1e-5)


def test_a_finished_run_started_again_has_nothing_to_do(own_run, demo_corpus):
  config = tiny.get_config(demo_corpus)
  before = final_state(own_run)
  handlers = signal_handlers()
  for stop_at in (0, 3):
    config.train.stop_at = stop_at
    assert train.train(config, own_run) == 0
  assert signal_handlers() == handlers
  after = final_state(own_run)
  assert before[0] == after[0] == 6
  np.testing.assert_array_equal(before[1]['seed'], after[1]['seed'])


def signal_handlers():
  return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.slow
def test_a_run_that_fails_gives_the_signals_back(demo_corpus, tmp_path):
  config = tiny.get_config(demo_corpus)
  with config.ignore_type():
    config.loss.timestep_shift = 'three'  # Met when the step is traced, in the loop.
  handlers = signal_handlers()
  with pytest.raises(TypeError):
    train.train(config, tmp_path)
  assert signal_handlers() == handlers


def test_sigterm_saves_and_exits_42(finished_run, demo_corpus, tmp_path):
  process = runs.start(tmp_path, demo_corpus, 'train.num_steps=100000', 'checkpoint.every=50000')
  log = []
  for line in process.stderr:
    log.append(line)
    if re.search(r'step [1-9]\d*/', line):
      break
  process.send_signal(signal.SIGTERM)
  log.append(process.communicate(timeout=120)[1])
  assert process.returncode == exit_codes.PREEMPTED, ''.join(log)[-3000:]
  step = checkpoint.latest_step(tmp_path / 'checkpoints')
  assert step is not None and f'Stopped by a signal at step {step}' in ''.join(log)
