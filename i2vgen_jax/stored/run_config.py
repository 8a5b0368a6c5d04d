"""The config of a run in its workdir: written at the start, compared when the run is resumed."""

import json
import re
from collections.abc import Mapping
from typing import Any

import ml_collections
from absl import logging
from etils import epath

from data_pipelines import user_errors
from data_pipelines.corpus import retries, storage
from i2vgen_jax.process import run_folder
from i2vgen_jax.process.paths import absolute
from i2vgen_jax.stored import old_configs

# Fields that may change between two starts of the same run: where and how it runs, not what it
# computes.
RESUMABLE = re.compile(
  r'mesh\.|sharding\.|checkpoint\.|compilation\.|sample\.|watchdog\.|hosts\.|unet\.remat$'
  r'|data\.(directories\.|index$|num_threads$|sandbox$|shard_cache|max_bad_fraction$)'
  r'|data\.(accept_changed|exact_epochs)$'
  r'|train\.(stop_at|first_look|\w+_every|num_eval_examples|num_sample_videos|accumulation'
  r'|tensorboard|wandb|profile_\w+|max_skipped|skip_\w+)$'
)
# And with data.accept_changed these, which say what is drawn: the stream knows how to go on.
DRAWN = re.compile(r'data\.(buckets\.|sources|phases$|aspects$|max_crop$|max_enlarge$)')


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as config.json holds it: nested dicts of its own, with lists for tuples."""
  return json.loads(config.to_json())


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
  """{'train.num_steps': 100, ...}; tuples of dicts are leaves."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, Mapping) and value:
      flat |= {f'{name}.{field}': leaf for field, leaf in flatten(value).items()}
    else:
      flat[name] = value
  return flat


def write(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
  """Stores the resolved config of a run."""
  text = config.to_json(indent=2)  # In its order, which is that of the buckets' draws.
  storage.write_bytes(absolute(workdir) / 'config.json', text.encode())


def check(workdir: epath.PathLike, config: ml_collections.ConfigDict, makes: bool = True) -> None:
  """Makes the workdir, or compares the config with the one that it was started with.

  A start that saved no step does not bind. train.num_steps may rise: the run is extended.

  Args:
    workdir: of the run.
    config: that it is to go on with.
    makes: False makes no folder.

  Raises:
    ValueError: the workdir is not writable, holds loaded weights, or was started with another
      config, every difference is listed; or its config.json is damaged.
    retries.StorageError: the workdir does not answer.
  """
  path = absolute(workdir) / 'config.json'
  if (path.parent / 'params').exists():
    raise ValueError(
      f'workdir {workdir} holds loaded weights: start from them with --config.start={workdir} and '
      'another --workdir.'
    )
  try:
    if makes:
      retries.call(path.parent.mkdir, parents=True, exist_ok=True)
    if not retries.call(lambda: path.exists() and run_folder.is_saved(workdir)):
      return
  except retries.StorageError:
    raise
  except OSError as error:
    raise ValueError(
      f'workdir {workdir} is not writable: {user_errors.reason(error)}. Choose another --workdir.'
    ) from error
  try:
    stored = storage.read_json(path)
  except ValueError as error:
    raise ValueError(
      f'{error}. Put back a copy; or remove it, if the config that you give is the one that '
      'this run was started with.'
    ) from error
  before = flatten(old_configs.complete(stored, path))
  now = flatten(old_configs.complete(plain(config), '--config'))  # A user's own may be older too.
  absent = '(absent)'
  _extend(before, now)
  changed = [
    name
    for name in sorted(set(before) | set(now))
    if before.get(name, absent) != now.get(name, absent) and not RESUMABLE.match(name)
  ]
  drawn = [name for name in changed if DRAWN.match(name)]
  if now.get('data.accept_changed'):
    changed, drawn = [name for name in changed if name not in drawn], []
  if changed:
    differences = [f'{n}: {before.get(n, absent)} -> {now.get(n, absent)}' for n in changed]
    way_out = ' With --config.data.accept_changed=True what is drawn may change.' if drawn else ''
    raise ValueError(
      f'workdir {workdir} was started with another config: {"; ".join(differences)}. Use another '
      f'--workdir, or the values that the run was started with.{way_out}'
    )


def _extend(before: dict[str, Any], now: Mapping[str, Any]) -> None:
  """Takes a larger train.num_steps over into the config before; raises ValueError for a smaller."""
  old, new = (config.get('train.num_steps') for config in (before, now))
  if old is None or new is None:
    return
  if new < old:
    raise ValueError(
      f'train.num_steps={new}, and the run was started with {old}: it may only rise. '
      f'--config.train.stop_at={new} ends it earlier.'
    )
  if new > old:
    before['train.num_steps'] = new
    logging.warning(
      'The run is extended from %d to %d steps.%s', old, new,
      ' The cosine now ends there, so that the learning rate is another from here on.'
      if now['optimizer.schedule'] == 'cosine' else '',
    )  # fmt: skip


def read(workdir: epath.PathLike) -> ml_collections.ConfigDict:
  """The resolved config of a run.

  Raises:
    ValueError: no run was started in this workdir.
  """
  path = absolute(workdir) / 'config.json'
  if not path.exists():
    raise ValueError(
      f'{workdir} holds no config.json: no run was started there. '
      f'{storage.where_else(workdir, "config.json")}'
    )
  config = old_configs.complete(storage.read_json(path), path)
  return ml_collections.ConfigDict(config).lock()


def still_grows(config: Any, step: int) -> bool:
  """Whether a run's conditioners have not wholly grown in after so many updates."""
  return bool(config.unet.growing) and step < config.train.growth_steps


def check_grown(config: Any, step: int, source: str) -> None:
  """Raises ValueError if the run's conditioners still grow at this step: no other model computes
  what it does."""
  if still_grows(config, step):
    raise ValueError(
      f'{source} is at step {step}, and its conditioners {list(config.unet.growing)} grow in until '
      f'step {config.train.growth_steps} (train.growth_steps): train it on.'
    )
