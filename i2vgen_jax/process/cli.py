"""How every command starts and ends: flags, one-line errors for mistakes, exit codes for launchers.

Importing JAX and all that is built on it takes seconds, which --help and a mistake in a flag should
not wait for. So a command's file begins with its flags and `run`, and `run` imports the rest.

Exit codes: see exit_codes.py.
"""

import importlib
import logging as standard_logging
import math
import os
import pathlib
import re
import sys
import time
import traceback
from typing import Any

from absl import app, flags, logging
from absl.logging import converter

from data_pipelines import progress, user_errors
from i2vgen_jax.process import exit_codes


def parse_flags(argv: list[str], file: str) -> list[str]:
  """Parses by absl; returns what is beside flags.

  An error is one line, and a request such as --help is no failure.

  Args:
    argv: of the process.
    file: of the command, imported if there are flags that are not defined yet: a library's.
  """
  try:
    arguments = flags.FLAGS([unpack_argument(word) for word in argv], known_only=True)
    if any(argument.startswith('-') for argument in arguments[1:]):
      command(file)
      arguments = flags.FLAGS(arguments)
    check_numbers()
    if 'config' in flags.FLAGS and flags.FLAGS.config is not None:
      check_config(flags.FLAGS.config)
    return arguments
  except SystemExit:  # absl leaves with 1 once it has shown --help.
    sys.exit(exit_codes.DONE)
  except Exception as error:  # Anything: a config file is the user's own code.
    user_errors.fail(flag_message(error))


def check_numbers(values: flags.FlagValues = flags.FLAGS) -> None:
  """Raises an error for a flag that is not a number: no range holds one."""
  for name in values:
    value = values[name].value
    if isinstance(value, float) and math.isnan(value) and not name.startswith('config.'):
      raise flags.Error(f'--{name}={value} must be a number.')


def check_config(config: Any) -> None:
  """Raises an error unless the config was loaded and is a ConfigDict."""
  # The stand-in for a file that could not be loaded raises OSError here.
  if not hasattr(config, 'to_json'):
    raise ValueError(f'--config gives {config!r}: its get_config must return a ConfigDict.')


def flag_message(error: Exception) -> str:
  """One line: the last of absl's or ml_collections' many, or a config file's error and place."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  text = lines[-1].removeprefix('ValueError: ') if lines else repr(error)
  if missing := re.search(r'Flag --(\w+) must have a value other than None', text):
    given = [each for each in sys.argv[1:] if each.startswith(f'{missing[1]}=')]
    return f'--{missing[1]} is missing: ' + (
      f'write --{given[0]}' if given else f'give --{missing[1]}=...; --help says what it is.'
    )
  if early := re.match(r'Found (--\S+) in argv before a value for --(\w+)', text):
    return f'{early[1]} stands before --{early[2]}=FILE: put --{early[2]} first.'
  if unknown := re.match(r"Unknown command line flag '([^']*)'", text):
    near = user_errors.nearest(unknown[1], [name for name in flags.FLAGS if '.' not in name])
    return (
      f'{unknown[0]}{near or "."} --help lists all; a field of the config is --config.BLOCK.FIELD.'
    )
  for words, meant in WRONG_TYPES.items():
    if wrong := re.fullmatch(rf'flag (--[\w.]+=.*?): \(?\W*{words}.*', text):
      return f'{wrong[1]} must be {meant}.'
  if isinstance(error, (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)):
    return text
  place = traceback.extract_tb(error.__traceback__)[-1]
  where = f' ({place.filename}, line {place.lineno})' if os.path.exists(place.filename) else ''
  return f'{type(error).__name__}: {text}{where}'


# What Python and absl say of a value of another type -> what the flag takes.
WRONG_TYPES = {
  'invalid literal for int': 'a whole number, such as 1000',
  'could not convert string to float': 'a number, such as 0.5',
  'Non-boolean argument': 'true or false',
  'Failed to parse .* as a ConfigDict': "a dict of Python, such as {'name': 1.0}",
}


def log_to_stderr() -> None:
  """Logs what this project says, and only warnings of libraries: at every save Orbax logs twenty
  lines, one of which holds all digests."""
  logging.use_absl_handler()
  logging.get_absl_handler().setFormatter(_Line())
  logging.set_verbosity(logging.INFO)
  # It logs tracebacks of what it raises as well.
  standard_logging.getLogger('gcsfs').setLevel(standard_logging.CRITICAL)
  logging.get_absl_handler().addFilter(
    lambda record: (
      record.levelno >= converter.STANDARD_WARNING or user_errors.is_ours(record.pathname)
    )
  )


class _Line(standard_logging.Formatter):
  """The time and the message, of what is worse than information its level too."""

  def format(self, record: standard_logging.LogRecord) -> str:
    is_worse = record.levelno > standard_logging.INFO
    level = f'{record.levelname.lower()}: ' if is_worse else ''
    when = time.strftime(progress.CLOCK, time.localtime(record.created))
    return f'{when} {level}{super().format(record)}'


SHIPPED = 'builtin:'  # Before the name of a shipped model, in place of a folder.
_SHIPPED_ARGUMENT = re.compile(rf'([:,]\w+=)({SHIPPED}[^,]*)')


def command(file: str) -> Any:
  """The module of a command's file, imported by its name with all that it imports."""
  path = pathlib.Path(file).resolve()
  root = next(folder for folder in path.parents if not (folder / '__init__.py').exists())
  return importlib.import_module('.'.join(path.relative_to(root).with_suffix('').parts))


