"""What a run has left in its workdir, read without JAX: by `status`, and by what restarts runs."""

import json
from typing import Any

from etils import epath

METRICS, EVENTS = 'metrics.jsonl', 'goodput.jsonl'
COMMITTED = 'commit_success.txt'


def checkpoint_steps(workdir: epath.PathLike) -> list[int]:
  """Steps of the checkpoints that are complete, in their order."""
  directory = epath.Path(workdir) / 'checkpoints'
  if not directory.is_dir():
    return []
  names = [path.name for path in directory.iterdir()]
  complete = [name for name in names if name.isdigit() and (directory / name / COMMITTED).exists()]
  return sorted(map(int, complete))


def rows(workdir: epath.PathLike, name: str) -> tuple[list[dict[str, Any]], int]:
  """(rows of a file of JSON lines, how many of its lines are damaged); ([], 0) without the file."""
  path = epath.Path(workdir) / name
  if not path.exists():
    return [], 0
  found, damaged = [], 0
  for line in path.read_bytes().splitlines():
    try:
      row = json.loads(line)
    except ValueError:  # A process was killed while it wrote.
      row = None
    if isinstance(row, dict):
      found.append(row)
    else:
      damaged += 1
  return found, damaged


def progress(workdir: epath.PathLike) -> Any:
  """What changes, between two starts of a run, only if it made a step that it logged or saved.

  None, which tells nothing, if the workdir cannot be read from here.
  """
  try:
    path = epath.Path(workdir) / METRICS
    logged = path.stat().length if path.exists() else 0
    return checkpoint_steps(workdir)[-1:], logged
  except Exception:  # Of any bucket's library: the run itself will say what is wrong.
    return None
