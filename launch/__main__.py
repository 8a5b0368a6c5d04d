"""Shows what it takes to run a config on a topology, and with --go does it.

  python -m launch <target> --topology=2xcpu-1 --config=configs/demo.py --workdir=DIR [--go]
  python -m launch check [--target=<target>] ...       what would fail, before machines are booked
  python -m launch preflight [--target=<target>] ...   tries the machines for a few minutes

Targets: local, tpu_vm, queued, gke, xpk, slurm. See launch/README.md.
"""

from absl import flags

from i2vgen_jax.process import cli, config_flag

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  config_flag.define()
  flags.DEFINE_string('workdir', None, 'Where the run lives: gs://..., or storage all hosts share.')
  flags.DEFINE_string('topology', None, 'Machines, such as v5p-128, 2xv5e-256, gpu-8 or 2xcpu-4.')
  flags.DEFINE_string(
    'target', '', 'check, preflight: the target; default by the topology, gke for TPUs.'
  )
  flags.DEFINE_bool('go', False, 'Start the run, instead of showing how.')
  flags.DEFINE_string('name', 'i2vgen', 'Name of the run.')
  flags.DEFINE_string(
    'output', '', 'Folder that the files of the plan are written to; with --go default a new one.'
  )
  flags.DEFINE_string('logs', 'logs', 'local: folder for the logs of all processes but the first.')
  flags.DEFINE_string('zone', '', 'Google Cloud zone.')
  flags.DEFINE_string('project', '', 'Google Cloud project.')
  flags.DEFINE_string('cluster', '', 'xpk: name of the GKE cluster.')
  flags.DEFINE_string('queue', '', 'gke: Kueue local queue, if the cluster has one.')
  flags.DEFINE_string('image', '', 'gke, xpk: container image of this repository (Dockerfile).')
  flags.DEFINE_string('partition', '', 'slurm: name of the partition.')
  flags.DEFINE_enum(
    'provision', 'on-demand', ['on-demand', 'spot', 'reserved'], 'Kind of capacity.'
  )
  flags.DEFINE_string(
    'secret', '', 'gke: Kubernetes secret whose entries become environment variables.'
  )
  flags.DEFINE_multi_string('env', [], 'NAME=VALUE of every process; may be given several times.')
  flags.DEFINE_string(
    'service_account', '', 'tpu_vm, queued: email; gke: name of a Kubernetes service account.'
  )
  flags.DEFINE_string('network', '', 'tpu_vm, queued: network of the hosts.')
  flags.DEFINE_string('subnetwork', '', 'tpu_vm, queued: subnetwork of the hosts.')
  flags.DEFINE_bool('internal_ips', False, 'tpu_vm, queued: hosts without outside addresses.')
  flags.DEFINE_string('reservation', '', 'Name of a reservation; all but local.')
  flags.DEFINE_integer(
    'max_restarts', 10, 'How often a run that fails is restarted.', lower_bound=0
  )
  flags.mark_flags_as_required(['config', 'workdir', 'topology'])
  cli.run(__file__, num_arguments=1)

import dataclasses
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import jax
import ml_collections

from data_pipelines.corpus import buckets as buckets_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology
from i2vgen_jax.process import exit_codes
from launch import check, cloud_tpu, kubernetes, local, slurm
from launch import job as job_lib

TARGETS = {
  'tpu_vm': cloud_tpu.tpu_vm,
  'queued': cloud_tpu.queued,
  'gke': kubernetes.gke,
  'xpk': kubernetes.xpk,
  'slurm': slurm.slurm,
}
FIELDS = (*job_lib.PLACES, 'provision', 'internal_ips')


