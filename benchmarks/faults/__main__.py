"""Faults at random moments of small runs: nothing may be lost, different, silent or left behind.

  python -m benchmarks.faults [--seed=0] [--count=100] [--processes=1,2] [--folder=DIR] [--only=K]

Each fault (draw.py) happens once to a run of the shrunk demo config on one or two processes of one
CPU device. The run is started again as long as its exit code says so, to its end; then its last
checkpoint is compared with that of an undisturbed run, all leaves, to the bit. In a row:

  differs   leaves that are not equal
  lost      steps done again beyond those since the last save; a damaged save may be lost
  told      a log or an exit code tells of it
  hung      processes that did not end by themselves within two minutes of the first
  orphans   children that are alive five seconds after the end

One is silent if it struck, is not told, and may have changed something. Some come too late: a run
has ended before they strike. A run whose batch NAN_STEP gives no number is compared with such a run
that nothing else happens to. Exit code 1 if anything is not as it should be.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

os.environ |= {
  'JAX_PLATFORMS': 'cpu',
  'JAX_NUM_CPU_DEVICES': '1',
  'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
  'STORAGE_DEADLINE_SECS': '3',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'XLA_FLAGS': '--xla_backend_optimization_level=0',  # Compiling takes longer than running.
}

from absl import logging  # noqa: E402 - JAX reads its environment when it is imported.

import i2vgen_jax.train  # noqa: E402, F401 - imported once for all starts.
from benchmarks.faults import draw, inject, starts  # noqa: E402
from benchmarks.same_numbers import cases, collect  # noqa: E402

MAX_STARTS = 8
ORPHAN_SECS = 5
# Of a start whose programs are compiled.
LIMITS = {
  'start': 90,
  'compile': 90,
  'input': 30,
  'step': 30,
  'checkpoint': 45,
  'validation': 45,
  'barrier': 45,
}


def main() -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--count', type=int, default=100)
  parser.add_argument('--processes', default='1,2')
  parser.add_argument('--only', help='one kind of fault')
  parser.add_argument('--folder', help='kept; a temporary one if not given')
  options = parser.parse_args()
  logging.set_verbosity(logging.ERROR)
  processes = tuple(map(int, options.processes.split(',')))
  faults = draw.faults(options.seed, options.count, processes)
  faults = [fault for fault in faults if options.only in (None, fault.kind)]
  folder = pathlib.Path(options.folder or tempfile.mkdtemp(prefix='i2vgen_jax_faults_')).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  make_corpus(folder / 'corpus')
  references = Reference(folder)
  totals = collections.Counter()
  for number, fault in enumerate(faults):
    row = undergo(fault, folder / f'{options.seed}_{number}', references)
    silent = row['struck'] and not row['told'] and not may_be_silent(fault, row['codes'])
    wrong = [name for name in ('differs', 'lost', 'hung', 'orphans') if row[name]]
    wrong += ['silent'] * silent
    totals.update(wrong or ['good' if row['struck'] else 'came too late'])
    print(f'{number:3} {fault}: {" ".join(wrong).upper() or "good"} {json.dumps(row)}', flush=True)
  print(f'{len(faults)} faults:', dict(totals))
  bad = set(totals) - {'good', 'came too late'}
  if not options.folder and not bad:
    shutil.rmtree(folder)
  return 1 if bad else 0


def make_corpus(folder: pathlib.Path) -> None:
  """The demo's videos, ingested."""
  if (folder / 'videos/manifest.json').exists():
    return
  counts = ('--num_videos=16', '--num_validation=4', '--num_images=4', '--num_processes=1')
  for command in (
    ('demo', f'--output={folder / "source"}', *counts),
    ('ingest', f'--input={folder / "source/webvid"}', f'--output={folder / "videos"}'),
  ):
    subprocess.run([sys.executable, '-m', 'data_pipelines', *command], check=True)