def unpack_shipped() -> None:
  """Puts a folder in place of each flag that names a shipped model, such as builtin:demo, alone or
  in a list; raises ValueError if there is no such model."""
  for name, value in {name: flags.FLAGS[name].value for name in flags.FLAGS}.items():
    given = value if isinstance(value, list) else [value]
    if not any(_is_shipped(part) for part in given):
      continue
    found = [_folder(part) if _is_shipped(part) else part for part in given]
    flags.FLAGS[name].value = found if isinstance(value, list) else found[0]
    if name == 'config.start':
      flags.FLAGS.config.start = found[0]


def unpack_argument(word: str) -> str:
  """A word of the command line; if it is a config with a shipped model among the arguments behind
  its colon, with that model's folder. Raises ValueError if there is no such model."""
  if '.py:' not in word:
    return word
  return _SHIPPED_ARGUMENT.sub(lambda found: found[1] + _folder(found[2]), word)


def _folder(name: str) -> str:
  shipped = pathlib.Path(__file__).parents[1] / 'demo' / 'shipped.py'
  return command(str(shipped)).folder(name)


def _is_shipped(value: Any) -> bool:
  return isinstance(value, str) and value.startswith(SHIPPED)


def run(file: str, num_arguments: int = 0) -> None:
  """Parses the flags that are defined so far, imports a command and runs its main(*arguments),
  whose errors become messages and exit codes. It does not return.

  Args:
    file: of the command that calls this, its __file__.
    num_arguments: beside flags.
  """

  def guarded(argv: list[str]) -> None:
    arguments = argv[1:]
    if len(arguments) != num_arguments:
      user_errors.fail(
        f'{num_arguments} arguments beside flags are expected, not {arguments}. Flags start '
        'with --.'
      )
    main = command(file).main
    from i2vgen_jax.process import errors, hosts  # They import JAX.

    log_to_stderr()
    try:
      unpack_shipped()
      sys.exit(main(*arguments) or 0)
    except Exception as error:
      hosts.leave_pod(error)
      code, message = errors.classify(error)
      if message is None:
        raise
      user_errors.fail(message, code)

  app.define_help_flags()
  flags.DEFINE_alias('h', 'help')
  app.run(guarded, flags_parser=lambda argv: parse_flags(argv, file))
