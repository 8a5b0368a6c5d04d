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
  _check(job, 'tpu_vm')
  if job.topology.slices > 1:
    raise ValueError(f'topology={job.topology.name}: tpu_vm makes one slice; use queued for more.')
  place = _place(job)
  create = (
    *_gcloud(job, 'tpu-vm', 'create'), job.name, *place,
    f'--accelerator-type={job.topology.accelerator_type}',
    f'--version={job.topology.generation.runtime}',
    *_machine(job),
  )  # fmt: skip
  reach = (*place, '--worker=all', *_inside(job))
  copy = (*GCLOUD, 'tpu-vm', 'scp', 'start.sh', f'{job.name}:', *reach)
  start = (*GCLOUD, 'tpu-vm', 'ssh', job.name, *reach, '--command=sudo bash start.sh')
  delete = (*_gcloud(job, 'tpu-vm', 'delete'), job.name, *place)
  later = {**_on_hosts(job, job.name), 'delete': delete}
  return job_lib.Plan({'start.sh': start_script(job)}, (create, copy, start), later)


def queued(job: job_lib.Job) -> job_lib.Plan:
  """Asks for slices; each host starts the run when it boots, also after a preemption.

  Raises:
    ValueError: the job has no TPU, or lacks a field.
  """
  _check(job, 'queued')
  nodes = (f'--node-id={job.name}',)
  if job.topology.slices > 1:
    nodes = (f'--node-count={job.topology.slices}', f'--node-prefix={job.name}')
  create = (
    *_gcloud(job, 'queued-resources', 'create'), job.name, *_place(job), *nodes,
    f'--accelerator-type={job.topology.accelerator_type}',
    f'--runtime-version={job.topology.generation.runtime}',
    *_machine(job),
    '--metadata-from-file=startup-script=start.sh',
  )  # fmt: skip
  place = _place(job)
  node = job.name if job.topology.slices == 1 else f'{job.name}-0'
  later = {
    'watch': (*_gcloud(job, 'queued-resources', 'describe'), job.name, *place),
    **_on_hosts(job, node),
    'delete': (*_gcloud(job, 'queued-resources', 'delete'), job.name, *place, '--force'),
  }
  return job_lib.Plan({'start.sh': start_script(job)}, (create,), later)


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


def _inside(job: job_lib.Job) -> tuple[str, ...]:
  return ('--internal-ip',) if job.internal_ips else ()


def _on_hosts(job: job_lib.Job, node: str) -> dict[str, tuple[str, ...]]:
  """Plan.later of a node's hosts; the machines stay, and cost, until they are deleted."""
  ssh = (*GCLOUD, 'tpu-vm', 'ssh', node, *_place(job), *_inside(job))
  return {
    'log of the first host': (*ssh, '--worker=0', f'--command=sudo journalctl -fu {job.name}'),
    f'stop, on each node such as {node}': (
      *ssh, '--worker=all', f'--command=sudo systemctl stop {job.name}',
    ),
  }  # fmt: skip


def _gcloud(job: job_lib.Job, *words: str) -> tuple[str, ...]:
  """The command; only gcloud's alpha version takes the name of a reservation (November 2026)."""
  return ('gcloud', 'alpha', *GCLOUD[1:], *words) if job.reservation else (*GCLOUD, *words)


def _machine(job: job_lib.Job) -> tuple[str, ...]:
  """Flags of what is created: its capacity, network and account."""
  names = {
    'service-account': job.service_account,
    'network': job.network,
    'subnetwork': job.subnetwork,
    'reservation': job.reservation,
  }
  return (
    *(() if job.reservation else PROVISION_FLAGS[job.provision]),
    *(f'--{name}={value}' for name, value in names.items() if value),
    *(('--internal-ips',) if job.internal_ips else ()),
  )


def _check(job: job_lib.Job, target: str) -> None:
  job.require_kind('tpu')
  job.check_options(target)
  job.require('zone', 'project', 'image')
