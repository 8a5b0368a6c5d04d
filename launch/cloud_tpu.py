"""Cloud TPU machines without a cluster: a TPU VM at once, or a queued resource when there is room.

Every host runs the image as a systemd service. In it launch.supervise restarts the training;
systemd restarts what the supervisor itself died of, and gives it the grace period when the machine
is taken away.
"""

import re

from i2vgen_jax.process import exit_codes
from launch import job as job_lib

PROVISION_FLAGS = {'on-demand': (), 'spot': ('--spot',), 'reserved': ('--reserved',)}
GCLOUD = ('gcloud', 'compute', 'tpus')
SERVICE = """\
#!/usr/bin/env bash
# On each host of the TPU, as root: runs the image as a service. Its log: journalctl -fu {name}
set -euo pipefail
gcloud auth configure-docker {registry} --quiet
docker pull {image}
cat >/etc/systemd/system/{name}.service <<'UNIT'
[Unit]
Requires=docker.service
After=docker.service network-online.target
StartLimitIntervalSec=infinity
StartLimitBurst={starts}
[Service]
ExecStart={docker_run}
Restart=on-failure
RestartPreventExitStatus={final}
RestartSec=10
TimeoutStopSec={grace}
UNIT
systemctl daemon-reload
systemctl restart {name}
"""


def tpu_vm(job: job_lib.Job) -> job_lib.Plan:
  """Creates one slice and starts the run on all its hosts by ssh.

  Raises:
    ValueError: the job has several slices, no TPU, or lacks a field.
  """
  _check(job)
  if job.topology.slices > 1:
    raise ValueError(f'topology={job.topology.name}: tpu_vm makes one slice; use queued for more.')
  tpu, place = (*GCLOUD, 'tpu-vm'), _place(job)
  create = (
    *tpu, 'create', job.name, *place,
    f'--accelerator-type={job.topology.accelerator_type}',
    f'--version={job.topology.generation.runtime}',
    *PROVISION_FLAGS[job.provision],
  )  # fmt: skip
  copy = (*tpu, 'scp', 'start.sh', f'{job.name}:', *place, '--worker=all')
  start = (*tpu, 'ssh', job.name, *place, '--worker=all', '--command=sudo bash start.sh')
  return job_lib.Plan({'start.sh': start_script(job)}, (create, copy, start))


def queued(job: job_lib.Job) -> job_lib.Plan:
  """Asks for slices; each host starts the run when it boots, also after a preemption.

  Raises:
    ValueError: the job has no TPU, or lacks a field.
  """
  _check(job)
  nodes = (f'--node-id={job.name}',)
  if job.topology.slices > 1:
    nodes = (f'--node-count={job.topology.slices}', f'--node-prefix={job.name}')
  create = (
    *GCLOUD, 'queued-resources', 'create', job.name, *_place(job), *nodes,
    f'--accelerator-type={job.topology.accelerator_type}',
    f'--runtime-version={job.topology.generation.runtime}',
    *PROVISION_FLAGS[job.provision],
    '--metadata-from-file=startup-script=start.sh',
  )  # fmt: skip
  return job_lib.Plan({'start.sh': start_script(job)}, (create,))


def start_script(job: job_lib.Job) -> str:
  """Text of the script that each host runs as root."""
  variables = [f'--env={name}={value}' for name, value in job.environment.items()]
  many = ('--each_host',) if job.topology.hosts > 1 else ()
  docker_run = (
    '/usr/bin/docker', 'run', '--rm', f'--name={job.name}', '--privileged', '--network=host',
    *variables, job.image, *job.supervised(*job.command, flags=many),
  )  # fmt: skip
  return SERVICE.format(
    name=job.name,
    image=job.image,
    registry=job.image.partition('/')[0],
    starts=job.max_restarts + 1,
    docker_run=' '.join(map(systemd_quote, docker_run)),
    final=' '.join(map(str, exit_codes.FINAL)),
    grace=job_lib.GRACE_SECS,
  )


def systemd_quote(word: str) -> str:
  """A word of ExecStart, quoted: systemd reads quotes, backslashes, % and $."""
  word = word.replace('\\', '\\\\').replace('"', '\\"').replace('%', '%%').replace('$', '$$')
  return word if re.fullmatch(r'[\w@%+=:,./-]+', word) else f'"{word}"'


def _place(job: job_lib.Job) -> tuple[str, ...]:
  return (f'--zone={job.zone}', f'--project={job.project}')


def _check(job: job_lib.Job) -> None:
  job.require_kind('tpu')
  job.require('zone', 'project', 'image')
