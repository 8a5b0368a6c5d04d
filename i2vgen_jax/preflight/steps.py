"""Some steps of the run itself, a save, an end as by a failure, and the rest from what is saved."""

import os
import signal
from collections.abc import Iterator

import ml_collections
from etils import epath

from data_pipelines.corpus import json_lines
from i2vgen_jax import train
from i2vgen_jax.preflight import report
from i2vgen_jax.process import hosts, run_folder

ENOUGH = 0.8  # Of the MFU that the plan assumes.


def shortened(config: ml_collections.ConfigDict, stop_at: int) -> ml_collections.ConfigDict:
  """The config, to be stopped: its programs are those of the run, for no shape and no schedule
  differs."""
  short = config.copy_and_resolve_references()
  with short.unlocked():
    short.train.stop_at, short.train.log_every = stop_at, 1
    short.train.eval_every = short.train.sample_every = 0
    short.train.tensorboard = False
    short.checkpoint.every, short.checkpoint.every_minutes = stop_at, 0.0
  return short


def first(
  config: ml_collections.ConfigDict, workdir: epath.Path, steps: int
) -> Iterator[report.Line]:
  """Half of the steps, and a save."""
  half = max(1, steps // 2)
  train.train(shortened(config, half), workdir)
  saved = run_folder.checkpoint_steps(workdir)
  yield report.Line('steps and save', saved[-1:] == [half], f'{half} steps, saved: {saved}')


def die() -> None:
  """Ends every process as a failing machine does, once all have come here."""
  hosts.meet('all die')
  os.kill(os.getpid(), signal.SIGKILL)


def second(
  config: ml_collections.ConfigDict, workdir: epath.Path, steps: int, planned: float | None
) -> Iterator[report.Line]:
  """The rest of the steps, from what was saved; and the rate of all, against the plan's.

  Args:
    config: of the run.
    workdir: of `first`.
    steps: in all.
    planned: MFU that the plan assumes; None compares with nothing.
  """
  half, last = max(1, steps // 2), max(2, steps)
  train.train(shortened(config, last), workdir)
  rows = {row['step']: row for row in json_lines.read(workdir / 'metrics.jsonl') if 'loss' in row}
  whole = sorted(rows) == list(range(1, last + 1))
  text = f'went on after step {half}; each of {last} steps was made'
  if not whole:
    text = f'steps {sorted(rows)} were made, of {last}, saved at {half}'
  yield report.Line('kill and restore', whole, text)
  later = [row for step, row in rows.items() if step > half + 1]  # The first after a start waits.
  if not later:
    return
  secs = sum(row['step_secs'] for row in later) / len(later)
  mfus = [row['mfu'] for row in later if 'mfu' in row]
  if planned is None or not mfus:
    yield report.Line('step', None, f'{secs:.3g} s; no plan to compare with', secs)
    return
  mfu = sum(mfus) / len(mfus)
  text = f'{secs:.3g} s at {mfu:.1%} of the peak; {planned:.0%} planned'
  if mfu < ENOUGH * planned:
    text += ': look at the lines above, and at a profile (--config.train.profile_at)'
  yield report.Line('step', mfu >= ENOUGH * planned, text, mfu, planned)
