"""What a run has left in its workdir, read without JAX: by `status`, and by what restarts runs."""

from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from data_pipelines.corpus import storage

METRICS, EVENTS = 'metrics.jsonl', 'goodput.jsonl'
RESUMED = 'resumed'  # In metrics.jsonl: the run goes on from this row's step.
COMMITTED = 'commit_success.txt'  # Orbax writes it last.


def checkpoint_steps(workdir: epath.PathLike) -> list[int]:
  """Steps of a run's checkpoints that are complete, in their order."""
  return committed(epath.Path(workdir) / 'checkpoints')


def committed(directory: epath.Path) -> list[int]:
  """The steps below a folder that Orbax committed, in their order."""
  if not directory.is_dir():
    return []
  names = [path.name for path in directory.iterdir()]
  complete = [name for name in names if name.isdigit() and (directory / name / COMMITTED).exists()]
  return sorted(map(int, complete))


def progress(workdir: epath.PathLike) -> Any:
  """What changes, between two starts of a run, only if it made a step that it logged or saved.

  None, which tells nothing, if the workdir cannot be read from here.
  """
  try:
    path = epath.Path(workdir) / METRICS
    parts = sorted(path.glob('*')) if path.is_dir() else [path] * path.exists()
    logged = [(part.name, part.stat().length) for part in parts[-1:]]
    return checkpoint_steps(workdir)[-1:], logged
  except Exception:  # Of any bucket's library: the run itself will say what is wrong.
    return None


def standing(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  """The rows of metrics.jsonl without those of steps that were taken back: that came after the step
  from which the run was resumed later."""
  found = []
  for row in rows:
    if RESUMED in row:
      found = [old for old in found if old.get('step', 0) <= row['step']]
    else:
      found.append(row)
  return found


def numbered(directory: epath.Path) -> list[int]:
  """The steps that have a folder, the newest first; in a bucket they are committed."""
  if not directory.exists():
    return []
  if not storage.is_local(directory):
    return committed(directory)[::-1]
  names = [entry.name for entry in directory.iterdir()]
  return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def is_saved(workdir: epath.PathLike) -> bool:
  """Whether a run saved a step here, or `load` its weights: from then on the config binds."""
  workdir = epath.Path(workdir)
  return bool(numbered(workdir / 'checkpoints')) or (workdir / 'params').exists()
