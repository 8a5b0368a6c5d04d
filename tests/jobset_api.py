"""The fields of a JobSet that launch/kubernetes.py fills in, and what each may hold.

In our own words, from the API references of JobSet v1alpha2 (https://jobset.sigs.k8s.io) and of
Kubernetes' Job and Pod. Any other field is an error: add it here with its type.
"""

from typing import Any

_CONTAINER = {
  'name!': str,
  'image': str,
  'args': [str],
  'env': [{'name!': str, 'value': str}],
  'envFrom': [{'secretRef': {'name': str}}],
  'resources': {'limits': {'*': int}},
  'volumeMounts': [{'name!': str, 'mountPath!': str}],
}
_POD = {
  'restartPolicy!': ('Never',),  # The only one that a podFailurePolicy allows.
  'terminationGracePeriodSeconds': int,
  'serviceAccountName': str,
  'hostNetwork': bool,
  'dnsPolicy': ('ClusterFirst', 'ClusterFirstWithHostNet', 'Default', 'None'),
  'nodeSelector': {'*': str},
  'tolerations': [
    {
      'key': str,
      'operator': ('Exists', 'Equal'),
      'value': str,
      'effect': ('NoSchedule', 'PreferNoSchedule', 'NoExecute'),
    }
  ],
  'containers!': [_CONTAINER],
  'volumes': [{'name!': str, 'emptyDir': {'medium': ('', 'Memory')}}],
}
_JOB = {
  'parallelism': int,
  'completions': int,
  'completionMode': ('NonIndexed', 'Indexed'),
  'backoffLimit': int,
  'podFailurePolicy': {
    'rules!': [
      {
        'action!': ('FailJob', 'FailIndex', 'Ignore', 'Count'),
        'onExitCodes': {'containerName': str, 'operator!': ('In', 'NotIn'), 'values!': [int]},
        'onPodConditions': [{'type!': str, 'status': ('True', 'False', 'Unknown')}],
      }
    ]
  },
  'template!': {'spec': _POD},
}
# A dict is an object, '*' any key, '!' after a key that it is required; a list holds such items;
# a tuple holds the strings that are allowed.
FIELDS = {
  'apiVersion!': ('jobset.x-k8s.io/v1alpha2',),
  'kind!': ('JobSet',),
  'metadata!': {'name!': str, 'labels': {'*': str}, 'annotations': {'*': str}},
  'spec!': {
    'failurePolicy': {
      'maxRestarts': int,
      'rules': [
        {
          'name!': str,
          'action!': ('FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts'),
          'onJobFailureReasons': [
            (
              'BackoffLimitExceeded',
              'DeadlineExceeded',
              'FailedIndexes',
              'MaxFailedIndexesExceeded',
              'PodFailurePolicy',
            )
          ],
          'onJobFailureMessagePatterns': [str],
        }
      ],
    },
    'replicatedJobs!': [{'name!': str, 'replicas': int, 'template!': {'spec': _JOB}}],
  },
}
_TYPES = {str: 'string', int: 'integer', bool: 'boolean'}


def schema(fields: Any = FIELDS) -> dict[str, Any]:
  """The fields as a JSON schema that allows no others."""
  if isinstance(fields, type):
    return {'type': _TYPES[fields]}
  if isinstance(fields, tuple):
    return {'type': 'string', 'enum': list(fields)}
  if isinstance(fields, list):
    return {'type': 'array', 'items': schema(*fields)}
  if '*' in fields:
    return {'type': 'object', 'additionalProperties': schema(fields['*'])}
  return {
    'type': 'object',
    'properties': {name.rstrip('!'): schema(value) for name, value in fields.items()},
    'required': [name[:-1] for name in fields if name.endswith('!')],
    'additionalProperties': False,
  }


def example(fields: Any = FIELDS, number: int = 0) -> Any:
  """A value with every field in it; of allowed strings the given one, counted round and round."""
  if isinstance(fields, type):
    return {str: 'a', int: 1, bool: True}[fields]
  if isinstance(fields, tuple):
    return fields[number % len(fields)]
  if isinstance(fields, list):
    return [example(*fields, number)]
  return {name.rstrip('!'): example(value, number) for name, value in fields.items()}
