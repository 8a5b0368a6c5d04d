"""Stores and loads what a run keeps in its workdir: state, data position, frozen networks, config.

    workdir/config.json            the resolved config
    workdir/tokenizer/             the tokenizer's files
    workdir/frozen/                VAE and CLIP parameters (Orbax), written once
    workdir/params/                the U-Net's parameters (Orbax), where `load` wrote the folder
    workdir/checkpoints/<step>/    {params, EMA, optimizer, step, seed} (Orbax) and the data
    position (metadata)

A step counts only once Orbax has committed it; the next start removes a save that was cut off.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any, cast

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from data_pipelines.corpus import storage
from i2vgen_jax import old_configs
from i2vgen_jax.parallel import sharding

# How much of a tree is read or written at once, if no single tensor is larger.
MAX_BYTES_IN_FLIGHT = 2**29
COMMITTED = 'commit_success.txt'
# Fields that may change between two starts of the same run: where and how it runs, not what it
# computes.
RESUMABLE = re.compile(
  r'mesh\.|sharding\.|checkpoint\.|compilation\.|sample\.|watchdog\.|hosts\.|unet\.remat$'
  r'|data\.(directories\.|index$|num_threads$|sandbox$|max_bad_fraction$|accept_changed$)'
  r'|train\.(stop_at|\w+_every|num_eval_examples|num_sample_videos|accumulation|tensorboard'
  r'|profile_\w+)$'
)


class Checkpoints:
  """Saves every so many steps in the background; keeps the last few, and every so many for ever.

  Args:
    workdir: local path or gs://...
    every: steps between saves.
    keep_last: how many of the newest stay.
    keep_every: steps at multiples of this stay; 0 keeps none.
  """

  def __init__(self, workdir: epath.PathLike, every: int, keep_last: int, keep_every: int):
    policies = ocp.training.preservation_policies
    preserve: list[Any] = [policies.LatestN(keep_last)]
    if keep_every:
      preserve.append(policies.EveryNSteps(keep_every))
    self._directory = absolute(workdir) / 'checkpoints'
    self._checkpointer = ocp.training.Checkpointer(
      self._directory,
      # Orbax declares other arguments for policies than its own policies take.
      # pyrefly: ignore[bad-argument-type]
      save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(every),
      # pyrefly: ignore[bad-argument-type]
      preservation_policy=policies.AnyPreservationPolicy(preserve),
      cleanup_tmp_directories=True,
    )

  @property
  def latest_step(self) -> int | None:
    """The newest committed step, or None."""
    return latest_step(self._directory)

  def save(self, step: int, state: Any, data_position: dict[str, Any], force: bool = False) -> None:
    """Starts an asynchronous save if one is due, or if `force`.

    Errors of the previous save are raised here.

    Args:
      step: updates done.
      state: tree of arrays.
      data_position: what JSON can hold; `restore` returns it.
      force: save also between the steps that are due.
    """
    if self.latest_step == step:
      return
    if force or self._checkpointer.should_save(step):
      self._checkpointer.save_checkpointables_async(
        step, {'state': state}, custom_metadata={'data': data_position}, force=True
      )

  def restore(self, step: int, abstract_state: Any) -> tuple[Any, Any]:
    """(state, data position) of `step`, placed by the shardings in `abstract_state`.

    Raises:
      ValueError: a tensor is missing, unexpected or of another shape or type; all are named.
    """
    metadata = self._checkpointer.metadata(step)
    check_tree(metadata.metadata, abstract_state, f'checkpoint {self._directory / str(step)}')
    state = self._checkpointer.load_checkpointables(step, {'state': abstract_state})['state']
    return state, cast(Mapping[str, Any], metadata.custom_metadata)['data']

  def close(self) -> None:
    """Waits for the save under way."""
    self._checkpointer.close()


def absolute(path: epath.PathLike) -> epath.Path:
  """The path as Orbax wants it: absolute if local, as it is if in a bucket."""
  return epath.Path(path) if '://' in str(path) else epath.Path(os.path.abspath(path))


def bytes_to_come(workdir: epath.PathLike, keep_last: int, abstract_state: Any) -> int:
  """How many more bytes a run's checkpoints need: the `keep_last` newest, and one under way.

  Args:
    workdir: of the run; the checkpoints that it holds already are counted.
    keep_last: how many of the newest stay.
    abstract_state: arrays or ShapeDtypeStructs of one checkpoint.
  """
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_state))
  return size * max(1, keep_last + 1 - len(steps(absolute(workdir) / 'checkpoints')))


def steps(directory: epath.PathLike) -> list[int]:
  """The steps that Orbax committed under `directory`."""
  directory = absolute(directory)
  if not directory.exists():
    return []
  return [
    int(entry.name)
    for entry in directory.iterdir()
    if entry.name.isdigit() and (entry / COMMITTED).exists()
  ]


def latest_step(directory: epath.PathLike) -> int | None:
  """The newest step that Orbax committed under `directory`, or None."""
  return max(steps(directory), default=None)


def check_tree(found: Any, expected: Any, what: str) -> None:
  """Compares two trees of shapes.

  Args:
    found: tree of what was read.
    expected: tree of the config's model.
    what: names `found` in the error.

  Raises:
    ValueError: a tensor is missing, unexpected or of another shape or type; the first 20 are named.
  """
  found, expected = (
    {
      name: (tuple(leaf.shape), np.dtype(leaf.dtype))
      for name, leaf in sharding.by_path(tree).items()
    }
    for tree in (found, expected)
  )
  problems = [f'missing {name}' for name in expected if name not in found]
  problems += [f'unexpected {name}' for name in found if name not in expected]
  problems += [
    f'{name}: {found[name][1]}{list(found[name][0])} where the config makes '
    f'{expected[name][1]}{list(expected[name][0])}'
    for name in expected
    if name in found and found[name] != expected[name]
  ]
  if problems:
    listed = '\n  '.join(
      problems[:20] + [f'... and {len(problems) - 20} more'] * (len(problems) > 20)
    )
    raise ValueError(f'{what} does not fit the model of this config:\n  {listed}')


def save_tree(directory: epath.PathLike, tree: Any) -> None:
  """Writes a tree of arrays with Orbax, once."""
  with _sparing(tree):
    ocp.save(absolute(directory), tree)


def load_tree(directory: epath.PathLike, abstract_tree: Any, partly: bool = False) -> Any:
  """Reads what `save_tree` wrote, onto the shardings of `abstract_tree`.

  Args:
    directory: of the tree.
    abstract_tree: ShapeDtypeStructs with shardings.
    partly: leave out the top branches that the abstract tree lacks.

  Raises:
    ValueError: as `Checkpoints.restore`.
  """
  directory = absolute(directory)
  stored = cast(dict[str, Any], ocp.metadata(directory).metadata)
  rest = [name for name in stored if name not in abstract_tree] if partly else []
  found = {name: branch for name, branch in stored.items() if name not in rest}
  check_tree(found, abstract_tree, str(directory))
  skipped = {name: jax.tree.map(lambda _: ocp.PLACEHOLDER, stored[name]) for name in rest}
  with _sparing(abstract_tree):
    tree = abstract_tree | skipped if rest else abstract_tree
    loaded = cast(dict[str, Any], ocp.load(directory, tree))
  return {name: loaded[name] for name in abstract_tree} if rest else loaded


def _sparing(tree: Any) -> ocp.Context:
  """A context in which Orbax moves a part of the tree at a time; by default it copies it whole."""
  context = ocp.Context()
  largest = max(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
  for name in ('write', 'read', 'transfer'):
    setattr(context.memory, f'{name}_concurrent_bytes', max(largest, MAX_BYTES_IN_FLIGHT))
  return context


def plain_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as config.json holds it: nested dicts of its own, with lists for tuples."""
  return json.loads(config.to_json())


