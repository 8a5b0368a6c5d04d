"""Fields that configs gained after runs had been started without them.

The config.json of a run lacks the fields that later versions added. Each gets the value with which
today's code computes what the run's own version did. A field that is added to configs/ needs a row
here: without it, today's config does not resume older runs.
"""

import json
from collections.abc import Mapping
from typing import Any

from absl import logging

# Name in a flattened config -> its value in runs that were started before there was such a field.
ADDED = {
  'condition_dropout.buckets': {},
  'unet.row_margin': 0,
  'unet.free_u': (),
  'unet.growing': (),
  'data.sources': {},
  'data.phases': (),
  'data.cache': '',
  'data.aspects': (),
  'data.captions': False,
  'data.shard_cache': '',
  'data.shard_cache_gb': 100.0,
  'data.max_crop': 0.0,
  'data.max_enlarge': 0.0,
  'data.exact_epochs': True,
  'train.growth_steps': 1000,
  'lora.rank': 0,
  'lora.alpha': 8.0,
  'lora.match': r'attn\d/to_(q|k|v|out_0)/kernel$',
  'lora.frozen_dtype': 'float32',
  'train.skip_norm': 0.0,
  'train.max_skipped': 10,
  'train.skip_window': 1000,
  'checkpoint.every_minutes': 0.0,
  'train.replay_every': 0,
  'train.norms_every': 0,
  'train.levels_every': 0,
  'train.wandb': '',
  'train.first_look': 0,
  'watchdog.start_secs': 0.0,
  'watchdog.compile_secs': 0.0,
  'watchdog.input_secs': 0.0,
  'watchdog.step_secs': 0.0,
  'watchdog.checkpoint_secs': 0.0,
  'watchdog.validation_secs': 0.0,
  'watchdog.barrier_secs': 0.0,
  'hosts.join_secs': 300,
  'hosts.leave_secs': 300,
  'hosts.heartbeat_secs': 100,
}


def complete(config: Mapping[str, Any], path: Any) -> dict[str, Any]:
  """The config of a run with the fields of ADDED that it lacks; logs a warning that names them.

  Args:
    config: content of a config.json, nested dicts.
    path: where it was read, for the warning.
  """
  completed = json.loads(json.dumps(config))
  absent = {}
  for name, value in ADDED.items():
    *blocks, field = name.split('.')
    block = completed
    for part in blocks:
      block = block.setdefault(part, {})
    if field not in block:
      block[field] = json.loads(json.dumps(value))  # As a config.json holds it: lists, no tuples.
      absent[name] = value
  if absent:
    taken = ', '.join(f'{name}={value!r}' for name, value in absent.items())
    logging.warning('%s is of an earlier version. Fields that it lacks, as taken: %s.', path, taken)
  return completed
