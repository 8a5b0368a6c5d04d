"""Stores and loads what a run keeps in its workdir: state, data position, frozen networks, config.

    workdir/config.json            the resolved config
    workdir/tokenizer/             the tokenizer's files
    workdir/frozen/                VAE and CLIP parameters (Orbax), written once
    workdir/params/                the U-Net's parameters (Orbax), where `load` wrote the folder
    workdir/checkpoints/<step>/    {params, EMA, optimizer, step, seed} (Orbax) and the data
    position (metadata), with digests of both
    workdir/damaged_checkpoints/   steps that a start found damaged, while an older one was good

A step counts only once Orbax has committed it; the next start removes a save that was cut off.
"""

import dataclasses
import errno
import logging as standard_logging
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from data_pipelines.corpus import storage
from i2vgen_jax.process import run_folder
from i2vgen_jax.process.paths import absolute
from i2vgen_jax.stored import digests, trees

# Saves that may fail one after the other before the run ends.
MAX_FAILED_SAVES = 3
# How often a process asks, while it waits for a save, whether its own part has failed.
ASK_SECS = 1.0
# What a start copies into the workdir.
COPIES = ('frozen', 'tokenizer', 't5_tokenizer')


class SaveError(OSError):
  """The state could not be saved; an earlier one may be."""

  errno = errno.ENOSPC  # Ends a run as a full disk does.


class _OwnErrors(standard_logging.Handler):
  """Keeps the first error of this process's part of a save.

  Orbax logs it at once; the save's result has it only after a meeting of all processes, to which
  those that have no error do not come.
  """

  error: BaseException | None = None

  def emit(self, record: standard_logging.LogRecord) -> None:
    """Of what Orbax's background thread logs with its traceback."""
    if record.exc_info and pathlib.Path(record.pathname).name == 'async_checkpointer.py':
      self.error = self.error or record.exc_info[1]


