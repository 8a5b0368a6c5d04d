"""Which errors end a command with one line for the user, and which with a traceback.

The first are mistakes in flags, files and configs, the others are bugs. Commands of every package
ask here, and end with USAGE for the first.
"""

import argparse
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

USAGE = 2  # Exit code of argparse as well.
# A path that cannot be used, whoever met it.
_PATHS: dict[type[BaseException], str] = {
  FileNotFoundError: 'does not exist',
  NotADirectoryError: 'lies below a file, not a folder',
  IsADirectoryError: 'is a folder, not a file',
  FileExistsError: 'exists already',
  PermissionError: 'may not be read or written',
}
# The folder of our packages: the repository's root, or site-packages.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PACKAGES = ('configs', 'data_pipelines', 'i2vgen_jax', 'launch')


class Parser(argparse.ArgumentParser):
  """Shows its help under every name that commands of absl know."""

  def __init__(self, **options: Any):
    super().__init__(add_help=False, **options)
    text = 'show this help and exit'
    self.add_argument('-h', '--help', '--helpfull', action='help', help=text)


def is_ours(file: str | os.PathLike[str]) -> bool:
  """Whether a source file belongs to one of our packages."""
  path = pathlib.Path(file).resolve()
  return any(_ROOT / package in path.parents for package in _PACKAGES)


def message(error: BaseException) -> str | None:
  """The line for the user, or None for a bug, whose traceback says more."""
  if isinstance(error, ValueError) and _raised_by_us(error):
    return str(error)
  if isinstance(error, OSError) and type(error) in _PATHS:
    # A bucket's library gives the path alone.
    return f'{error.filename or error} {_PATHS[type(error)]}: check the path.'
  return None


def _raised_by_us(error: BaseException) -> bool:
  """Then its text was written for the user; that of a library says nothing of our flags."""
  return is_ours(traceback.extract_tb(error.__traceback__)[-1].filename)


def fail(text: str, code: int = USAGE) -> NoReturn:
  """Prints one error and exits."""
  print(f'error: {text}', file=sys.stderr, flush=True)
  sys.exit(code)


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
  """Ends the process with what main(arguments) returns; what the user should change is one line."""
  try:
    sys.exit(main(sys.argv[1:]))
  except Exception as error:
    if text := message(error):
      fail(text)
    raise
