"""Paths of a config."""

import pathlib

from etils import epath

ROOT = pathlib.Path(__file__).resolve().parents[2]


def find(path: str) -> epath.Path:
  """The path itself, or that beside the packages if it is relative and does not exist."""
  given = epath.Path(path)
  return given if given.is_absolute() or given.exists() else epath.Path(ROOT / path)
