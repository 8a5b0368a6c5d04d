"""Counts of FLOPs against arithmetic and the released model's table; where a run's time went."""

import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import demo, i2v
from data_pipelines.corpus import buckets
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import flops
from i2vgen_jax.training import goodput
from tests import tiny

ROOT = pathlib.Path(__file__).parents[3]


def test_products_and_convolutions_are_counted_through_loops_and_calls():
  a, b = jnp.zeros((3, 4, 5)), jnp.zeros((3, 5, 6))
  product = 2 * 3 * 4 * 5 * 6
  assert flops.count(jnp.matmul, a, b) == product
  assert flops.count(jax.jit(jax.checkpoint(jnp.matmul)), a, b) == product

  def seven_times(a, b):
    return jax.lax.scan(lambda total, _: (total + (a @ b).sum(), None), 0.0, length=7)

  assert flops.count(seven_times, a, b) == 7 * product
  image, kernel = jnp.zeros((2, 8, 10, 6)), jnp.zeros((3, 3, 3, 4))  # Two groups of channels.

  def convolve(image, kernel):
    return jax.lax.conv_general_dilated(
      image, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=2,
    )  # fmt: skip

  assert flops.count(convolve, image, kernel) == 2 * (2 * 8 * 10 * 4) * 3 * 3 * 3


def test_the_released_unet_costs_what_torch_counts():
  """8.7440 TFLOP forward for 16 frames of 448x256, by torch's counter on the original; which makes
  keys and values of the context anew for each frame (0.1186 TFLOP), and we once per video."""
  config = i2v.get_config()
  config.tokenizer = str(ROOT / demo.DEMO / 'tokenizer')
  config.text_encoder.model.update(vocab_size=856, max_length=77)
  built = session_lib.build(config)
  bucket = buckets.Bucket('a', 16, 256, 448, 8.0, batch_size=2)
  forward = 8.7440e12 - 0.1186e12 * 15 / 16
  assert flops.train_step(built, bucket) == pytest.approx(2 * 3 * forward, rel=0.001)


@pytest.mark.parametrize(
  ('kind', 'peak'),
  [('TPU v5 lite', 197e12), ('TPU v5', 459e12), ('TPU v5p', 459e12), ('cpu', None)],
)
def test_peaks_are_found_by_the_kind_of_device(kind, peak):
  assert flops.peak(kind) == peak


def test_time_is_accounted_to_what_it_went_into(tmp_path):
  built = session_lib.build(tiny.get_config('unused'))
  bucket = buckets.Bucket('a', 4, 32, 32, 8.0, batch_size=8)
  started = time.time()
  timing = goodput.Figures(tmp_path, built, active=True)
  timing.step(bucket)  # Counts FLOPs, once.
  timing.begin_loop()
  for _ in range(2):
    timing.step(bucket)
    with timing.spending('input'):
      time.sleep(0.1)
    time.sleep(0.1)
  with timing.spending('checkpoint'):
    time.sleep(0.3)
  values = timing.report(2)
  whole = time.time() - started
  waited, stalled = values['input_wait_secs'], values['checkpoint_stall_secs']
  assert waited >= 0.2 and stalled >= 0.3
  assert waited + 0.2 <= 2 * values['step_secs'] <= whole - stalled
  assert values['samples_per_sec'] * values['step_secs'] == pytest.approx(8)
  per_step = values['tflops_per_device'] * 1e12 * jax.device_count() * values['step_secs']
  assert per_step == pytest.approx(flops.train_step(built, bucket))
  assert 0 < values['goodput'] <= 1 - (waited + stalled) / whole and 'mfu' not in values
  events = [next(iter(json.loads(line))) for line in (tmp_path / 'goodput.jsonl').open()]
  assert events == [
    'job_start_time', 'training_prep_start_time', 'training_prep_end_time', 'step_start_time',
  ]  # fmt: skip


def test_the_host_with_most_time_of_its_own_is_the_slowest():
  found = goodput.slowest(np.float32([0.2, 0.1, 0.5, 0.3]))
  assert found == dict(slowest_host=2, slowest_host_secs=0.5, slowest_host_ratio=pytest.approx(2.5))
  assert goodput.slowest(np.float32([0.0, 0.1]))['slowest_host'] == 1


def test_waiting_for_devices_is_no_time_of_a_hosts_own(tmp_path, monkeypatch, caplog):
  """As host 1 of two sees it: it gathers what it and a host that waited more had."""
  gathered = []

  def gather(values):
    gathered.append(values)
    return np.stack([values / 4, values])

  monkeypatch.setattr(goodput.multihost_utils, 'process_allgather', gather)
  monkeypatch.setattr(goodput.jax, 'block_until_ready', lambda _: time.sleep(0.3))
  built = session_lib.build(tiny.get_config('unused'))
  timing = goodput.Figures(tmp_path, built, active=True)
  bucket = buckets.Bucket('a', 4, 32, 32, 8.0, batch_size=8)
  timing.step(bucket)
  timing.begin_loop()
  for _ in range(2):
    timing.step(bucket)
    time.sleep(0.2)
  timing.wait_for(None)
  with timing.spending('checkpoint'):
    time.sleep(0.2)
  values = timing.report(2)
  [(own, waited)] = gathered
  assert 0.4 <= own < 0.6 and waited == 0
  assert values['slowest_host'] == 1 and values['slowest_host_ratio'] == pytest.approx(4)
  assert values['slowest_host_secs'] == pytest.approx(own / 2)
  assert values['step_secs'] >= (own + 0.3) / 2
  assert 'Host 1 slows all down' in caplog.text and '4.0 times as long' in caplog.text


def test_what_ends_a_run_is_written_down(tmp_path):
  timing = goodput.Figures(tmp_path, session_lib.build(tiny.get_config('unused')), active=True)
  timing.failed(OSError('disk is full'))
  last = json.loads((tmp_path / 'goodput.jsonl').read_text().splitlines()[-1])
  assert last['error'] == 'OSError: disk is full' and last['job_error_time'] > 0
