"""How a run ends, as a number: what launchers read to decide whether to start it again."""

DONE = 0
BUG = 1
USAGE = 2  # Flags, config, data or checkpoint are invalid.
FAILED = 3  # Training cannot go on: too many bad samples, or a loss that is not finite.
PREEMPTED = 42  # Stopped by a signal, after saving.
LOST_PEER = 171  # Another process of the run is gone.

# Another start would end in the same way. All else is worth one, also what ends a process from
# outside (128 + signal: killed, out of memory, aborted by the runtime).
FINAL = (BUG, USAGE, FAILED)


def restarts(code: int) -> bool:
  """Whether a run that ended with this code should be started again."""
  return code != DONE and code not in FINAL