class Checkpoints:
  """Saves every so many steps or minutes in the background; keeps the last few, and every so many
  for ever.

  Args:
    workdir: local path or gs://...
    every: steps between saves; 0 for none.
    keep_last: how many of the newest stay.
    keep_every: steps at multiples of this stay; 0 keeps none.
    every_minutes: minutes after the last save at which another is due; 0 for none.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    every: int,
    keep_last: int,
    keep_every: int,
    every_minutes: float = 0.0,
  ):
    policies = ocp.training.preservation_policies
    self._preserve: list[Any] = [policies.LatestN(keep_last)]
    if keep_every:
      self._preserve.append(policies.EveryNSteps(keep_every))
    self._workdir = absolute(workdir)
    self._directory = self._workdir / 'checkpoints'
    self._directory.mkdir(parents=True, exist_ok=True)
    self._every, self._every_secs = every, 60 * every_minutes
    self._last_save = time.monotonic()
    self._saving: tuple[int, Any] | None = None  # A step, and Orbax's handle of its save.
    self._failed_saves = 0
    self._checkpointer: ocp.training.Checkpointer | None = None
    self._own = _OwnErrors(standard_logging.ERROR)
    logging.get_absl_logger().addHandler(self._own)

  def _open(self) -> ocp.training.Checkpointer:
    """Orbax's own, which fails if a step's metadata is damaged; removes saves that were cut off."""
    return ocp.training.Checkpointer(
      self._directory,
      # Orbax declares other arguments for policies than its own policies take.
      # pyrefly: ignore[bad-argument-type]
      preservation_policy=ocp.training.preservation_policies.AnyPreservationPolicy(self._preserve),
      cleanup_tmp_directories=True,
    )

  @property
  def latest_step(self) -> int | None:
    """The newest committed step, or None."""
    return latest_step(self._directory)

  def due(self, step: int, ask_clock: bool = True) -> bool:
    """Whether the state of this step should be saved; the same on all hosts.

    Args:
      step: updates done.
      ask_clock: whether hosts may wait here for what the first one's clock says.

    Raises:
      SaveError: of several processes this one could not write its part of the save under way.
    """
    self._check_own()
    if self._every and step % self._every == 0:
      return True
    if not self._every_secs or not ask_clock:
      return False
    return bool(_of_lead(time.monotonic() - self._last_save >= self._every_secs))

  def save(self, step: int, state: Any, data_position: dict[str, Any]) -> None:
    """Starts an asynchronous save, unless the step is saved.

    A save that fails is logged, when it starts or at the next one; the older steps stay.

    Args:
      step: updates done.
      state: tree of arrays.
      data_position: what JSON can hold; `restore` returns it.

    Raises:
      SaveError: MAX_FAILED_SAVES have failed in a row; or, in a run of several processes, one of
        them has met an error, so that the others wait for it.
    """
    self._finish()
    needed, free = num_bytes(state), free_bytes(self._directory)
    committed, room = _of_lead([self.latest_step == step, free is None or free >= needed])
    if committed:
      return
    self._last_save = time.monotonic()
    if not room:
      self._failed(step, f'the disk is full: it takes {needed:,} bytes, {free:,} are free')
      return
    sealed = digests.seal(step, data_position, digests.of_tree(state))
    self._checkpointer = self._checkpointer or self._open()
    handle = self._checkpointer.save_checkpointables_async(
      step, {trees.ITEM: state}, custom_metadata=sealed, force=True
    )
    self._saving = step, handle

  def _finish(self) -> None:
    """Waits for the save under way."""
    if self._saving is None:
      return
    (step, handle), self._saving = self._saving, None
    try:
      self._wait(handle)
      if jax.process_index() == 0 and step not in steps(self._directory):
        raise OSError('Orbax did not commit it')
    except Exception as error:  # Orbax raises whatever its threads have met.
      first = str(error).strip().splitlines() or ['']
      reason = f'{type(error).__name__}: {first[0][:300]}'
      if jax.process_count() > 1:  # Orbax would wait for all of them at the next save.
        raise SaveError(f'Step {step} is not saved: {reason}.') from error
      for path in self._directory.iterdir():
        if path.name.startswith(f'{step}.'):  # What was written of it.
          path.rmtree()
      self._checkpointer = self._open()
      free = free_bytes(self._directory)
      self._failed(step, reason if free is None else f'{reason}; {free:,} bytes are free')
    else:
      self._failed_saves = 0

  def _wait(self, handle: Any) -> None:
    """Waits for a save; raises its error, of this process's own part as soon as it is known."""
    while jax.process_count() > 1:
      asked = time.monotonic()
      try:
        return handle.result(ASK_SECS)
      except TimeoutError:
        if self._own.error is not None:
          raise self._own.error from None
        if time.monotonic() - asked < ASK_SECS / 2:  # It is the save's.
          raise
    handle.result()

  def _check_own(self) -> None:
    """Raises SaveError if this one of several processes could not write its part of a save."""
    if jax.process_count() > 1 and self._own.error is not None:
      self._finish()

  def _failed(self, step: int, reason: str) -> None:
    """Logs a failed save; raises SaveError once there are too many."""
    self._failed_saves += 1
    kept = sorted(steps(self._directory)) or 'none'
    message = f'Step {step} is not saved: {reason}. Steps that are: {kept}.'
    if self._failed_saves >= MAX_FAILED_SAVES:
      raise SaveError(f'{message} The last {self._failed_saves} saves failed: free some space.')
    logging.error('%s The run goes on, and tries again at the next save.', message)

  def restore(
    self, step: int, abstract_state: Any, optional: Mapping[str, Any] | None = None
  ) -> tuple[Any, Any]:
    """(state, data position) of `step`, placed by the shardings in `abstract_state`.

    Args:
      step: that was saved.
      abstract_state: a dataclass or dict of ShapeDtypeStructs.
      optional: arrays of fields that it may lack, which an earlier version did not know.

    Raises:
      ValueError: a tensor is missing, unexpected or of another shape or type; all are named.
      trees.DamagedError: the step is not what was saved.
    """
    stored = trees.stored(self._directory / str(step), step)
    if stored.data is None:
      raise trees.DamagedError(f'{stored.directory} is damaged: it has no data position.')
    abstract = _fields(abstract_state)
    given = {
      name: jax.tree.map(
        lambda value, leaf: jax.device_put(value, leaf.sharding), value, abstract[name]
      )
      for name, value in (optional or {}).items()
      if name not in stored.tree
    }
    if given:
      logging.warning('%s lacks %s, which start anew.', stored.directory, sorted(given))
    abstract = {name: branch for name, branch in abstract.items() if name not in given}
    trees.check_tree(stored.tree, abstract, f'checkpoint {stored.directory}')
    fields = stored.load(abstract) | given
    if isinstance(abstract_state, Mapping):
      return fields, stored.data
    return dataclasses.replace(abstract_state, **fields), stored.data

  def restore_newest(
    self, abstract_state: Any, optional: Mapping[str, Any] | None = None
  ) -> tuple[int, Any, Any]:
    """(step, state, data position) of the newest step that is as it was saved, on all hosts alike.

    Those that are damaged are logged and set aside, in workdir/damaged_checkpoints; in a bucket,
    which cannot rename, they only stop to count. Of older ones the metadata alone is read.

    Args:
      abstract_state: as in `restore`.
      optional: as in `restore`.

    Returns:
      (0, None, None) if there is no step.

    Raises:
      ValueError: as `restore`.
      trees.DamagedError: all steps are damaged; they stay.
    """
    damaged: dict[int, str] = {}
    restored = 0, None, None
    for step in _list_of_lead(run_folder.numbered(self._directory)):
      try:
        if restored[1] is None:
          restored = step, *self.restore(step, abstract_state, optional)
        else:
          trees.stored(self._directory / str(step), step)  # Orbax will want to read it.
      except trees.DamagedError as error:
        logging.error('%s', error)
        damaged[step] = str(error)
    if restored[1] is not None:
      self._set_aside(damaged, restored[0])
    elif damaged:
      raise trees.DamagedError(
        f'No step in {self._directory} can be restored:\n  '
        + '\n  '.join(damaged.values())
        + '\nPut back a copy of one of them, or start anew in another --workdir.'
      )
    return restored

  def _set_aside(self, damaged: Mapping[int, str], good: int) -> None:
    """Makes the steps count no more."""
    if not damaged:
      return
    aside = self._workdir / 'damaged_checkpoints'
    if jax.process_index() == 0:
      aside.mkdir(parents=True, exist_ok=True)
      for step, reason in damaged.items():
        directory, name = self._directory / str(step), f'{step}_{time.time_ns()}'
        storage.write_bytes(aside / f'{name}.txt', reason.encode())
        if storage.is_local(directory):
          directory.rename(aside / name)
        else:
          (directory / run_folder.COMMITTED).unlink(missing_ok=True)  # Orbax removes the rest.
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('damaged steps are set aside')
    logging.error('Restored step %d; %s are in %s.', good, sorted(damaged), aside)

  def check_saved(self, step: int) -> None:
    """Raises SaveError unless the save of `step`, the last one, has succeeded."""
    self._finish()
    if not _of_lead(self.latest_step == step):
      raise SaveError(f'Step {step} is not saved, the run ends at step {self.latest_step}.')

  def close(self) -> None:
    """Waits for the save under way."""
    logging.get_absl_logger().removeHandler(self._own)
    self._finish()
    if self._checkpointer is not None:
      self._checkpointer.close()


