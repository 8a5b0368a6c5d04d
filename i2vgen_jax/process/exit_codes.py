"""How a run ends, as a number: what launchers read to decide whether to start it again."""

DONE = 0
BUG = 1
USAGE = 2  # Flags, config, data or checkpoint cannot be.
BUDGET = 3  # Too many bad samples, or a loss that is not finite.
PREEMPTED = 42  # Stopped by a signal, after saving.
LOST_PEER = 171  # Another process of the run is gone.

# Starting these again would repeat them. All else is worth another start: what ends a process from
# outside (128 + signal: killed, out of memory, aborted by the runtime) as well.
FINAL = (BUG, USAGE, BUDGET)


def restarts(code: int) -> bool:
  """Whether a run that ended so should be started again."""
  return code != DONE and code not in FINAL
