"""GPU clusters under Slurm: one process per GPU, as JAX reads Slurm's variables."""

import pathlib
import shlex

from i2vgen_jax.process import exit_codes
from launch import job as job_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive
#SBATCH --chdir={root}
#SBATCH --output={name}_%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=SIGTERM@{grace}
{options}set -uo pipefail
source .venv/bin/activate
{variables}
srun --kill-on-bad-exit=1 --gpu-bind=none {command}
code=$?
case "$code" in
  {final}) ;;
  *)
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_restarts} ]; then
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$code"
"""


def slurm(job: job_lib.Job) -> job_lib.Plan:
  """Submits a batch script that requeues itself by exit code.

  Raises:
    ValueError: the topology is not of GPUs.
  """
  job.require_kind('gpu')
  script = SCRIPT.format(
    name=job.name,
    nodes=job.topology.hosts,
    gpus=job.topology.chips_per_host,
    root=ROOT,
    grace=job_lib.GRACE_SECS,
    options=f'#SBATCH --partition={job.partition}\n' if job.partition else '',
    variables='\n'.join(f'export {name}={value}' for name, value in job.environment.items()),
    command=shlex.join(job.command),
    final=' | '.join(map(str, (exit_codes.DONE, *exit_codes.FINAL))),
    max_restarts=job.max_restarts,
  )
  return job_lib.Plan({'job.sbatch': script}, (('sbatch', 'job.sbatch'),))