class Reference:
  """Undisturbed runs: (processes, whether a batch is broken) -> their last checkpoint."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._states: dict[tuple[int, bool], dict[str, str]] = {}

  def state(self, processes: int, broken: bool) -> dict[str, str]:
    """As the function `state`."""
    key = processes, broken
    if key not in self._states:
      folder = self._folder / f'undisturbed_{processes}{"_nan" * broken}'
      folder.mkdir(exist_ok=True)
      fault = draw.Fault('nan', processes, -1, 'step', 0, 0.0, 0) if broken else None
      patient = [f'--config.watchdog.{name}_secs=0' for name in LIMITS]  # It compiles.
      command = [*train(self._folder, folder, processes), *patient]
      found = starts.start(command, fault, folder, processes)
      if found.code:
        sys.exit(f'the undisturbed run ended with {found.codes}: see {folder}/process_0.log')
      self._states[key] = state(folder)
    return self._states[key]


def train(root: pathlib.Path, folder: pathlib.Path, processes: int) -> list[str]:
  """The module and flags of a run in `folder`."""
  given = {f'watchdog.{name}_secs': float(secs) for name, secs in LIMITS.items()} | {
    'compilation.cache': root / f'compiled_{processes}',
    'mesh.data': processes,
  }
  config = f'--config={pathlib.Path(__file__).with_name("config.py")}:{root / "corpus"}'
  return ['i2vgen_jax.train', config, f'--workdir={folder / "run"}', *cases.flags(given)]


def state(folder: pathlib.Path) -> dict[str, str]:
  """Name -> hash of all leaves of the last checkpoint of a run, and of its position in the data."""
  target = folder / 'state.json'

  def hash_leaves() -> None:  # In a fork: what reads a checkpoint starts JAX, and forks may not.
    found = collect.run(folder)
    parts = ('params', 'ema_params', 'opt_state', 'position')
    leaves = {f'{part}/{name}': leaf for part in parts for name, leaf in found[part].items()}
    hashes = {name: hashlib.sha256(leaf.tobytes()).hexdigest() for name, leaf in leaves.items()}
    target.write_text(json.dumps(hashes))

  starts.in_fork(hash_leaves, folder / 'state.log')
  return json.loads(target.read_text())


def undergo(fault: draw.Fault, folder: pathlib.Path, references: Reference) -> dict[str, Any]:
  """Runs with the fault to the end; what became of it."""
  expected = references.state(fault.processes, fault.kind == 'nan')
  folder.mkdir(parents=True)
  command = train(folder.parent, folder, fault.processes)
  if fault.moment == 'validation':
    command.append(f'--config.train.eval_every={draw.EVAL_EVERY}')
  done: list[starts.Start] = []
  lost, said = 0, ''
  while len(done) < MAX_STARTS:
    saved = newest(folder)
    done.append(starts.start(command, fault, folder, fault.processes))
    text = logs(folder)
    before, said = len(said), text
    lost += max(0, saved - resumed(text[before:])) if len(done) > 1 else 0
    if not starts.restarts(done[-1].code):
      break
  row = dict(
    codes=[start.codes for start in done],
    secs=[round(start.secs) for start in done],
    struck=(folder / inject.STRUCK).exists(),
    differs=differences(expected, folder) if done[-1].code == 0 else ['it did not end'],
    # A damaged step is lost, the one before it is not.
    lost=lost if fault.kind != 'flip' else max(0, lost - draw.SAVE_EVERY),
    told=is_told(fault.kind, said, [code for start in done for code in start.codes]),
    hung=sum(start.hung for start in done),
    orphans=len(orphans_left(folder)),
  )
  if not row['differs']:
    shutil.rmtree(folder / 'run')
  return row


def may_be_silent(fault: draw.Fault, codes: list[list[int]]) -> bool:
  """Whether the fault may have changed nothing: what is read again, bits that nobody reads, a
  process that goes on, or a signal to one that has done all its steps."""
  alone = fault.kind == 'stop' and fault.processes == 1
  at_end = fault.kind == 'term' and fault.moment in ('barrier', 'validation') and len(codes) == 1
  return fault.kind in ('503', 'flip') or alone or at_end


def is_told(kind: str, said: str, codes: list[int]) -> bool:
  """Whether a log or an exit code tells of a fault."""
  words = {'enospc': 'is not saved', 'flip': 'is damaged', 'nan': f'Skipped step {draw.NAN_STEP}'}
  killed_too = kind in ('flip', 'nan')
  return (kind in words and words[kind] in said) or (not killed_too and any(codes))


def orphans_left(folder: pathlib.Path) -> list[int]:
  """Children of the run that are alive when they have had time to end."""
  ended = time.monotonic()
  while (left := starts.orphans(folder)) and time.monotonic() - ended < ORPHAN_SECS:
    time.sleep(0.2)
  return left


def logs(folder: pathlib.Path) -> str:
  """What the first process has written so far: it alone reports."""
  return (folder / 'process_0.log').read_text(errors='replace')


def resumed(text: str) -> int:
  """The step at which a start resumed; 0 if at none."""
  found = re.findall(r'Resuming at step (\d+)', text)
  return int(found[-1]) if found else 0


def newest(folder: pathlib.Path) -> int:
  """The newest step that is saved, or 0."""
  names = [path.name for path in (folder / 'run' / 'checkpoints').glob('*')]
  return max((int(name) for name in names if name.isdigit()), default=0)


def differences(expected: dict[str, str], folder: pathlib.Path) -> list[str]:
  """Names of leaves that are not equal to the bit."""
  found = state(folder)
  names = sorted(set(expected) | set(found))
  return [
    name
    for name in names
    if name not in found or name not in expected or expected[name] != found[name]
  ]


if __name__ == '__main__':
  sys.exit(main())
