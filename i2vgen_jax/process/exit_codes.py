"""How a run ends, as a number: what launchers read to decide whether to start it again."""

DONE = 0
BUG = 1
USAGE = 2  # Flags, config, data or checkpoint are invalid, or a device has too little memory.
FAILED = 3  # Training cannot go on: too many bad samples, or a loss that is not finite.
PREEMPTED = 42  # Stopped by a signal, after saving what there was to save.
WATCHDOG = 170  # Something took longer than its limit in the config's `watchdog`.
LOST_PEER = 171  # Another process of the run is gone, or another run took over the workdir.
STORAGE = 172  # A disk is full or fails, or a bucket does not answer.
DEVICE = 173  # A device or its runtime failed.

# Another start would end in the same way. All else is worth one, also what ends a process from
# outside (128 + signal: killed, out of memory, aborted by the runtime).
FINAL = (BUG, USAGE, FAILED)


def restarts(code: int, progressed: bool = True) -> bool:
  """Whether a run that ended with this code should be started again.

  Args:
    code: of its end.
    progressed: False if it has made no step since it was last started. What ended it will do so
      again then, unless it was preempted.
  """
  return code not in (DONE, *FINAL) and (progressed or code == PREEMPTED)