def flatten_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """{'train.num_steps': 100, ...}; tuples of dicts are leaves."""
  flat = traverse_util.flatten_dict(config, keep_empty_nodes=True, sep='.')
  return {name: {} if value is traverse_util.empty_node else value for name, value in flat.items()}


def write_config(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
  """Stores the resolved config of a run."""
  # In its order, which is that of the buckets' draws.
  storage.write_bytes(absolute(workdir) / 'config.json', config.to_json(indent=2).encode())


def check_config(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
  """Makes the workdir, or compares the config with the one that it was started with.

  Raises:
    ValueError: the workdir is not writable, holds loaded weights, or was started with another
      config; every difference is listed.
  """
  path = absolute(workdir) / 'config.json'
  if (path.parent / 'params').exists():
    raise ValueError(
      f'workdir {workdir} holds loaded weights: start from them with --config.start={workdir} and '
      'another --workdir.'
    )
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
      return
  except OSError as error:
    raise ValueError(
      f'workdir {workdir} is not writable: {error}. Choose another --workdir.'
    ) from error
  before = flatten_config(old_configs.complete(storage.read_json(path), path))
  now = flatten_config(plain_config(config))
  absent = '(absent)'
  differences = [
    f'{name}: {before.get(name, absent)} -> {now.get(name, absent)}'
    for name in sorted(set(before) | set(now))
    if before.get(name, absent) != now.get(name, absent) and not RESUMABLE.match(name)
  ]
  if differences:
    raise ValueError(
      f'workdir {workdir} was started with another config:\n  '
      + '\n  '.join(differences)
      + '\nUse another --workdir, or the values that the run was started with.'
    )


def read_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
  """The resolved config of a run.

  Raises:
    ValueError: no run was started in this workdir.
  """
  path = absolute(workdir) / 'config.json'
  if not path.exists():
    raise ValueError(f'{workdir} holds no config.json: no run was started there. Check the path.')
  config = old_configs.complete(storage.read_json(path), path)
  return ml_collections.ConfigDict(config).lock()


def load_params(
  workdir: epath.PathLike,
  abstract_params: Any,
  weights: str = 'ema',
  step: int | None = None,
) -> tuple[Any, int]:
  """Parameters alone from the newest (or given) checkpoint of a run; the optimizer state is not
  read.

  Args:
    workdir: of a run, or a folder of `load`, whose one set of parameters is step 0.
    abstract_params: ShapeDtypeStructs with shardings.
    weights: 'ema' or 'raw'.
    step: of the checkpoint; default the newest.

  Returns:
    (params, step).

  Raises:
    ValueError: no committed checkpoint, unknown `weights`, or another model.
  """
  fields = {'ema': 'ema_params', 'raw': 'params'}
  if weights not in fields:
    raise ValueError(f"weights={weights!r} is unknown; known: 'ema', 'raw'.")
  loaded, directory = absolute(workdir) / 'params', absolute(workdir) / 'checkpoints'
  if loaded.exists() and step in (None, 0):
    return load_tree(loaded, abstract_params), 0
  step = latest_step(directory) if step is None else step
  if step is None or not (directory / str(step) / COMMITTED).exists():
    raise ValueError(
      f'{directory} holds no complete checkpoint{"" if step is None else f" {step}"}.'
    )
  stored = ocp.checkpointables_metadata(directory / str(step)).metadata['state']
  field = fields[weights]
  check_tree(stored[field], abstract_params, f'checkpoint {directory / str(step)}')
  skipped = jax.tree.map(lambda _: ocp.PLACEHOLDER, stored)
  abstract = {'state': {**skipped, field: abstract_params}}
  loaded = ocp.load_checkpointables(directory / str(step), abstract)
  logging.info('Loaded %s weights of step %d from %s.', weights, step, workdir)
  return loaded['state'][field], step
