"""Shards in child processes of this machine.

A process that takes the next shard when it has done one: none waits for the slowest. If it is
killed, another does its shard again; if that is killed too, the shard is to blame.
"""

import concurrent.futures
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines.engines import outcomes
from data_pipelines.media import sandbox


@dataclasses.dataclass(frozen=True)
class Local:
  """This machine."""

  def run(self, work: outcomes.Work, todo: Sequence[tuple[int, Any]], num_processes: int) -> None:
    """Does all that is to do, in as many processes; in this one if one is enough.

    Raises:
      ValueError: the work's, if it is for the user.
      WorkerError: a bug of the work, or a shard that ended each process that worked on it.
    """
    num_processes = min(num_processes, len(todo))
    if num_processes <= 1:
      for numbered in todo:
        work(numbered)
      return
    box = sandbox.Sandbox(outcomes.Reporting(work), math.inf, max_memory=None)
    waiting = iter(todo)
    with concurrent.futures.ThreadPoolExecutor(num_processes) as threads:
      try:
        taken = [threads.submit(_take, waiting, box) for _ in range(num_processes)]
        for done in concurrent.futures.as_completed(taken):
          done.result()
      finally:  # Also at Ctrl-C: what is under way ends with its process.
        box.close()


def _take(waiting: Iterator[tuple[int, Any]], box: sandbox.Sandbox) -> None:
  for numbered in waiting:
    try:
      outcome = box(numbered)
    except sandbox.LostChildError as lost:
      raise outcomes.WorkerError(
        f'shard {numbered[0]} ended the process that worked on it, several times: {lost.detail} '
        'All that is done is kept: run the command again, with fewer --num_processes if memory '
        'is short.'
      ) from lost
    outcome.check()
