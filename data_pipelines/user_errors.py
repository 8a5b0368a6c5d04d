"""Which errors end a command with one line for the user, and which with a traceback.

The first are mistakes in flags, files and configs, the others are bugs. Commands of every package
ask here, and end with USAGE for the first.
"""

import argparse
import difflib
import errno
import math
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

USAGE = 2  # Exit code of argparse as well.
STORAGE = 172  # As in i2vgen_jax/process/exit_codes.py: worth another start.
# Ratios of difflib: --imge is a typo of --image; --num_clips is near --clip and --num_examples.
TYPO, NEAR = 0.8, 0.55
# A path that cannot be used, whoever met it.
_PATHS: dict[type[BaseException], str] = {
  FileNotFoundError: 'does not exist',
  NotADirectoryError: 'lies below a file, not a folder',
  IsADirectoryError: 'is a folder, not a file',
  FileExistsError: 'exists already',
  PermissionError: 'may not be read or written',
}
# What clients of buckets raise when they are not let in; gcsfs has no class of its own for 403.
_REFUSED = (
  'botocore.exceptions.NoCredentialsError',
  'google.api_core.exceptions.Forbidden',
  'google.api_core.exceptions.Unauthorized',
  'google.auth.exceptions.DefaultCredentialsError',
)
# The folder of our packages: the repository's root, or site-packages.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PACKAGES = ('configs', 'data_pipelines', 'i2vgen_jax', 'launch')


class StorageError(OSError):
  """Storage that stays away: worth another start, for no file and no flag is at fault."""


class Parser(argparse.ArgumentParser):
  """Shows its help under every name that commands of absl know, and errors in one line."""

  def __init__(self, **options: Any):
    super().__init__(add_help=False, allow_abbrev=False, **options)
    text = 'show this help and exit'
    self.add_argument('-h', '--help', '--helpfull', action='help', help=text)

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    """As argparse; a number that is none is an error, and so is an unknown flag."""
    found, others = super().parse_known_args(args, namespace)
    for name, value in vars(found).items():
      if isinstance(value, float) and math.isnan(value):
        self.error(f'--{name}={value} must be a number')
    unknown = [given for given in others if given.startswith('--')]
    if unknown:
      known = [option[2:] for option in self._option_string_actions if option.startswith('--')]
      name = unknown[0][2:].partition('=')[0]
      self.error(f'unrecognized arguments: {" ".join(others)}{nearest(name, known)}')
    return found, others

  def error(self, message: str) -> NoReturn:
    """Ends the command."""
    stop = '' if message.endswith('?') else '.'
    fail(f'{message}{stop} {self.prog} --help lists what there is.')


def nearest(name: str, known: Iterable[str]) -> str:
  """The end of a sentence about an unknown flag: which are meant perhaps; '' if none is near."""
  every = list(known)
  found = difflib.get_close_matches(name, every, 1, TYPO) or (
    difflib.get_close_matches(name, every, 2, NEAR)
  )
  return f': did you mean --{" or --".join(found)}?' if found else ''


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
  if _is_refused(error):
    return (
      f'the bucket may not be read or written: {" ".join(str(error).split())} Log in '
      '(gcloud auth application-default login, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), '
      'or ask for access.'
    )
  return None


def reason(error: BaseException) -> str:
  """The end of a sentence that names a path already: why it cannot be used, in words.

  What an OSError says of itself begins with its number and ends with the path once more.
  """
  if isinstance(error, OSError) and type(error) in _PATHS:
    return f'it {_PATHS[type(error)]}'
  return getattr(error, 'strerror', None) or str(error)


def storage_message(error: BaseException) -> str | None:
  """The line for a bucket that does not answer, or a disk that is full or fails."""
  failed = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
  if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in failed):
    return f'storage fails: {error}. What is done is kept: run the command again.'
  return None


def _is_refused(error: BaseException) -> bool:
  name = f'{type(error).__module__}.{type(error).__qualname__}'
  if name == 'gcsfs.retry.HttpError':
    return str(getattr(error, 'code', '')) in ('401', '403')
  return name in _REFUSED or (type(error) is OSError and str(error).startswith('Forbidden: '))


def _raised_by_us(error: BaseException) -> bool:
  """Then its text was written for the user; that of a library says nothing of our flags."""
  return is_ours(traceback.extract_tb(error.__traceback__)[-1].filename)


def printable(text: str) -> str:
  """The text for people: what no terminal should get, or is no text at all, is escaped."""
  return ''.join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
  code = ord(character)
  if 0xDC80 <= code <= 0xDCFF:  # A byte of a name that is not UTF-8.
    return f'\\x{code - 0xDC00:02x}'
  return character.encode('unicode_escape').decode()


def fail(text: str, code: int = USAGE) -> NoReturn:
  """Prints one error and exits."""
  lines = '\n'.join(map(printable, text.split('\n')))  # It may quote a name from a stranger's file.
  print(f'error: {lines}', file=sys.stderr, flush=True)
  sys.exit(code)


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
  """Ends the process with what main(arguments) returns; what the user should change is one line."""
  try:
    sys.exit(main(sys.argv[1:]))
  except Exception as error:
    end_with_message(error)
    raise


def end_with_message(error: Exception) -> None:
  """Ends the process with one line and the exit code of an error, unless it is a bug."""
  if text := storage_message(error):
    fail(text, STORAGE)
  if text := message(error):
    fail(text)
