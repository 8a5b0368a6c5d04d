"""Where the time of a run goes: figures per report, a ledger of events, and profiles.

Goodput is the share of wall time, since the process started, that went into training steps: not
into starting, compiling, waiting for input or for a save, or validating.
"""

import contextlib
import json
import time

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from i2vgen_jax import flops


class Figures:
  """Collects times between reports; the lead appends events to workdir/goodput.jsonl.

  The events' names are those of Google's ml-goodput-measurement 0.2.3.

  Args:
    workdir: of the run.
    components: of the run, whose U-Net is counted once per bucket.
    active: whether this process writes.
  """

  def __init__(self, workdir, components, active):
    self._path = epath.Path(workdir) / 'goodput.jsonl'
    self._components, self._active = components, active
    self._flops_of = {}
    self._born = self._reported = time.time()
    self._lost = 0.0  # Since the start, all but steps.
    self.event('job_start_time')
    self.event('training_prep_start_time')
    self._clear()

  def _clear(self):
    self._secs = dict.fromkeys(('input', 'checkpoint', 'compile', 'validation'), 0.0)
    self._steps, self._samples, self._flops = 0, 0, 0.0
    self._reported = time.time()

  def event(self, name, **more):
    """Appends an event with the time of now."""
    if self._active:
      with self._path.open('a') as file:
        file.write(json.dumps({name: time.time()} | more) + '\n')

  @contextlib.contextmanager
  def spending(self, kind):
    """Counts the time within as 'input', 'checkpoint', 'compile' or 'validation'."""
    started = time.time()
    yield
    self._secs[kind] += time.time() - started

  def begin_loop(self):
    """All before was preparation."""
    self.event('training_prep_end_time')
    self._lost = time.time() - self._born
    self._clear()

  def step(self, bucket):
    """Counts one step of a bucket."""
    if bucket.name not in self._flops_of:
      with self.spending('compile'):
        self._flops_of[bucket.name] = flops.train_step(self._components, bucket)
    self._steps += 1
    self._samples += bucket.batch_size
    self._flops += self._flops_of[bucket.name]

  def report(self, step):
    """Figures since the last report, by name; called by all processes at the same step.

    step_secs and what follows from it leave out compilation, validation and saving, but not waiting
    for input.
    """
    now = time.time()
    self.event('step_start_time', step_count=step)
    waits = _of_all_hosts(self._secs['input'])
    training = now - self._reported - sum(self._secs.values()) + self._secs['input']
    self._lost += sum(self._secs.values())
    rate = 1 / max(training, 1e-9)
    device = jax.local_devices()[0]
    values = {
      'step_secs': training / max(self._steps, 1),
      'samples_per_sec': self._samples * rate,
      'tflops_per_device': self._flops * rate / jax.device_count() / 1e12,
      'input_wait_secs': float(waits.max()),
      'checkpoint_stall_secs': self._secs['checkpoint'],
      'goodput': max(0.0, 1 - self._lost / max(now - self._born, 1e-9)),
    }
    if flops.peak(device.device_kind):
      values['mfu'] = values['tflops_per_device'] * 1e12 / flops.peak(device.device_kind)
    if memory := device.memory_stats():  # None on CPU.
      values['device_memory_peak_gib'] = memory['peak_bytes_in_use'] / 2**30
    if len(waits) > 1:
      values['slowest_input_host'] = int(waits.argmax())
    self._clear()
    return values


def _of_all_hosts(value):
  if jax.process_count() == 1:
    return np.array([value])
  return multihost_utils.process_allgather(np.float32(value)).reshape(-1)


class Profile:
  """Writes what the devices do in a window of steps, for xprof or TensorBoard's profile plugin.

  Args:
    workdir: of the run; the profile goes to workdir/profile.
    start: step; 0 is never. A run that resumes after it does not profile.
    num_steps: length of the window.
  """

  def __init__(self, workdir, start, num_steps):
    self._folder = str(epath.Path(workdir) / 'profile')
    self._start, self._stop = start, start + num_steps
    self._running = False

  def start_at(self, step):
    """Starts if the window begins with this step; called right before it."""
    if self._start and step == self._start:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # Every Python call: gigabytes, where something is traced.
      jax.profiler.start_trace(self._folder, profiler_options=options)
      self._running = True

  def stop_at(self, step, result):
    """Stops, when `result` is there, if the window ends before this step; called before validation,
    which is not what is asked for."""
    if step >= self._stop:
      self.close(result)

  def close(self, result=None):
    """Stops, if it is running."""
    if self._running:
      jax.block_until_ready(result)
      self._running = False
      jax.profiler.stop_trace()
      logging.info('Profile written to %s', self._folder)
