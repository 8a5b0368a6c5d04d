"""GPU clusters under Slurm: one process per GPU, as JAX reads Slurm's variables."""

import pathlib
import shlex

from launch import job as job_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive
#SBATCH --output={name}_%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=SIGTERM@{grace}
{options}set -uo pipefail
source .venv/bin/activate
{variables}
exec {command}
"""


def slurm(job: job_lib.Job) -> job_lib.Plan:
  """Submits a batch script that starts the run again on its machines when it fails, and asks for
  new ones when it is preempted.

  Raises:
    ValueError: the topology is not of GPUs.
  """
  job.require_kind('gpu')
  job.check_options('slurm')
  srun = ('srun', '--kill-on-bad-exit=1', '--gpu-bind=none')
  script = SCRIPT.format(
    name=job.name,
    nodes=job.topology.hosts,
    gpus=job.topology.chips_per_host,
    grace=job_lib.GRACE_SECS,
    options=''.join(
      f'#SBATCH --{name}={getattr(job, name)}\n'
      for name in ('partition', 'reservation')
      if getattr(job, name)
    ),
    variables='\n'.join(
      f'export {name}={shlex.quote(value)}' for name, value in job.environment.items()
    ),
    command=shlex.join(job.supervised(*srun, *job.command, flags=('--requeue',))),
  )
  later = {
    'watch': ('squeue', '--me', f'--name={job.name}'),
    'log, by the number that sbatch prints': ('tail', '-F', f'{ROOT}/{job.name}_NUMBER.log'),
    'stop and delete': ('scancel', '--me', f'--name={job.name}'),
  }
  submit = ('sbatch', f'--chdir={ROOT}', 'job.sbatch')
  return job_lib.Plan({'job.sbatch': script}, (submit,), later)
