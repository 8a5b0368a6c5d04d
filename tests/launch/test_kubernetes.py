"""The JobSet that is rendered for GKE is valid, and restarts what the exit codes say."""

import copy
import functools
import json
import operator
import os
import pathlib

import jsonschema
import pytest

from i2vgen_jax.process import exit_codes
from launch import kubernetes
from tests import jobset_api
from tests.launch.test_launch import make_job

# The schema of the whole API, which is not ours to keep.
FULL_SCHEMA = os.environ.get('I2VGEN_JOBSET_SCHEMA')


@pytest.mark.parametrize('name', ['v5e-16', '2xv5p-128', '4xv6e-256', 'tpu7x-8'])
@pytest.mark.parametrize(
  'fields',
  [
    {},
    dict(provision='spot', secret='keys', queue='team'),
    dict(reservation='r', service_account='trainer', env=('A=$(B)', 'C=')),
  ],
)
def test_jobset_is_valid_and_has_a_pod_per_host(name, fields):
  made = make_job(name, **fields)
  manifest = kubernetes.jobset(made)
  jsonschema.validate(manifest, jobset_api.schema())
  (slices,) = manifest['spec']['replicatedJobs']
  spec = slices['template']['spec']
  assert slices['replicas'] * spec['completions'] == made.topology.hosts
  assert spec['template']['spec']['terminationGracePeriodSeconds'] == 180


def jobset_action(manifest, code):
  """What a JobSet controller does with a pod's exit code."""
  spec = manifest['spec']
  pod_rules = spec['replicatedJobs'][0]['template']['spec']['podFailurePolicy']['rules']
  for index, rule in enumerate(pod_rules):
    if code in rule.get('onExitCodes', {}).get('values', ()):
      for action in spec['failurePolicy']['rules']:
        if action['onJobFailureMessagePatterns'][0].endswith(f'index {index}'):
          return action['action']
  return 'RestartJobSet'


def test_jobset_restarts_exactly_what_the_exit_codes_say():
  manifest = kubernetes.jobset(make_job())
  for code in range(1, 256):
    assert (jobset_action(manifest, code) != 'FailJobSet') == exit_codes.restarts(code), code
  ignored = 'RestartJobSetAndIgnoreMaxRestarts'
  assert jobset_action(manifest, exit_codes.PREEMPTED) == ignored


def _at(manifest, path):
  return functools.reduce(operator.getitem, path, manifest)


def _rename(path, new):
  def change(manifest):
    _at(manifest, path[:-1])[new] = _at(manifest, path[:-1]).pop(path[-1])

  return change


def _put(path, value):
  def change(manifest):
    _at(manifest, path[:-1])[path[-1]] = value

  return change


_JOBS = ('spec', 'replicatedJobs', 0)
_POD = (*_JOBS, 'template', 'spec', 'template', 'spec')


TYPOS = [
  _rename(('spec', 'replicatedJobs'), 'replicatedJob'),
  _rename((*_POD, 'terminationGracePeriodSeconds'), 'terminationGracePeriod'),
  _rename((*_POD, 'nodeSelector'), 'nodeselector'),
  _rename((*_JOBS, 'template', 'spec', 'podFailurePolicy'), 'podFailurePolicies'),
  _put((*_JOBS, 'template', 'spec', 'parallelism'), '16'),
  _put(('spec', 'failurePolicy', 'rules', 0, 'action'), 'FailJobset'),
  _put((*_POD, 'containers', 0, 'args'), 'python -m i2vgen_jax.train'),
  _rename(('spec', 'failurePolicy', 'rules', 0, 'name'), 'nmae'),
]


@pytest.mark.parametrize('typo', TYPOS)
def test_typos_in_the_manifest_are_caught(typo):
  manifest = copy.deepcopy(kubernetes.jobset(make_job()))
  typo(manifest)
  with pytest.raises(jsonschema.ValidationError):
    jsonschema.validate(manifest, jobset_api.schema())


@pytest.mark.parametrize('path', [('kind',), ('spec', 'replicatedJobs'), (*_POD, 'containers')])
def test_required_fields_are_missed(path):
  manifest = kubernetes.jobset(make_job())
  *outer, last = path
  del _at(manifest, outer)[last]
  with pytest.raises(jsonschema.ValidationError, match=f"'{last}' is a required property"):
    jsonschema.validate(manifest, jobset_api.schema())


@pytest.mark.skipif(not FULL_SCHEMA, reason='I2VGEN_JOBSET_SCHEMA names no JSON schema of the API')
def test_the_full_schema_agrees():
  """With what is rendered, with all that our own table allows, and on the typos."""
  schema = json.loads(pathlib.Path(FULL_SCHEMA).read_text())
  full = jsonschema.Draft202012Validator(schema)
  for made in (make_job('v5e-16'), make_job('2xv5p-128', provision='spot', secret='keys')):
    full.validate(kubernetes.jobset(made))
  for number in range(6):  # As many as the longest list of allowed strings, and one.
    full.validate(jobset_api.example(number=number))
  for typo in TYPOS:
    manifest = copy.deepcopy(kubernetes.jobset(make_job()))
    typo(manifest)
    with pytest.raises(jsonschema.ValidationError):
      full.validate(manifest)