def main(command: str) -> int:
  """Entry point; returns the exit code."""
  values = flags.FLAGS
  machines = topology.parse(values.topology)
  target = command
  if command in ('check', 'preflight'):
    target = values.target or check.DEFAULT_TARGETS[machines.kind]
  if target not in ('local', *TARGETS):
    raise ValueError(
      f'target {target!r} is unknown; known: local, {", ".join(TARGETS)}; or check, preflight.'
    )
  job = job_lib.Job(
    name=values.name,
    topology=machines,
    training=training_flags(sys.argv[1:]),
    max_restarts=values.max_restarts,
    env=tuple(values.env),
    **{field: values[field].value for field in FIELDS},
  )
  if command == 'check':
    render = {'local': local.show}.get(target) or TARGETS[target]
    code = exit_codes.DONE
    for line in check.Check(job, values.config, target, render).lines():
      print(line, flush=True)
      code = exit_codes.USAGE if line.ok is False else code
    return code
  check_fit(values.config, machines)
  job = preflight(job) if command == 'preflight' else job
  if target == 'local':
    if values.go:
      return local.run(job, values.logs)
    print(local.show(job))
    return 0
  code = start(job, target, values.output, values.go)
  if command == 'preflight':
    print(preflight_note(job))
  return code


def start(job: job_lib.Job, target: str, output: str, go: bool) -> int:
  """Shows how a job is run elsewhere, or runs it; returns the exit code.

  Args:
    job: what is run.
    target: one of TARGETS.
    output: folder for the files of the plan; '' writes none unless it is run.
    go: runs it.

  Raises:
    ValueError: the target cannot run the job.
  """
  job.check_workdir(target)
  plan = TARGETS[target](job)
  folder = None
  if output or go:
    folder = pathlib.Path(output or tempfile.mkdtemp(prefix='launch_')).absolute()
    plan.write(folder)
  print(plan.show(folder), flush=True)
  return execute(plan, folder) if go and folder else 0


def preflight(job: job_lib.Job) -> job_lib.Job:
  """The job that tries the machines of another; it kills itself once, to be started again."""
  planned = (f'--topology={job.topology.name}',) if job.topology.kind == 'tpu' else ()
  return dataclasses.replace(
    job,
    name=f'{job.name[:30]}-preflight',
    program=('python', '-m', 'i2vgen_jax.preflight'),
    training=(*job.training, *planned),
    max_restarts=max(1, job.max_restarts),
  )


def preflight_note(job: job_lib.Job) -> str:
  """What is left to do after a preflight elsewhere."""
  return (
    f'# {job.name} has machines of its own: once {job.workdir}/preflight/report.json is there, '
    'delete it by the last command, before the training starts.'
  )


def training_flags(arguments: Sequence[str]) -> tuple[str, ...]:
  """The flags that the training gets, as they were given: --config, its overrides, --workdir.

  Raises:
    ValueError: a flag and its value are two arguments.
  """
  chosen = [flag for flag in arguments if flag.startswith(('--config', '--workdir'))]
  for flag in chosen:
    if '=' not in flag:
      raise ValueError(f'write {flag}=VALUE, in one piece.')
  return tuple(chosen)


def check_fit(config: ml_collections.ConfigDict, machines: topology.Topology) -> None:
  """Compares the config with the topology, before anyone pays for it.

  Raises:
    ValueError: the config's mesh or batches do not fit.
  """
  sizes = mesh_lib.resolve(config.mesh, machines.devices)
  if machines.kind == 'tpu' and sizes['slice'] != machines.slices:
    raise ValueError(
      f'mesh={sizes} has {sizes["slice"]} slices, but topology={machines.name} has '
      f'{machines.slices}. Take the mesh of that name from configs/meshes.py.'
    )
  mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
  buckets = buckets_lib.from_config(config)
  mesh_lib.check_batch_sizes(buckets, mesh, config.train.accumulation)


def execute(plan: job_lib.Plan, folder: pathlib.Path) -> int:
  """Runs the commands of a plan in the folder of its files; returns the first exit code that is
  not 0.

  Raises:
    ValueError: a command is not installed here.
  """
  for command in plan.commands:
    try:
      code = subprocess.run(command, cwd=folder, check=False).returncode
    except FileNotFoundError as error:
      raise ValueError(f'{command[0]} is not installed here; the files are in {folder}.') from error
    if code:
      return code
  return 0
