"""The processes of one run: how they find each other, and what they check before they start."""

import contextlib
import faulthandler
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, cast

import jax
import numpy as np
from absl import logging
from etils import epath
from jax._src import distributed  # Its client, which multihost_utils and Orbax use likewise.
from jax.experimental import multihost_utils

from data_pipelines import user_errors
from data_pipelines.corpus import retries, storage
from i2vgen_jax.process import errors, exit_codes

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
# A launcher sets these where jax.distributed finds no cluster to ask, beside JAX's own
# JAX_COORDINATOR_ADDRESS and JAX_COORDINATOR_BIND_ADDRESS.
NUM_PROCESSES, PROCESS_ID = 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
_LEAVES = 'i2vgen_jax/leaves'  # In the store that JAX keeps for all processes.
HEAR_SECS = 1.0


def join(join_secs: int = 300, heartbeat_secs: int = 60, leave_secs: int = 60) -> None:
  """Joins the other processes; call it before anything touches a device.

  JAX asks Cloud TPU, GKE and Slurm for the processes; elsewhere the environment names them.

  Args:
    join_secs: to wait for all others to come.
    heartbeat_secs: after which a process that says nothing is gone, and the others abort.
    leave_secs: to wait, at the end, for all others to come to theirs.
  """
  timeouts = dict(
    initialization_timeout=join_secs,
    heartbeat_timeout_seconds=heartbeat_secs,
    shutdown_timeout_seconds=leave_secs,
  )
  if NUM_PROCESSES in os.environ:
    jax.distributed.initialize(
      num_processes=int(os.environ[NUM_PROCESSES]),
      process_id=int(os.environ[PROCESS_ID]),
      cluster_detection_method='deactivate',
      **timeouts,
    )
  else:
    jax.distributed.initialize(**timeouts)


def leave(code: int, sentence: str) -> NoReturn:
  """Ends this process at once, and has the others end with the same code.

  A process that cleans up first waits for others that wait for it: in a collective, until a save is
  complete everywhere, and in JAX's own exit.

  Args:
    code: exit code; LOST_PEER becomes what was told first.
    sentence: for the logs of the others; this one's has been told.
  """
  told = _told() if code == exit_codes.LOST_PEER else None
  tell(code, sentence)
  _exit(told[0] if told else code)


def leave_pod(error: BaseException) -> None:
  """Reports the error and exits at once in a run of several processes; alone, does nothing."""
  if not jax.distributed.is_initialized():
    return
  code, message = errors.classify(error)
  if message is None:
    traceback.print_exception(error)
  else:
    print(f'error: {message}', file=sys.stderr)
  leave(code, message or repr(error))


def tell(code: int, sentence: str) -> None:
  """Has the others end with this exit code within seconds: JAX alone notices after a minute."""
  client: Any = distributed.global_state.client
  text = json.dumps([code, distributed.global_state.process_id, sentence])

  def send() -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # Another one was first, or 0 is gone.
      client.key_value_set(_LEAVES, text)

  if client is not None:
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(1.0)


def hear(ended: threading.Event, note: Callable[[str], None]) -> None:
  """Until `ended`, waits for what another process tells, and then ends this one; for a thread.

  Args:
    ended: set when nobody has to hear any longer.
    note: called with a sentence before the end.
  """
  while distributed.global_state.client is not None and not ended.wait(HEAR_SECS):
    code, index, sentence = _told() or (0, distributed.global_state.process_id, '')
    if index != distributed.global_state.process_id:
      heard = f'process {index} left with exit code {code}: {sentence}'
      print(f'error: {heard}', file=sys.stderr)
      if code == exit_codes.WATCHDOG:
        faulthandler.dump_traceback(2)
      note(heard)
      _exit(code)


def _told() -> tuple[int, int, str] | None:
  """(exit code, process, sentence) of the first process that has told."""
  client = cast(Any, distributed.global_state.client)
  try:
    return tuple(json.loads(client.key_value_try_get(_LEAVES)))
  except (
    AttributeError,
    jax.errors.JaxRuntimeError,
  ):  # Alone; or nobody has, or process 0 is gone.
    return None


def _exit(code: int) -> NoReturn:
  sys.stdout.flush()
  sys.stderr.flush()
  state = distributed.global_state
  if state.num_processes > 1 and state.process_id == 0:  # What was told is gone with it.
    time.sleep(2 * HEAR_SECS)
  os._exit(code)


def is_lead() -> bool:
  """Whether this is the one process that writes what is not sharded."""
  return jax.process_index() == 0


def meet(name: str) -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def is_true_anywhere(claim: bool) -> bool:
  """Whether it is on any of the processes; all of them call this."""
  return bool(np.any(multihost_utils.process_allgather(np.bool_(claim))))


def check_alike(what: str, text: str) -> str:
  """Raises ValueError, on all processes, if they do not hold the same text; returns its hash."""
  digest = hashlib.sha256(text.encode()).digest()[:8]
  if jax.process_count() > 1:
    digests = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    others = [i for i, row in enumerate(digests) if row.tobytes() != digests[0].tobytes()]
    if others:
      raise ValueError(
        f'{what} of processes {others} differs from that of process 0: '
        f'{digests[others[0]].tobytes().hex()} instead of {digests[0].tobytes().hex()}. '
        'Start the same code with the same flags on all hosts.'
      )
  return digest.hex()


def preflight(config: Any, workdir: str | os.PathLike[str], needed_bytes: int) -> None:
  """Logs where the run starts and checks that hosts agree and that the workdir takes the run.

  Args:
    config: the config of the run.
    workdir: an existing folder, local or a bucket.
    needed_bytes: how much the run's checkpoints may still take.

  Raises:
    ValueError: processes differ in config or packages; no write access; too little disk.
    retries.StorageError: the workdir does not answer.
  """
  versions = ' '.join(f'{name} {importlib.metadata.version(name)}' for name in PACKAGES)
  versions = f'python {platform.python_version()} {versions}'
  config_hash = check_alike('The config', config.to_json(sort_keys=True))
  check_alike(f'The installed packages ({versions})', versions)
  free = _check_storage(workdir, needed_bytes)
  devices = jax.devices()
  logging.info(
    'process %d of %d; %d x %s; config %s; %s; %s in %s',
    jax.process_index(),
    jax.process_count(),
    len(devices),
    devices[0].device_kind,
    config_hash,
    versions,
    'storage without a limit' if free is None else f'{free / 2**30:.1f} GiB free',
    workdir,
  )


def _check_storage(workdir: str | os.PathLike[str], needed_bytes: int) -> int | None:
  """Free bytes, or None in a bucket."""
  probe = epath.Path(workdir) / f'.write_test_{jax.process_index()}'
  try:
    storage.write_bytes(probe, b'')
    retries.call(probe.unlink)
  except retries.StorageError:
    raise
  except OSError as error:
    raise ValueError(
      f'workdir {workdir} is not writable: {user_errors.reason(error)}. Choose another --workdir.'
    ) from error
  return check_room(workdir, needed_bytes)


def check_room(workdir: str | os.PathLike[str], needed_bytes: int) -> int | None:
  """Free bytes where the workdir is or will be, or None in a bucket; raises ValueError for less
  than the checkpoints of a run may still take."""
  if '://' in str(workdir):
    return None
  folder = pathlib.Path(workdir).absolute()
  free = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free
  if free < needed_bytes:
    raise ValueError(
      f'{workdir} has {free / 2**30:.1f} GiB free, but the checkpoints of this run take '
      f'{needed_bytes / 2**30:.1f} GiB more. Free some, or lower checkpoint.keep_last.'
    )
  return free
