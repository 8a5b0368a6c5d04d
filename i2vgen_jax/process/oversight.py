"""What watches over a run from its start to its end: limits of time, signals, and the lease."""

import contextlib
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from etils import epath

from data_pipelines.corpus import lease
from i2vgen_jax.process import exit_codes, hosts, signals, watchdog

NOTE_SECS = 1.0
# Of another run in the workdir, after its name.
REFUSAL = 'trains there. Wait for its end, stop it, or choose another --workdir.'


class Oversight(contextlib.ExitStack):
  """A context that lasts as long as the run.

  `watchdog` has limits for its phases; `stop` hears SIGTERM and SIGINT; SIGUSR1 writes the stacks
  of all threads to stderr, and asks for a profile. `last_words` is given what ends the process when
  that is no exception: a limit of time, or what another process tells.

  Args:
    limits: the config's `watchdog`: seconds by '<kind>_secs'.
  """

  def __init__(self, limits: Mapping[str, float]):
    super().__init__()
    by_kind = {kind: limits[f'{kind}_secs'] for kind in watchdog.KINDS}
    self._asked_for_profile = False
    self.last_words: Callable[[str], None] = lambda sentence: None
    ended = threading.Event()
    self.callback(ended.set)
    threading.Thread(target=hosts.hear, args=(ended, self._note), daemon=True).start()
    # Without the first process, JAX aborts the others.
    self.watchdog = watchdog.Watchdog(by_kind, self._tell, watchdog.EXIT_SECS + hosts.is_lead())
    self.callback(self.watchdog.close)
    self.watchdog.enter('start')
    self.stop = signals.StopRequest()
    self.callback(self.stop.close)
    self.enter_context(signals.stacks_at_usr1(self._ask_for_profile))

  def take_lease(self, workdir: epath.PathLike) -> None:
    """Makes this run the only trainer in the workdir, until its end.

    Raises:
      ValueError: on all processes; another run trains there.
    """
    error = None
    if hosts.is_lead():
      try:
        self.callback(lease.Lease(workdir, _lost, REFUSAL).release)
      except ValueError as refused:
        error = refused
    if hosts.is_true_anywhere(error is not None):
      raise error or ValueError(f'{workdir} is in use: see the log of process 0.')

  def takes_profile(self) -> bool:
    """Whether SIGUSR1 has asked for a profile since the last call."""
    asked, self._asked_for_profile = self._asked_for_profile, False
    return asked

  def _tell(self, sentence: str) -> None:
    hosts.tell(exit_codes.WATCHDOG, sentence)
    self._note(sentence)

  def _note(self, sentence: str) -> None:
    """Says the last words, if where they go answers soon."""
    thread = threading.Thread(target=self.last_words, args=(sentence,), daemon=True)
    thread.start()
    thread.join(NOTE_SECS)

  def _ask_for_profile(self, number: int, frame: Any) -> None:
    self._asked_for_profile = True


def _lost(sentence: str) -> NoReturn:
  """Ends the run before it writes what the other one would read."""
  print(f'error: {sentence}', file=sys.stderr)
  hosts.leave(exit_codes.LOST_PEER, sentence)
