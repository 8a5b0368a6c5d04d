"""Where the time of a run goes: figures per report, and a ledger of events.

Goodput is the share of wall time, since the process started, that went into training steps: not
into starting, compiling, waiting for input or for a save, or validating.
"""

import contextlib
import time
from collections.abc import Generator
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import json_lines
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import flops
from i2vgen_jax.process import watchdog as watchdog_lib

SLOW_RATIO = 1.5  # A host whose own time is beyond it, and most of the step, is warned of.


class Figures:
  """Collects times between reports; the lead appends events to workdir/goodput.jsonl.

  The events' names are those of Google's ml-goodput-measurement 0.2.3.

  Args:
    workdir: of the run.
    session: of the run, whose U-Net is counted once per bucket.
    active: whether this process writes.
    watchdog: that has limits for what time goes into; without, there are none.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    session: session_lib.Session,
    active: bool,
    watchdog: watchdog_lib.Watchdog | None = None,
  ):
    self._watchdog = watchdog or watchdog_lib.Watchdog({})
    self._log = json_lines.Log(epath.Path(workdir) / 'goodput.jsonl') if active else None
    self._session = session
    self._flops_of = {}
    self._born = self._reported = time.time()
    self._lost = 0.0  # Seconds since the start that went into no step.
    self.event('job_start_time')
    self.event('training_prep_start_time')
    self._clear()

  def _clear(self) -> None:
    kinds = ('input', 'checkpoint', 'compile', 'validation', 'barrier')
    self._secs = dict.fromkeys(kinds, 0.0)
    self._steps, self._samples, self._flops, self._device_secs = 0, 0, 0.0, 0.0
    self._reported = time.time()

  def event(self, name: str, **more: Any) -> None:
    """Appends an event with the current time, and with fields of its own.

    Args:
      name: of the event.
      **more: its fields.
    """
    if self._log:
      self._log.append({name: time.time()} | more)

  @contextlib.contextmanager
  def spending(self, kind: str) -> Generator[None, None, None]:
    """Counts the time within as 'input', 'checkpoint', 'compile', 'validation' or 'barrier', and
    bounds it."""
    started = time.time()
    with self._watchdog.within(kind):
      yield
    self._secs[kind] += time.time() - started

  def begin_loop(self) -> None:
    """Counts all time before as preparation; what is no other phase is a step from now on."""
    self._watchdog.enter('step')
    self.event('training_prep_end_time')
    self._lost = time.time() - self._born
    self._clear()

  def step(self, bucket: buckets_lib.Bucket) -> None:
    """Counts one step of a bucket."""
    if bucket.name not in self._flops_of:
      with self.spending('compile'):
        self._flops_of[bucket.name] = flops.train_step(self._session, bucket)
    self._steps += 1
    self._samples += bucket.batch_size
    self._flops += self._flops_of[bucket.name]

  def wait_for(self, results: Any) -> None:
    """Waits for the devices. What is left of a host's time is its own: others wait for the host
    that has most of it, and it for none."""
    started = time.time()
    jax.block_until_ready(results)
    self._device_secs += time.time() - started

  def failed(self, error: Exception | str) -> None:
    """Appends what ends the run, for `status`; storage that stays away is no other error."""
    text = error if isinstance(error, str) else f'{type(error).__name__}: {error}'
    with contextlib.suppress(OSError):
      self.event('job_error_time', error=text[:1000])

  def report(self, step: int) -> dict[str, float | int]:
    """Figures since the last report, by name; all processes call it at the same step.

    step_secs and what follows from it leave out compilation, validation and saving, but include
    waiting for input.
    """
    now = time.time()
    self.event('step_start_time', step_count=step)
    training = now - self._reported - sum(self._secs.values()) + self._secs['input']
    own = np.array([training - self._device_secs, self._secs['input']], np.float32)
    own, waits = multihost_utils.process_allgather(own).reshape(-1, 2).T
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
    if peak := flops.peak(device.device_kind):
      values['mfu'] = values['tflops_per_device'] * 1e12 / peak
    if memory := device.memory_stats():  # None on CPU.
      values['device_memory_peak_gib'] = memory['peak_bytes_in_use'] / 2**30
    if len(waits) > 1:
      values['slowest_input_host'] = int(waits.argmax())
      values |= slowest(own / max(self._steps, 1))
      self._warn_of_slow_host(values)
    self._clear()
    return values

  def _warn_of_slow_host(self, values: dict[str, float | int]) -> None:
    secs, ratio = values['slowest_host_secs'], values['slowest_host_ratio']
    if self._log and ratio > SLOW_RATIO and secs > values['step_secs'] / 2:
      logging.warning(
        'Host %d slows all down: %.3g s of its own in each step of %.3g s, %.1f times as long as '
        'the others.', values['slowest_host'], secs, values['step_secs'], ratio,
      )  # fmt: skip


def slowest(secs: np.ndarray) -> dict[str, float | int]:
  """Names the slowest host.

  Args:
    secs: of each of several hosts, its own time in a step.
  Returns:
    slowest_host, its slowest_host_secs, and slowest_host_ratio: by the median of the others.
  """
  host = int(secs.argmax())
  others = float(np.median(np.delete(secs, host)))
  ratio = float(secs[host]) / max(others, 1e-9)
  return dict(slowest_host=host, slowest_host_secs=float(secs[host]), slowest_host_ratio=ratio)
