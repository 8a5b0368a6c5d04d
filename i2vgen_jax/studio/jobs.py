"""The queue: one job at a time, in the order in which they came; each may be cancelled."""

import dataclasses
import pathlib
import secrets
import threading
import time
from collections.abc import Callable

from absl import logging

from i2vgen_jax.process import errors
from i2vgen_jax.studio import asked as asked_lib

MOST_WAITING = 20
MOST_KEPT = 50  # Jobs that ended, whose videos can still be seen.
ABANDONED_SECS = 300.0  # After which a job that nobody asks about is cancelled.
BUG = 'This is a bug of ours: the log of the server has the traceback.'


class CancelledError(Exception):
  """Whoever asked for the video wants it no more."""


@dataclasses.dataclass
class Video:
  """One video of a job: two are made to compare them.

  Attributes:
    asked: what was asked for.
    folder: of its files: video.mp4, video.gif.
    stage, stages: which of the cascade's stages is at work, and how many there are.
    done, total: network calls of the stage.
    preview: WebP of what comes; None before the first.
    num_previews: how many there were.
    secs: that it took; None before it is made.
    size: (frames, height, width) once it is made.
  """

  asked: asked_lib.Asked
  folder: pathlib.Path
  stage: int = 0
  stages: int = 1
  done: int = 0
  total: int = 0
  preview: bytes | None = None
  num_previews: int = 0
  secs: float | None = None
  size: tuple[int, int, int] | None = None


@dataclasses.dataclass
class Job:
  """What one press of the button asks for.

  Attributes:
    videos: to make, one after the other.
    name: by which it is asked about; nobody can guess it.
    state: 'waiting', 'making', 'done', 'cancelled' or 'failed'.
    error: what went wrong, in words.
    version: counts its changes.
    seen: when somebody last asked about it, by the monotonic clock.
  """

  videos: list[Video]
  name: str
  state: str = 'waiting'
  error: str = ''
  version: int = 0
  seen: float = dataclasses.field(default_factory=time.monotonic)
  cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

  @property
  def ended(self) -> bool:
    """Whether nothing changes any more."""
    return self.state in ('done', 'cancelled', 'failed')

  def changed(self) -> None:
    """Is called after each change; raises CancelledError where the job should end."""
    self.version += 1
    if time.monotonic() - self.seen > ABANDONED_SECS:
      self.cancelled.set()
    if self.cancelled.is_set():
      raise CancelledError


class Jobs:
  """Runs jobs in a thread of its own, for there is one device.

  Args:
    make: makes a video, and calls the function that it is given after each change of it.
    forget: is told of jobs that are kept no more.
  """

  def __init__(
    self,
    make: Callable[[Video, Callable[[], None]], None],
    forget: Callable[[Job], None] = lambda job: None,
  ):
    self._make, self._forget = make, forget
    self._jobs: dict[str, Job] = {}  # In the order in which they came.
    self._condition = threading.Condition()
    self._stopped = False
    self._thread = threading.Thread(target=self._work, daemon=True)
    self._thread.start()

  def check_room(self) -> None:
    """Raises ValueError if too many are waiting."""
    if len(self._waiting()) >= MOST_WAITING:
      raise ValueError(f'{MOST_WAITING} requests are waiting: try again later.')

  def add(self, job: Job) -> None:
    """Puts a job at the end of the queue; raises ValueError as check_room."""
    with self._condition:
      self.check_room()
      self._jobs[job.name] = job
      self._condition.notify()
    for old in [job for job in list(self._jobs.values()) if job.ended][:-MOST_KEPT]:
      self._forget(self._jobs.pop(old.name))

  def find(self, name: str) -> Job | None:
    """The job of a name, if it is kept; whoever asks wants it still."""
    job = self._jobs.get(name)
    if job:
      job.seen = time.monotonic()
    return job

  def ahead(self, job: Job) -> int:
    """How many are made before a job that waits."""
    others = [other for other in list(self._jobs.values()) if not other.ended]
    return others.index(job) if job in others else 0

  def cancel(self, job: Job) -> None:
    """Ends a job: at once if it waits, else before the next network call."""
    with self._condition:
      job.cancelled.set()
      if job.state == 'waiting':
        self._end(job, 'cancelled')

  def stop(self) -> None:
    """Cancels all jobs and ends the thread."""
    with self._condition:
      self._stopped = True
      self._condition.notify()
    for job in list(self._jobs.values()):
      self.cancel(job)
    self._thread.join(10)  # A program that compiles cannot be stopped.

  def _waiting(self) -> list[Job]:
    return [job for job in list(self._jobs.values()) if job.state == 'waiting']

  def _work(self) -> None:
    while True:
      with self._condition:
        self._condition.wait_for(lambda: self._stopped or self._waiting())
        if self._stopped:
          return
        job = self._waiting()[0]
        job.state = 'making'
      self._run(job)

  def _run(self, job: Job) -> None:
    try:
      job.changed()
      for video in job.videos:
        self._make(video, job.changed)
      self._end(job, 'done')
    except CancelledError:
      self._end(job, 'cancelled')
    except Exception as error:  # One user's trouble must not end the page for all.
      _, text = errors.classify(error)
      if text is None:
        logging.exception('a video could not be made')
      job.error = text or BUG
      self._end(job, 'failed')

  def _end(self, job: Job, state: str) -> None:
    job.state = state
    job.version += 1


def new_name() -> str:
  """A name that nobody can guess."""
  return secrets.token_urlsafe(16)
