"""TPU slices of a GKE cluster: a JobSet of our own, or the one that XPK makes."""

import shlex
from collections.abc import Iterable
from typing import Any

import yaml

from i2vgen_jax.process import exit_codes
from launch import job as job_lib

# What the Job says when its podFailurePolicy ended it: the index is that of the policy's rule.
_MATCHED = '.*matching FailJob rule at index {}'


def gke(job: job_lib.Job) -> job_lib.Plan:
  """Applies a JobSet to the cluster that kubectl points at.

  Raises:
    ValueError: the job has no TPU, has provision=reserved, or lacks an image.
  """
  _check(job, 'gke', 'image')
  manifest = yaml.safe_dump(jobset(job), sort_keys=False, width=100)
  pods = f'--selector=jobset.sigs.k8s.io/jobset-name={job.name}'
  first = 'jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0'
  later = {
    'watch': ('kubectl', 'get', 'jobset', job.name),
    'watch its hosts': ('kubectl', 'get', 'pods', pods),
    'log of the first host': ('kubectl', 'logs', '--follow', '--tail=100', f'{pods},{first}'),
    'stop and delete': ('kubectl', 'delete', 'jobset', job.name),
  }
  create = ('kubectl', 'apply', '-f', 'jobset.yaml')
  return job_lib.Plan({'jobset.yaml': manifest}, (create,), later)


def jobset(job: job_lib.Job) -> dict[str, Any]:
  """The manifest as a dict: one Job per slice, one pod per host.

  A pod that ends with an exit code of exit_codes.FINAL fails the JobSet; a preemption or eviction
  restarts it and does not count; anything else restarts it at most max_restarts times.
  """
  labels = {'kueue.x-k8s.io/queue-name': job.queue} if job.queue else {}
  rules = [
    ('failed_for_good', 'FailJobSet', 0),
    ('preempted', 'RestartJobSetAndIgnoreMaxRestarts', 1),
    ('evicted', 'RestartJobSetAndIgnoreMaxRestarts', 2),
  ]
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': {
      'name': job.name,
      'labels': labels,
      'annotations': {
        'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'
      },
    },
    'spec': {
      'failurePolicy': {
        'maxRestarts': job.max_restarts,
        'rules': [
          {
            'name': name,
            'action': action,
            'onJobFailureReasons': ['PodFailurePolicy'],
            'onJobFailureMessagePatterns': [_MATCHED.format(index)],
          }
          for name, action, index in rules
        ],
      },
      'replicatedJobs': [
        {'name': 'slice', 'replicas': job.topology.slices, 'template': {'spec': _slice(job)}}
      ],
    },
  }


def _slice(job: job_lib.Job) -> dict[str, Any]:
  """Spec of one slice's Job. The pods' failure rules are numbered as `jobset` reads them."""

  def on_exit(codes: Iterable[int]) -> dict[str, Any]:
    return {
      'action': 'FailJob',
      'onExitCodes': {'containerName': 'train', 'operator': 'In', 'values': list(codes)},
    }

  return {
    'parallelism': job.topology.hosts_per_slice,
    'completions': job.topology.hosts_per_slice,
    'completionMode': 'Indexed',
    'backoffLimit': 0,
    'podFailurePolicy': {
      'rules': [
        on_exit(exit_codes.FINAL),
        on_exit([exit_codes.PREEMPTED]),
        {
          'action': 'FailJob',
          'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}],
        },
      ]
    },
    'template': {'spec': _pod(job)},
  }


def _pod(job: job_lib.Job) -> dict[str, Any]:
  topology = job.topology
  selector = {
    'cloud.google.com/gke-tpu-accelerator': topology.generation.gke_accelerator,
    'cloud.google.com/gke-tpu-topology': topology.grid,
  }
  tolerations = [{'key': 'google.com/tpu', 'operator': 'Exists', 'effect': 'NoSchedule'}]
  if job.provision == 'spot':
    selector['cloud.google.com/gke-spot'] = 'true'
    tolerations.append(
      {'key': 'cloud.google.com/gke-spot', 'operator': 'Exists', 'effect': 'NoSchedule'}
    )
  if job.reservation:
    selector['cloud.google.com/reservation-name'] = job.reservation
  container = {
    'name': 'train',
    'image': job.image,
    # The image's entry point passes signals on.
    'args': [escape(word) for word in job.command],
    'env': [{'name': name, 'value': escape(value)} for name, value in job.environment.items()],
    'resources': {'limits': {'google.com/tpu': topology.chips_per_host}},
    'volumeMounts': [{'name': 'shared-memory', 'mountPath': '/dev/shm'}],
  }
  if job.secret:
    container['envFrom'] = [{'secretRef': {'name': job.secret}}]
  return {
    **({'serviceAccountName': job.service_account} if job.service_account else {}),
    'restartPolicy': 'Never',
    'terminationGracePeriodSeconds': job_lib.GRACE_SECS,
    'hostNetwork': True,
    'dnsPolicy': 'ClusterFirstWithHostNet',
    'nodeSelector': selector,
    'tolerations': tolerations,
    'containers': [container],
    'volumes': [{'name': 'shared-memory', 'emptyDir': {'medium': 'Memory'}}],
  }


def escape(word: str) -> str:
  """Text of a container's arguments or variables: Kubernetes fills in $(NAME), and reads $$ as
  $."""
  return word.replace('$', '$$')


def _check(job: job_lib.Job, target: str, *needed: str) -> None:
  job.require_kind('tpu')
  job.require(*needed)
  job.check_options(target)
  if job.provision == 'reserved':
    raise ValueError(
      'provision=reserved: a cluster may have node pools of several reservations; name one by '
      '--reservation in its place.'
    )


def xpk(job: job_lib.Job) -> job_lib.Plan:
  """A workload on a cluster that XPK made.

  By default XPK restarts on exit codes 42 and 127 to 255, and on no other, as exit_codes wants it.
  It writes the values of --env into YAML without quoting, so `env` sets them in the command.

  Raises:
    ValueError: the job has no TPU, has provision=reserved, or lacks a field.
  """
  _check(job, 'xpk', 'cluster', 'project', 'zone', 'image')
  variables = (f'{name}={value}' for name, value in job.environment.items())
  command = ('env', *variables, *job.command)
  place = (f'--cluster={job.cluster}', f'--project={job.project}', f'--zone={job.zone}')
  workload = f'--workload={job.name}'
  create = (
    'xpk', 'workload', 'create', *place, workload,
    f'--tpu-type={job.topology.accelerator_type}', f'--num-slices={job.topology.slices}',
    f'--docker-image={job.image}', f'--max-restarts={job.max_restarts}',
    f'--termination-grace-period-seconds={job_lib.GRACE_SECS}',
    *(('--spot',) if job.provision == 'spot' else ()),
    *((f'--reservation={job.reservation}',) if job.reservation else ()),
    f'--command={escape(shlex.join(command))}',
  )  # fmt: skip
  later = {
    'watch': ('xpk', 'workload', 'list', *place),
    'stop and delete': ('xpk', 'workload', 'delete', *place, workload),
  }
  return job_lib.Plan({}, (create,), later)
