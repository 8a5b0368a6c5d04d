"""How often training drops each signal, so that guidance has another side (Ho & Salimans 2022).

config.condition_dropout holds rates by signal, under 'all' how often all are dropped together, and
under 'buckets' other rates for some buckets: an image is its own first frame, so image buckets may
train without it.
"""

from collections.abc import Mapping
from typing import Any

from i2vgen_jax.conditions.base import Signal


def rates(config: Any, signals: Mapping[str, Signal], bucket: str = '') -> dict[str, float]:
  """Rate by signal, and of 'all': the bucket's, else the config's, else the signal's own.

  Args:
    config: of the run.
    signals: by name.
    bucket: of the step; '' as the config says of all.
  """
  given = dict(config.condition_dropout)
  given |= dict(dict(given.pop('buckets', {})).get(bucket, {}))
  own = {name: signal.dropout for name, signal in signals.items()} | {'all': 0.0}
  return {name: float(given.get(name, rate)) for name, rate in own.items()}


def check(config: Any, signals: Mapping[str, Signal]) -> None:
  """Raises ValueError for a rate outside of [0, 1], or for an unknown bucket or signal."""
  given = dict(config.condition_dropout)
  buckets = dict(given.pop('buckets', {}))
  unknown = [name for name in buckets if name not in config.data.buckets]
  if unknown:
    raise ValueError(
      f'condition_dropout.buckets names {unknown}; data.buckets are {list(config.data.buckets)}.'
    )
  for bucket, found in (('', given), *buckets.items()):
    where = f'condition_dropout.buckets.{bucket}' if bucket else 'condition_dropout'
    for name, rate in found.items():
      if not 0 <= rate <= 1:
        raise ValueError(f'{where}.{name}={rate} must lie in [0, 1].')
      if bucket and name not in (*signals, 'all'):
        raise ValueError(
          f'{where} names {name!r}; the signals of unet.conditioners are {list(signals)}.'
        )
