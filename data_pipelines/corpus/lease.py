"""One process at a time in a folder: lease.json there says who holds it, and is renewed.

A disk's lock or a bucket's preconditions decide between two that want it at once. Who holds it is
gone if its process is, for those on the same machine; for others, if it renews the lease no longer:
they watch it for a while by their own clock, so that clocks may differ.
"""

import json
import logging
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from etils import epath

from data_pipelines.corpus import storage

RENEW_SECS = 10.0
# A holder elsewhere that has not renewed for so long is gone.
STALE_SECS = 45.0
POLL_SECS = 2.0
NAME = 'lease.json'


def me() -> dict[str, Any]:
  """What tells this process from all others, and whether it lives."""
  return dict(
    host=socket.gethostname(), pid=os.getpid(), started=_start_of(os.getpid()), machine=_machine()
  )


def _machine() -> str:
  """One start of one machine, or of one container on it, whose process ids are its own."""
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return f'{boot} {os.readlink("/proc/self/ns/pid")}'
  except OSError:
    return ''  # Not Linux: then every holder is one elsewhere.


def _start_of(pid: int) -> str:
  """When a process started, in ticks since the machine did; '' if there is none."""
  try:
    state, *fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
  except OSError:
    return ''
  return '' if state in 'ZX' else fields[18]  # What is dead but not yet waited for writes nothing.


class Lease:
  """A folder's lease, held by this process until `release`.

  Args:
    folder: an existing folder, local or a bucket.
    lost: called in another thread, with a sentence, once another process has taken it over.
    refusal: what the holder does, and what to do instead; ends the sentence that refuses.

  Raises:
    ValueError: another process holds it.
  """

  def __init__(self, folder: epath.PathLike, lost: Callable[[str], None], refusal: str):
    self._path, self._lost, self._refusal = epath.Path(folder) / NAME, lost, refusal
    self._me, self._ended = me(), threading.Event()
    self._version = self._take()
    self._thread = threading.Thread(target=self._renew, daemon=True)
    self._thread.start()

  def _take(self) -> str:
    found = storage.read_version(self._path)
    if found:
      self._wait_until_gone(*found)
    version = self._replace(found[1] if found else '')
    if version is None:
      _refuse(self._path, storage.read_version(self._path), self._refusal)
    return version

  def _replace(self, version: str, released: bool = False) -> str | None:
    """The version of what this has written; None if another process has written."""
    # The last field makes each content differ from all before.
    fields = dict(released=released, renewed=time.time(), nonce=secrets.token_hex(8))
    data = json.dumps(self._me | fields).encode()
    new = storage.replace_if(self._path, data, version)
    if new is None:  # Or the answer was lost.
      found = storage.read_version(self._path)
      return found[1] if found and found[0] == data else None
    return new

  def _wait_until_gone(self, data: bytes, version: str) -> None:
    """Returns once the holder is; raises ValueError if it lives."""
    holder = _parse(data)
    if holder.get('released') or not holder:
      return
    if holder['machine'] and holder['machine'] == _machine():
      if _start_of(holder['pid']) == holder['started']:
        _refuse(self._path, (data, version), self._refusal)
      return
    logging.info('Waiting up to %.0f s to see whether %s lives.', STALE_SECS, _name(holder))
    deadline = time.monotonic() + STALE_SECS
    while time.monotonic() < deadline:
      time.sleep(POLL_SECS)
      now = storage.read_version(self._path)
      if now is None or now[1] != version:
        _refuse(self._path, now, self._refusal)

  def _renew(self) -> None:
    while not self._ended.wait(RENEW_SECS):
      try:
        version = self._replace(self._version)
      except OSError as error:  # Storage that is away for us is so for others, or they wait.
        logging.warning('The lease %s could not be renewed: %s', self._path, error)
        continue
      if version is None:
        self._lost(f'{self._path} is no longer ours: another run has taken it over.')
        return
      self._version = version

  def release(self) -> None:
    """Lets others have it at once. Not by deletion: a bucket deletes what another has written."""
    self._ended.set()
    self._thread.join()
    try:
      self._replace(self._version, released=True)
    except OSError as error:
      logging.warning('The lease %s could not be released: %s', self._path, error)


def check(folder: epath.PathLike, refusal: str) -> None:
  """Raises ValueError if another process seems to hold the folder; waits for nothing, so that the
  clock of a holder elsewhere is believed.

  Args:
    folder: as of `Lease`.
    refusal: likewise.
  """
  path = epath.Path(folder) / NAME
  found = storage.read_version(path)
  holder = _parse(found[0]) if found else {}
  if not holder or holder.get('released'):
    return
  is_here = holder['machine'] and holder['machine'] == _machine()
  lives = _start_of(holder['pid']) == holder['started'] if is_here else _is_new(holder)
  if lives:
    _refuse(path, found, refusal)


def _is_new(holder: Mapping[str, Any]) -> bool:
  return time.time() - holder.get('renewed', 0.0) < STALE_SECS


def _refuse(path: epath.Path, found: tuple[bytes, str] | None, refusal: str) -> NoReturn:
  holder = _parse(found[0]) if found else {}
  raise ValueError(f'{path.parent} is in use: {_name(holder)} {refusal}')


def _parse(data: bytes) -> dict[str, Any]:
  """What a lease says; {} for one that is damaged, which no version of ours leaves behind."""
  try:
    holder = json.loads(data)
  except ValueError:
    return {}
  return holder if isinstance(holder, dict) and me().keys() <= holder.keys() else {}


def _name(holder: dict[str, Any]) -> str:
  return f'process {holder["pid"]} of {holder["host"]}' if holder else 'another process'
