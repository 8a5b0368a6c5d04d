"""Whether stored states and parameters fit a model, by their metadata alone: nothing is loaded."""

import dataclasses
from collections.abc import Collection
from typing import Any

from absl import logging
from etils import epath

from i2vgen_jax.process import run_folder
from i2vgen_jax.process.paths import absolute
from i2vgen_jax.stored import trees


def check_state(
  workdir: epath.PathLike, abstract_state: Any, optional: Collection[str] = ()
) -> tuple[int, Any]:
  """(step, data position) of the checkpoint that a start would go on from; (0, None) of a new run.

  Args:
    workdir: of the run.
    abstract_state: a TrainState of ShapeDtypeStructs.
    optional: fields that a checkpoint may lack.

  Raises:
    ValueError: its tensors are not the state's.
    trees.DamagedError: there are checkpoints, and the metadata of all are damaged.
  """
  directory = absolute(workdir) / 'checkpoints'
  steps = run_folder.numbered(directory)
  for step in steps:
    try:
      stored = trees.stored(directory / str(step), step)
    except trees.DamagedError as error:
      logging.error('%s', error)
      continue
    abstract = {
      field.name: getattr(abstract_state, field.name)
      for field in dataclasses.fields(abstract_state)
      if field.name in stored.tree or field.name not in optional
    }
    trees.check_tree(stored.tree, abstract, f'checkpoint {stored.directory}')
    return step, stored.data
  if steps:
    raise trees.DamagedError(f'No step in {directory} can be restored: put back a copy of one.')
  return 0, None


def check_params(workdir: epath.PathLike, abstract_params: Any) -> int:
  """The step whose parameters a run would start from: the newest of a run, 0 of a folder of `load`.

  Args:
    workdir: of that run, or the folder.
    abstract_params: ShapeDtypeStructs of its own model.

  Raises:
    ValueError: there are none, or they are of another model.
    trees.DamagedError: their metadata are damaged.
  """
  loaded, directory = absolute(workdir) / 'params', absolute(workdir) / 'checkpoints'
  if loaded.exists():
    trees.check_tree(trees.stored(loaded).tree, abstract_params, str(loaded))
    return 0
  steps = run_folder.committed(directory)
  if not steps:
    raise ValueError(f'{directory} holds no complete checkpoint.')
  stored = trees.stored(directory / str(steps[-1]), steps[-1])
  trees.check_tree(stored.tree['params'], abstract_params, str(stored.directory))
  return steps[-1]