def _fields(state: Any) -> dict[str, Any]:
  """The top branches of a dict or dataclass."""
  if isinstance(state, Mapping):
    return dict(state)
  return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _of_lead(values: Any) -> Any:
  """What process 0 gives, of numbers that may differ between hosts."""
  return values if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(values)


def _list_of_lead(values: list[int]) -> list[int]:
  """As `_of_lead`, for a list whose length may differ too."""
  length = int(_of_lead(len(values)))
  return [int(value) for value in _of_lead(np.resize(np.array(values, np.int32), length))]


def num_bytes(tree: Any) -> int:
  """Bytes of all arrays, or of ShapeDtypeStructs, of a tree."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def free_bytes(directory: epath.Path) -> int | None:
  """Free bytes of the disk; None in a bucket."""
  return shutil.disk_usage(directory).free if storage.is_local(directory) else None


def bytes_to_come(workdir: epath.PathLike, keep_last: int, abstract_state: Any) -> int:
  """How many more bytes a run's checkpoints need: the `keep_last` newest, and one under way.

  Args:
    workdir: of the run; the checkpoints that it holds already are counted.
    keep_last: how many of the newest stay.
    abstract_state: arrays or ShapeDtypeStructs of one checkpoint.
  """
  number = keep_last + 1 - len(steps(absolute(workdir) / 'checkpoints'))
  return num_bytes(abstract_state) * max(1, number)


def steps(directory: epath.PathLike) -> list[int]:
  """The steps that Orbax committed under `directory`."""
  return run_folder.committed(absolute(directory))


def latest_step(directory: epath.PathLike) -> int | None:
  """The newest step that Orbax committed under `directory`, or None."""
  return max(steps(directory), default=None)


def clear_failed_start(workdir: epath.PathLike) -> None:
  """Removes the copies of weights and tokenizers that a start made which saved no step.

  All hosts call it together.
  """
  workdir = absolute(workdir)
  started = (workdir / 'config.json').exists() and not run_folder.is_saved(workdir)
  if jax.process_index() == 0 and started:
    for name in COPIES:
      if (workdir / name).exists():
        (workdir / name).rmtree()
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('copies of a failed start are gone')
