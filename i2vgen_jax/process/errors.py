"""Which error ends a run with which exit code: one table, for commands and their launchers.

XLA and its clients tell their errors by words, the status codes of Abseil, and the same word means
one thing where a process is alone and another where it waits for others.
"""

import errno
import re
from collections.abc import Iterator

import jax

from data_pipelines import user_errors
from data_pipelines.corpus import retries
from i2vgen_jax.process import exit_codes


class TrainingError(RuntimeError):
  """Training cannot go on usefully: too many bad samples, or the loss is not finite."""


# Of JaxRuntimeErrors where there are other processes: of collectives, of barriers, and of the
# service that joins them.
LOST_PEER = re.compile(
  r'\b(UNAVAILABLE|DEADLINE_EXCEEDED|CANCELLED)\b'
  r'|[Gg]loo|[Cc]onnection|[Hh]eartbeat|[Bb]arrier|[Cc]oordination|another task'
)
# Of JaxRuntimeErrors that no other process is to blame for: the device, its driver or its links.
DEVICE = re.compile(
  r'\b(INTERNAL|DATA_LOSS|ABORTED|UNAVAILABLE|DEADLINE_EXCEEDED|CANCELLED|UNKNOWN)\b'
  r'|[Hh]alted|[Cc]onnection'
)
FETCHED = re.compile('(INTERNAL|UNKNOWN|DATA_LOSS|ABORTED|CANCELLED|FAILED_PRECONDITION): ')
OUT_OF_MEMORY = re.compile(r'\bRESOURCE_EXHAUSTED\b|[Oo]ut of memory')
# Of other libraries' errors. TensorStore, beneath checkpoints, raises ValueErrors with these words,
# and with the number of an OSError where there was one.
OS_ERROR = re.compile(r"\[os_error_code='(\d+)'\]")
STATUS = re.compile(
  r'\b(RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED)\b|No space left on device'
)
# Of OSErrors that have no number.
HTTP = (408, 429, 500, 502, 503, 504)
AWAY = re.compile(
  rf'(^|HTTP\S* |[Ss]tatus:? |[Cc]ode:? |[Ee]rror:? )({"|".join(map(str, HTTP))})\b'
  r'|[Tt]im(ed |e)?out|[Cc]onnection|[Uu]navailable|[Tt]emporar(y|ily)'
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def classify(error: BaseException) -> tuple[int, str | None]:
  """(exit code, one line for the user); the line is None for a bug, whose traceback says more."""
  if isinstance(error, TrainingError):
    return exit_codes.FAILED, str(error)
  if message := user_errors.message(error):
    return exit_codes.USAGE, message
  if is_out_of_memory(error):
    # The first line names the size; what XLA lists after it are its own temporaries.
    lines = [str(error).splitlines()[0], *getattr(error, '__notes__', ())]
    return exit_codes.USAGE, '\n'.join(['a device has too little memory: ' + lines[0], *lines[1:]])
  if _is_xla(error):
    return _of_xla(str(error))
  if storage := next(filter(_is_storage, _chain(error)), None):
    return exit_codes.STORAGE, f'storage fails: {type(storage).__name__}: {storage}'
  return exit_codes.BUG, None


def is_out_of_memory(error: BaseException) -> bool:
  """Whether a program did not fit a device. Another start would not either."""
  return isinstance(error, jax.errors.JaxRuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))


def _is_xla(error: BaseException) -> bool:
  """Where values are fetched from a device, XLA's errors are ValueErrors."""
  if isinstance(error, jax.errors.JaxRuntimeError):
    return True
  text = str(error)
  stored = 'tensorstore' in text or os_error(error) is not error
  return type(error) is ValueError and bool(FETCHED.match(text)) and not stored


def _of_xla(text: str) -> tuple[int, str | None]:
  halted = 'halted' in text  # Then the rest of the text is a dump of the device.
  if jax.distributed.is_initialized() and LOST_PEER.search(text) and not halted:
    return exit_codes.LOST_PEER, f'another process of this run is gone: {text}'
  if DEVICE.search(text):
    return exit_codes.DEVICE, f'a device or its runtime failed: {text}'
  return exit_codes.BUG, None


def os_error(error: BaseException) -> BaseException:
  """The OSError of which TensorStore tells in words; any other error as it is."""
  number = OS_ERROR.search(str(error))
  return OSError(int(number[1]), str(error)) if number else error


def _is_storage(error: BaseException) -> bool:
  if isinstance(error, retries.StorageError) or STATUS.search(str(error)):
    return True
  error = os_error(error)
  if not isinstance(error, OSError):
    return retries.is_transient(error)
  if isinstance(error, BrokenPipeError):  # Of who reads our output.
    return False
  if error.errno is None and not isinstance(error, (TimeoutError, ConnectionError)):
    return bool(AWAY.search(str(error)))
  return error.errno in (*FULL, *HTTP) or retries.is_transient(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  """An error and what it was raised from."""
  while error is not None:
    yield error
    error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
