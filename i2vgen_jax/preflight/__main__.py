"""Tries the machines of a run for a few minutes, before it: one report with a verdict per line.

  python -m launch preflight --target=gke ...                      on every host, by a launcher
  python -m i2vgen_jax.preflight --config=... --workdir=DIR        here; then the same once more

It looks at devices, links and memory; at each kernel against XLA; at the workdir and the loader;
and takes some steps of the run. Half way it kills itself, for the launcher to start it again: the
rest is made from what was saved. All is in DIR/preflight, of which report.json stays; what was
compiled is left for the run. Exit code 3 if a line says FAIL.
"""

from absl import flags

from i2vgen_jax.process import cli, config_flag

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  config_flag.define()
  flags.DEFINE_string('workdir', None, 'Workdir of the run to come.')
  flags.DEFINE_string(
    'topology', '', 'Machines, such as v5p-128: what it does is compared to a plan.'
  )
  flags.DEFINE_float('mfu', 0.4, 'Share of the peak that the plan assumes.')
  flags.DEFINE_integer('steps', 20, 'Steps of the run that are made.')
  flags.DEFINE_float('loader_secs', 20.0, 'How long the loader is measured.', lower_bound=0.0)
  flags.DEFINE_bool('distributed', False, 'Together with the other hosts of this job.')
  flags.mark_flags_as_required(['config', 'workdir'])
  cli.run(__file__)

import dataclasses
import json
from typing import Any

import jax
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import storage as storage_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology as topology_lib
from i2vgen_jax.plan import estimate
from i2vgen_jax.preflight import devices, kernels, report, steps, storage
from i2vgen_jax.process import exit_codes, hosts
from i2vgen_jax.stored import run_config
from i2vgen_jax.training import data


def main() -> int:
  """Entry point; returns the exit code."""
  values = flags.FLAGS
  num_steps = min(values.steps, values.config.train.num_steps)
  if num_steps < 2:
    raise ValueError(
      f'--steps={values.steps} and train.num_steps={values.config.train.num_steps} must be at '
      'least 2: half before the kill, half after.'
    )
  if not 0 < values.mfu <= 1:
    raise ValueError(f'--mfu={values.mfu} must lie in (0, 1]: a share of the peak.')
  if values.distributed:
    hosts.join(**values.config.hosts)
  folder = epath.Path(values.workdir) / 'preflight'
  killed = folder / 'killed.json'
  comes_back = hosts.is_true_anywhere(killed.exists())
  config = values.config.copy_and_resolve_references()
  if config.compilation.cache and '://' not in config.compilation.cache:
    with config.unlocked():  # What is compiled here, the run need not compile.
      config.compilation.cache = str(epath.Path(values.workdir) / config.compilation.cache)
  plan = make_plan(config, values.topology, values.mfu)
  if comes_back:
    lines = [report.Line(**line) for line in storage_lib.read_json(killed, 'lines')['lines']]
    rest = lambda: steps.second(config, folder / 'run', num_steps, values.mfu if plan else None)  # noqa: E731
    lines += report.guarded('kill and restore', rest)
  else:
    lines = look(config, folder, plan, values.loader_secs)
    made = report.guarded('steps and save', lambda: steps.first(config, folder / 'run', num_steps))
    lines += made
    if all(line.ok for line in made):
      write(killed, lines)
      tell('preflight: killed on purpose; the launcher, or the same command again, goes on.')
      steps.die()
  write(folder / 'report.json', lines)
  hosts.meet('the report is written')
  if hosts.is_lead():
    storage_lib.remove_folder(folder / 'run')
    killed.unlink(missing_ok=True)
  tell('\n'.join(map(str, lines)))
  return exit_codes.FAILED if any(line.ok is False for line in lines) else exit_codes.DONE


def look(
  config: Any, folder: epath.Path, plan: estimate.Plan | None, loader_secs: float
) -> list[report.Line]:
  """What takes no step of the run.

  Args:
    config: of the run.
    folder: below the workdir.
    plan: of the run; None compares with nothing.
    loader_secs: for which the loader is measured.

  Raises:
    ValueError: config, data or workdir are invalid, whatever the machines do.
  """
  run_config.check(folder / 'run', config)
  mesh = mesh_lib.make_mesh(config.mesh)
  session = session_lib.build(config).on(mesh)
  mesh_lib.check_batch_sizes(session.buckets(), mesh, config.train.accumulation)
  stream = data.make_stream(session)
  mib = 1 if jax.default_backend() == 'cpu' else storage.MIB
  checks = {
    'devices': lambda: devices.inventory(mesh),
    'batch': lambda: [devices.batch_lies_over_hosts(mesh)],
    'memory rate': lambda: [devices.memory_rate()],
    'links': lambda: devices.links(mesh),
    'kernels': kernels.check,
    'workdir': lambda: storage.workdir(folder, mib),
    'loader': lambda: [storage.loader(stream, plan, loader_secs)],
  }
  lines = []
  for name, check in checks.items():
    found = report.guarded(name, check)
    tell('\n'.join(map(str, found)))
    lines += found
  return lines


def make_plan(config: Any, topology: str, mfu: float) -> estimate.Plan | None:
  """What a plan assumes of the run; None without a topology.

  Args:
    config: of the run.
    topology: its name, or ''.
    mfu: share of the peak.
  """
  if not topology:
    return None
  machines = topology_lib.parse(topology)
  buckets = buckets_lib.from_config(config)
  return estimate.make(config, machines, buckets, mfu=mfu)


def write(path: epath.Path, lines: list[report.Line]) -> None:
  """Writes the lines as JSON, by the first host."""
  if hosts.is_lead():
    content = json.dumps({'lines': [dataclasses.asdict(line) for line in lines]}, indent=1)
    storage_lib.write_bytes(path, content.encode())


def tell(text: str) -> None:
  """Prints, by the first host."""
  if hosts.is_lead():
    print(text, flush=True)
