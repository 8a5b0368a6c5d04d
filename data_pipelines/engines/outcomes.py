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
    is_for_user: whether it is the line for the user.
  """

  error: str = ''
  is_for_user: bool = False

  def check(self) -> None:
    """Raises ValueError or WorkerError if the work did."""
    if self.is_for_user:
      raise ValueError(self.error)
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
      text = user_errors.message(error)
      return Outcome(text or traceback.format_exc(), text is not None)
    return Outcome()
