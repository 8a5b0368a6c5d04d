"""What becomes of an exception in a worker: the line for the user, or the traceback of a bug."""

import dataclasses
import traceback
from collections.abc import Callable
from typing import Any

from data_pipelines import user_errors

# (index, item) -> None: does one shard.
Work = Callable[[tuple[int, Any]], None]


class WorkerError(RuntimeError):
  """A bug in a worker, with the traceback from there; or a worker that is lost again and again."""


@dataclasses.dataclass
class Outcome:
  """How a shard's work ended.

  Attributes:
    error: what was raised, in words; '' if nothing was.
    code: that a command ends with for it: of user_errors, or 1 for a bug.
  """

  error: str = ''
  code: int = 0

  def check(self) -> None:
    """Raises ValueError, StorageError or WorkerError if the work did."""
    if self.code == user_errors.USAGE:
      raise ValueError(self.error)
    if self.code == user_errors.STORAGE:
      raise user_errors.StorageError(self.error)
    if self.error:
      raise WorkerError(f'in a worker:\n{self.error}')


@dataclasses.dataclass
class Reporting:
  """The work, whose exceptions any process can read."""

  work: Work

  def __call__(self, numbered: tuple[int, Any]) -> Outcome:
    """Does one shard, (index, item)."""
    try:
      self.work(numbered)
    except Exception as error:
      if user_errors.storage_message(error):
        return Outcome(str(error), user_errors.STORAGE)
      text = user_errors.message(error)
      return Outcome(text or traceback.format_exc(), user_errors.USAGE if text else 1)
    return Outcome()
