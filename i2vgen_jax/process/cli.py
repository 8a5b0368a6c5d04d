"""How every command starts and ends: flags, one-line errors for mistakes, exit codes for launchers.

Exit codes: see exit_codes.py.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from typing import Any

import jax
from absl import app, flags, logging
from absl.logging import converter
from jax.experimental import multihost_utils

from data_pipelines import user_errors
from i2vgen_jax.process import exit_codes

# JAX says one of these when another process of the run has died.
LOST_PEER_WORDS = ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'Gloo', 'onnection', 'heartbeat')


class TrainingError(RuntimeError):
  """Training cannot go on usefully: too many bad samples, or the loss is not finite."""


def parse_flags(argv: list[str]) -> list[str]:
  """Parses by absl; an error is one line, and a request such as --help is no failure."""
  try:
    arguments = flags.FLAGS(argv)
    if 'config' in flags.FLAGS and flags.FLAGS.config is not None:
      check_config(flags.FLAGS.config)
    return arguments
  except SystemExit:  # absl leaves with 1 once it has shown --help.
    sys.exit(exit_codes.DONE)
  except Exception as error:  # Anything: a config file is the user's own code.
    user_errors.fail(flag_message(error))


def check_config(config: Any) -> None:
  """Raises an error unless the config was loaded and is a ConfigDict."""
  # The stand-in for a file that could not be loaded raises OSError here.
  if not hasattr(config, 'to_json'):
    raise ValueError(f'--config gives {config!r}: its get_config must return a ConfigDict.')


def flag_message(error: Exception) -> str:
  """One line: the last of absl's or ml_collections' many, or a config file's error and place."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  text = lines[-1].removeprefix('ValueError: ') if lines else repr(error)
  if isinstance(error, (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)):
    return text
  place = traceback.extract_tb(error.__traceback__)[-1]
  where = f' ({place.filename}, line {place.lineno})' if os.path.exists(place.filename) else ''
  return f'{type(error).__name__}: {text}{where}'


def classify(error: BaseException) -> tuple[int, str | None]:
  """(exit code, one line for the user); the line is None for a bug, whose traceback says more."""
  if isinstance(error, TrainingError):
    return exit_codes.FAILED, str(error)
  if message := user_errors.message(error):
    return exit_codes.USAGE, message
  if isinstance(error, jax.errors.JaxRuntimeError) and jax.distributed.is_initialized():
    if any(word in str(error) for word in LOST_PEER_WORDS):
      return exit_codes.LOST_PEER, f'another process of this run is gone: {error}'
  return exit_codes.BUG, None


def leave_pod(error: BaseException) -> None:
  """Reports the error and exits at once in a run of several processes; alone, does nothing.

  A process that cleans up first waits for others that wait for it: in a collective, until a save is
  complete everywhere, and 300 s in JAX's own exit.
  """
  if not jax.distributed.is_initialized():
    return
  code, message = classify(error)
  if message is None:
    traceback.print_exception(error)
  else:
    print(f'error: {message}', file=sys.stderr)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def run(main: Callable[..., int | None], num_arguments: int = 0) -> None:
  """Parses flags, runs main(*arguments), and turns its errors into messages and exit codes."""

  def guarded(argv: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    # Show only warnings of libraries: Orbax logs twenty lines about every save.
    logging.get_absl_handler().addFilter(
      lambda record: (
        record.levelno >= converter.STANDARD_WARNING or user_errors.is_ours(record.pathname)
      )
    )
    arguments = argv[1:]
    if len(arguments) != num_arguments:
      user_errors.fail(
        f'{num_arguments} arguments beside flags are expected, not {arguments}. Flags start '
        'with --.'
      )
    try:
      sys.exit(main(*arguments) or 0)
    except Exception as error:
      leave_pod(error)
      code, message = classify(error)
      if message is None:
        raise
      user_errors.fail(message, code)

  app.define_help_flags()
  flags.DEFINE_alias('h', 'help')
  app.run(guarded, flags_parser=parse_flags)


@contextlib.contextmanager
def signals_to(handler: Callable, *numbers: int) -> Generator[None, None, None]:
  """Handles these signals so, and puts back at the end what was there before.

  Only the main thread of a process may handle signals: in another one they stay as they are.
  """
  before = {}
  try:
    if threading.current_thread() is threading.main_thread():
      for number in numbers:
        before[number] = signal.signal(number, handler)
    yield
  finally:
    for number, earlier in before.items():
      # None: C code had set the handler, and Python cannot put it back.
      signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


class StopRequest:
  """Whether a SIGTERM (preemption) or SIGINT (Ctrl-C) asks the run to save and stop; the same on
  all hosts. `close` it when nobody asks any longer: the signals then do what they did before.

  A second SIGINT aborts at once.
  """

  def __init__(self) -> None:
    self._asked = False
    self._signals = contextlib.ExitStack()
    # JAX itself listens for SIGTERM in a run of several processes.
    numbers = [signal.SIGINT] + [signal.SIGTERM] * (not jax.distributed.is_initialized())
    self._signals.enter_context(signals_to(self._ask, *numbers))

  def close(self) -> None:
    """Gives the signals back."""
    self._signals.close()

  def _ask(self, number: int, frame: Any) -> None:
    self._asked = True
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if jax.distributed.is_initialized() and number == signal.SIGINT:
      os.kill(os.getpid(), signal.SIGTERM)

  def requested(self, step: int) -> bool:
    """True from the first step boundary after the signal."""
    if jax.distributed.is_initialized():
      # JAX listens for SIGTERM itself, and the processes agree on a step.
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked
