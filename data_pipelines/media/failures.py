"""What becomes of an exception of one example: a reason to count by, never the end of a command.

Damage that was foreseen is a DecodeError with its own reason. Any other exception is named by its
class and by the line that raised it, so that a bug of ours, or of a user's hook, can be found. If
more than a few examples fail like that, it is no fault of theirs, and the command ends.
"""

import collections
import pathlib
import traceback
from collections.abc import Mapping
from multiprocessing import reduction

from data_pipelines.media.errors import DecodeError

UNEXPECTED = 'error:'  # Begins the reason of an exception that was not foreseen.
# A larger share of such examples is a bug, unless they are fewer than MIN_BUG_EXAMPLES.
MAX_UNEXPECTED_SHARE = 0.05
MIN_BUG_EXAMPLES = 10
NUM_COMMONEST = 5
_NOTE = 'raised at '


def of(error: Exception) -> DecodeError:
  """The error itself if it is a DecodeError, else one with its class and place."""
  if isinstance(error, DecodeError):
    return error
  if isinstance(error, MemoryError):  # A file that lies about its size, not a bug.
    return DecodeError('memory', str(error))
  return DecodeError(UNEXPECTED + type(error).__name__, f'{error} ({_place(error)})')


def portable(error: Exception) -> Exception:
  """The error for another process, with a note of its place: tracebacks stay behind."""
  error.add_note(_NOTE + _place(error))
  try:
    reduction.ForkingPickler.loads(reduction.ForkingPickler.dumps(error))
  except Exception:  # Classes whose arguments are not what they were made of.
    return of(error)
  return error


def _place(error: BaseException) -> str:
  """file.py:line that raised it."""
  for note in getattr(error, '__notes__', ()):
    if note.startswith(_NOTE):
      return note.removeprefix(_NOTE)
  found = traceback.extract_tb(error.__traceback__)
  return f'{pathlib.Path(found[-1].filename).name}:{found[-1].lineno}' if found else 'nowhere'


def commonest(counts: Mapping[str, int]) -> str:
  """The five commonest reasons with their numbers, for people."""
  found = collections.Counter(counts).most_common(NUM_COMMONEST)
  more = len(counts) - len(found)
  named = ', '.join(f'{reason} {number:,}' for reason, number in found)
  return named + (f' and {more} other reasons' if more else '')


def sentence(counts: Mapping[str, int], done: str) -> str:
  """A line for the end of a command.

  Args:
    counts: of failed examples, by reason.
    done: what could not be done with them, such as 'decoded'.
  """
  return f'{sum(counts.values()):,} could not be {done}; most often: {commonest(counts)}'


def is_unexpected(reason: str) -> bool:
  """Whether a reason is of an exception that was not foreseen."""
  return reason.startswith(UNEXPECTED)


def num_unexpected(counts: Mapping[str, int]) -> int:
  """How many examples failed in a way that was not foreseen."""
  return sum(number for reason, number in counts.items() if is_unexpected(reason))


def is_bug(counts: Mapping[str, int], num_examples: int) -> bool:
  """Whether so many failed in unforeseen ways that the program must be at fault.

  Args:
    counts: of failed examples, by reason.
    num_examples: of all that were tried.
  """
  number = num_unexpected(counts)
  is_share = number >= MIN_BUG_EXAMPLES and number > MAX_UNEXPECTED_SHARE * num_examples
  return is_share or number > max(1, num_examples / 2)


def check(counts: Mapping[str, int], num_examples: int, example: str = '') -> None:
  """Raises ValueError if is_bug.

  Args:
    counts: of failed examples, by reason.
    num_examples: of all that were tried.
    example: what one of them said.
  """
  if is_bug(counts, num_examples):
    counts = {reason: number for reason, number in counts.items() if is_unexpected(reason)}
    raise ValueError(
      f'{num_unexpected(counts):,} of {num_examples:,} examples failed in ways that no file should '
      f'cause: {commonest(counts)}. That is a bug of this program or of a hook, not of the files. '
      f'One of them: {example}'
    )
