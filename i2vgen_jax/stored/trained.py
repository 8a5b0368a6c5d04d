"""The parameters alone of a trained run, or of a folder of `load`."""

from typing import Any

from absl import logging
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax.process import run_folder
from i2vgen_jax.process.paths import absolute
from i2vgen_jax.stored import trees


def load_params(
  workdir: epath.PathLike,
  abstract_params: Any,
  weights: str = 'ema',
  step: int | None = None,
) -> tuple[Any, int]:
  """Parameters alone from the newest (or given) checkpoint of a run; the optimizer state is not
  read.

  Without a given step, damaged ones are logged and passed over for an older one.

  Args:
    workdir: of a run, or a folder of `load`, whose one set of parameters is step 0.
    abstract_params: ShapeDtypeStructs with shardings.
    weights: 'ema' or 'raw'.
    step: of the checkpoint; default the newest.

  Returns:
    (params, step).

  Raises:
    ValueError: no committed checkpoint, unknown `weights`, or another model.
    trees.DamagedError: none of the checkpoints, or not the given one, is as it was saved.
  """
  if weights not in ('ema', 'raw'):
    raise ValueError(f"weights={weights!r} is unknown; known: 'ema', 'raw'.")
  loaded, directory = absolute(workdir) / 'params', absolute(workdir) / 'checkpoints'
  if loaded.exists() and step in (None, 0):
    fix = 'Run i2vgen_jax.load again, into another folder.'
    return trees.load_tree(loaded, abstract_params, fix), 0
  saved = run_folder.committed(directory)[::-1]
  if step is not None:
    saved = [step] if step in saved else []
  if not saved:
    there = f'; there are {run_folder.committed(directory)}' if step is not None else ''
    raise ValueError(
      f'{directory} holds no complete checkpoint{"" if step is None else f" {step}"}{there}.'
    )
  damaged = []
  for step in saved:
    try:
      params = _params_of(trees.stored(directory / str(step), step), abstract_params, weights)
    except trees.DamagedError as error:
      logging.error('%s', error)
      damaged.append(str(error))
      continue
    path = absolute(workdir) / 'config.json'
    train = storage.read_json(path).get('train', {}) if path.exists() else {}
    kind = 'averaged' if weights == 'ema' and train.get('ema_decay', 1) else 'last'
    logging.info('Loaded %s weights of step %d from %s.', kind, step, workdir)
    return params, step
  raise trees.DamagedError(
    'No checkpoint can be loaded:\n  ' + '\n  '.join(damaged) + '\nPut back a copy of one.'
  )


def _params_of(stored: trees.Stored, abstract_params: Any, weights: str) -> Any:
  """The parameters in a checkpoint's tree; raw where they are not averaged."""
  averaged = stored.tree['ema_params'] if weights == 'ema' else {}
  parts = {'ema_params': {k: v for k, v in abstract_params.items() if k in averaged}}
  if len(parts['ema_params']) < len(abstract_params):
    parts['params'] = abstract_params
  found = stored.load({name: part for name, part in parts.items() if part})
  return found.get('params', {}) | found.get('ema_params', {})
