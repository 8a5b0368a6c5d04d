"""Paths of a config, and of a run."""

import os
import pathlib
import re

from etils import epath

ROOT = pathlib.Path(__file__).resolve().parents[2]


def find(path: str) -> epath.Path:
  """The path itself, or that beside the packages if it is relative and does not exist."""
  given = epath.Path(path)
  return given if given.is_absolute() or given.exists() else epath.Path(ROOT / path)


def hub_hint(path: str) -> str:
  """What to do where a path that is not there looks like a name on the Hub; else ''."""
  if not re.fullmatch(r'[\w.-]+/[\w.-]+', path) or epath.Path(path).parent.exists():
    return ''
  return f' To take it from the Hub: hf download {path} --local-dir=FOLDER, then name FOLDER.'


def absolute(path: epath.PathLike) -> epath.Path:
  """The path as Orbax wants it: absolute if local, as it is if on gs://.

  Raises:
    ValueError: it is in another kind of bucket.
  """
  if '://' not in str(path):
    return epath.Path(os.path.abspath(path))
  if not str(path).startswith('gs://'):
    raise ValueError(f'{path}: a run lives on a disk or on gs://. Orbax writes to no other bucket.')
  return epath.Path(path)
