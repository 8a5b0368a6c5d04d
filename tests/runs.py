"""Real processes of the tiny config, as a user would start them."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from data_pipelines.corpus import json_lines
from i2vgen_jax.process import hosts
from launch import local

ROOT = pathlib.Path(__file__).parent.parent
LAUNCHER = """
import sys
from i2vgen_jax import train
from i2vgen_jax.process import cli
from tests import tiny
config = tiny.get_config(sys.argv[2])
for item in sys.argv[3:]:
  name, value = item.split('=')
  config.update_from_flattened_dict({name: int(value)})
cli.log_to_stderr()
sys.exit(train.train(config, sys.argv[1]))
"""


def environment():
  """Of a process that tests start."""
  # As in conftest, but one device.
  flags = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
  return dict(os.environ, PYTHONPATH=str(ROOT), XLA_FLAGS=flags)


def start(workdir, corpus, *overrides, stderr=subprocess.PIPE):
  """A training process on one device; its log is on stderr: a file, or a pipe that you must read.

  The log of one checkpoint may be more than a pipe holds, and who writes to a full one waits.
  """
  return subprocess.Popen(
    [sys.executable, '-c', LAUNCHER, str(workdir), str(corpus), *overrides],
    cwd=ROOT,
    env=environment(),
    stderr=stderr,
    text=True,
  )


def pod(code, *arguments):
  """Two processes of a run that execute the code; pipes hold what they print."""
  address = f'{local.LOOPBACK}:{local.free_port()}'
  shared = {
    'JAX_COORDINATOR_ADDRESS': address,
    'JAX_COORDINATOR_BIND_ADDRESS': address,
    'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
    hosts.NUM_PROCESSES: '2',
  }
  return [
    subprocess.Popen(
      [sys.executable, '-c', code, *map(str, arguments)],
      cwd=ROOT,
      env=environment() | shared | {hosts.PROCESS_ID: str(index)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]


def module(*arguments):
  """python -m ..., to its end."""
  return subprocess.run(
    [sys.executable, '-m', *map(str, arguments)],
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    timeout=600,
  )


def commands(lines, until_compilation=False):
  """Name -> (exit code, stdout, stderr) of `python -m` command lines by name.

  They are forks of one process (tests/commands.py), which imports once for all.
  """
  with tempfile.TemporaryDirectory() as folder:
    given, results = (pathlib.Path(folder) / f'{name}.json' for name in ('lines', 'results'))
    given.write_text(json.dumps(list(lines.values())))
    command = [sys.executable, '-m', 'tests.commands', str(given), str(results)]
    command += ['until_compilation'] * until_compilation
    subprocess.run(command, cwd=ROOT, env=environment(), check=True)
    return dict(zip(lines, json.loads(results.read_text()), strict=True))


def state(workdir, step):
  """The tree of a checkpoint's arrays, on the host: params, ema_params, opt_state, seed, step."""
  directory = pathlib.Path(workdir).absolute() / 'checkpoints' / str(step)
  return jax.tree.map(np.asarray, ocp.load_checkpointables(directory)['state'])


def losses(workdir):
  """Step -> training loss."""
  rows = json_lines.read(epath.Path(workdir) / 'metrics.jsonl')
  return {row['step']: row['loss'] for row in rows if 'loss' in row}
