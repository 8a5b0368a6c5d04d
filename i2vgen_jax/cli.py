"""How every command starts and ends: flags, one-line errors for mistakes, exit codes for launchers.

Exit codes: 0 done, 1 bug, 2 bad flags, config, data or checkpoint, 3 a budget is exhausted (bad
samples, loss not finite), 42 stopped by a signal after saving.
"""

import pathlib
import signal
import sys
import traceback

import jax
from absl import app, flags, logging
from jax.experimental import multihost_utils

EXIT_USAGE, EXIT_BUDGET, EXIT_PREEMPTED = 2, 3, 42
_ROOT = pathlib.Path(__file__).resolve().parent.parent


class BudgetError(RuntimeError):
  """Training cannot go on usefully: too many bad samples, or the loss is not finite."""


def fail(message, code):
  """Prints one error and exits."""
  print(f'error: {message}', file=sys.stderr, flush=True)
  sys.exit(code)


def parse_flags(argv):
  """absl's parser, with the last line of its errors in place of a traceback."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    # ml_collections raises the latter for a config file, field or value that cannot be; absl
    # wraps some of them, traceback and all.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    fail(lines[-1].removeprefix('ValueError: ') if lines else repr(error), EXIT_USAGE)


def is_ours(file):
  """Whether a source file belongs to this repository."""
  path = pathlib.Path(file).resolve()
  return _ROOT in path.parents and '.venv' not in path.parts


def raised_by_us(error):
  """Whether our own code raised it: then its message is meant for the user."""
  return is_ours(traceback.extract_tb(error.__traceback__)[-1].filename)


def run(main):
  """Parses flags, runs main(), and turns its errors into messages and exit codes."""

  def guarded(argv):
    logging.set_verbosity(logging.INFO)
    # Orbax alone says twenty things about every save; of libraries only warnings are shown.
    logging.get_absl_handler().addFilter(
      lambda record: (
        record.levelno >= logging.converter.STANDARD_WARNING or is_ours(record.pathname)
      )
    )
    if len(argv) > 1:
      fail(f'unexpected arguments: {" ".join(argv[1:])}. Flags start with --.', EXIT_USAGE)
    try:
      sys.exit(main() or 0)
    except BudgetError as error:
      fail(str(error), EXIT_BUDGET)
    except ValueError as error:
      if not raised_by_us(error):
        raise
      fail(str(error), EXIT_USAGE)
    except OSError as error:
      # config_flags says that a config file cannot be loaded when the config is first used.
      if 'Configuration is not available' not in str(error):
        raise
      fail(str(error).splitlines()[-1].strip(), EXIT_USAGE)

  app.run(guarded, flags_parser=parse_flags)


def require(*names):
  """Marks flags as required."""
  for name in names:
    flags.mark_flag_as_required(name)


class StopRequest:
  """Whether a SIGTERM (preemption) or SIGINT (Ctrl-C) asks the run to save and stop; the same on
  all hosts.

  A second SIGINT aborts at once.
  """

  def __init__(self):
    self._asked = False
    if jax.process_count() == 1:
      signal.signal(signal.SIGTERM, self._ask)
      signal.signal(signal.SIGINT, self._ask)

  def _ask(self, number, frame):
    self._asked = True
    signal.signal(signal.SIGINT, signal.default_int_handler)

  def requested(self, step):
    """True from the first step boundary after the signal."""
    if jax.process_count() > 1:
      # jax.distributed listens for SIGTERM itself and agrees on a step.
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked
