"""The numbers of a config that have a range, and the check that they lie in it.

What a field is checked for together with others stays where it is used.
"""

import re
from collections.abc import Mapping
from typing import Any

# In the notation of intervals; NaN and infinity lie in none.
RANGES = {
  'seed': '[0, 4294967296)',
  'optimizer.peak_learning_rate': '[0, inf)',
  'optimizer.b1': '[0, 1)',
  'optimizer.b2': '[0, 1)',
  'optimizer.eps': '(0, inf)',
  'optimizer.muon_rms': '(0, inf)',
  'optimizer.weight_decay': '[0, inf)',
  'optimizer.max_grad_norm': '[0, inf)',
  'train.num_steps': '[1, inf)',
  'train.stop_at': '[0, inf)',
  'train.accumulation': '[1, inf)',
  'train.ema_decay': '[0, 1]',
  'train.growth_steps': '[0, inf)',
  'train.log_every': '[1, inf)',
  'train.levels_every': '[0, inf)',
  'train.eval_every': '[0, inf)',
  'train.sample_every': '[0, inf)',
  'train.num_eval_examples': '[0, inf)',
  'train.num_sample_videos': '[0, inf)',
  'loss.offset_noise': '[0, inf)',
  'loss.timestep_shift': '(0, inf)',
  'loss.min_snr_gamma': '[0, inf)',
  'data.num_threads': '[1, inf)',
  'data.shard_cache_gb': '(0, inf)',
  'checkpoint.every': '[0, inf)',
  'checkpoint.every_minutes': '[0, inf)',
  'checkpoint.keep_last': '[1, inf)',
  'checkpoint.keep_every': '[0, inf)',
  'train.replay_every': '[0, inf)',
  'train.norms_every': '[0, inf)',
  'train.first_look': '[0, inf)',
  'train.profile_at': '[0, inf)',
  'train.profile_steps': '[1, inf)',
  'watchdog.start_secs': '[0, inf)',
  'watchdog.compile_secs': '[0, inf)',
  'watchdog.input_secs': '[0, inf)',
  'watchdog.step_secs': '[0, inf)',
  'watchdog.checkpoint_secs': '[0, inf)',
  'watchdog.validation_secs': '[0, inf)',
  'watchdog.barrier_secs': '[0, inf)',
  'hosts.join_secs': '[1, inf)',
  'hosts.leave_secs': '[1, inf)',
  'hosts.heartbeat_secs': '[1, inf)',
  'lora.rank': '[0, inf)',
  'lora.alpha': '(0, inf)',
  'vae.scaling_factor': '(0, inf)',
  'data.max_bad_fraction': '[0, 1]',
  'sample.num_steps': '[1, inf)',
  'sample.guidance_scale': '[0, inf)',
  'sample.guidance_rescale': '[0, 1]',
  'sample.eta': '[0, 1]',
  'refine.levels': '[0, inf)',
  'refine.inversion_steps': '[0, inf)',
}


# Types of numbers, by field.
DTYPES = {
  'dtype': ('bfloat16', 'float16', 'float32'),
  'lora.frozen_dtype': ('bfloat16', 'float16', 'float32'),
}


def check(config: Mapping[str, Any]) -> None:
  """Raises ValueError for the first number of a config that lies outside of its range."""
  for name in (*RANGES, *DTYPES):
    block, _, field = name.rpartition('.')
    fields = config.get(block, {}) if block else config
    if field not in fields:
      continue
    value = fields[field]
    if name in RANGES:
      check_number(name, value)
    elif value not in DTYPES[name]:
      raise ValueError(f'{name}={value!r} is unknown; known: {", ".join(DTYPES[name])}.')


def check_number(name: str, value: float, shown: str = '') -> None:
  """Raises ValueError for a number outside of the range of its field.

  Args:
    name: of the field, in RANGES.
    value: of it.
    shown: what the message calls it, where that is not its name.
  """
  low, high = re.split(', ', RANGES[name][1:-1])
  above = value >= float(low) if RANGES[name][0] == '[' else value > float(low)
  below = value <= float(high) if RANGES[name][-1] == ']' else value < float(high)
  if not (above and below):
    raise ValueError(f'{shown or name}={value} must lie in {RANGES[name]}.')
