"""One function over many shards, wherever an engine runs it, by one process at a time.

Each shard's files appear in parts/IIIII at once, with result.json as the marker. So a job that was
killed, run again, does only what is unfinished, with the same bytes, whatever the engine.
"""

import argparse
import atexit
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from typing import Any, NoReturn, TypeAlias

from etils import epath

from data_pipelines import progress, user_errors
from data_pipelines.corpus import lease, retries, storage
from data_pipelines.engines import beam, choice, local
from data_pipelines.media import failures

Work = Callable[[Any, pathlib.Path], dict]
# What a parser's add_subparsers returns: where commands are added.
Commands: TypeAlias = 'argparse._SubParsersAction[Any]'
MARKER = 'result.json'
_STAMPS = 'stamps.json'


def run(
  work: Work,
  items: Sequence[Any],
  parts: epath.Path,
  num_processes: int = 2,
  engine: choice.Engine | None = None,
  host: tuple[int, int] = (0, 1),
) -> list[dict]:
  """Does the work on all items that are not done yet.

  Args:
    work: picklable. work(item, folder) writes files into an empty local folder and returns what
      there is to say about them, as JSON. The same item gives the same bytes.
    items: what to work on. Their order names the parts, so it must not change between runs.
    parts: folder for the parts, on a disk that all workers share, or in a bucket; `claimed`.
    num_processes: on this machine; without an engine, 1 does the work in this one.
    engine: None is child processes of this machine.
    host: (index, count) of this one among those that run it at once: each does every count-th item,
      and the first waits until the others have done theirs.
  Returns:
    The results in the order of the items; but for the first host, only of its own.
  """
  done = _done(parts)
  mine = range(host[0], len(items), host[1])
  todo = [(index, items[index]) for index in mine if index not in done]
  engine = engine or local.Local()
  if isinstance(engine, beam.Beam) and engine.is_elsewhere() and storage.is_local(parts):
    raise ValueError(
      f'{parts.parent} is on this machine, where the workers of Dataflow cannot write: give an '
      '--output in a bucket, gs://...'
    )
  quiet = beam.stderr_in_a_file() if isinstance(engine, beam.Beam) else contextlib.nullcontext()
  with quiet, _progress(parts, len(items)):
    if todo:
      engine.run(_ShardWork(work, parts), todo, num_processes)
    while host[1] > 1 and host[0] == 0 and len(_done(parts)) < len(items):
      time.sleep(_poll_secs(parts))
  markers = [part(parts, index) / MARKER for index in (mine if host[0] else range(len(items)))]
  return [json.loads(text) for text in storage.in_threads(_read_text, markers)]


def failures_of(results: Sequence[dict], parts: epath.Path) -> dict[str, int]:
  """Examples that failed, by reason, of results with num_examples, failed and example.

  Args:
    results: of `run`.
    parts: their folder.
  Raises:
    ValueError: a bug must be to blame (media/failures.py). The parts with it are dropped, so that
      they are done again.
  """
  failed: collections.Counter = collections.Counter()
  for result in results:
    failed.update(result.get('failed', {}))  # Older versions did not count.
  total = sum(result['num_examples'] for result in results)
  if failures.is_bug(failed, total):
    hit = [i for i, r in enumerate(results) if failures.num_unexpected(r.get('failed', {}))]
    for index in hit:
      storage.remove_folder(part(parts, index))
    failures.check(failed, total, results[hit[0]]['example'])
  return dict(failed)


def part(parts: epath.Path, index: int) -> epath.Path:
  """The folder of an item's files."""
  return parts / f'{index:05d}'


class NotWritableError(ValueError):
  """A folder that may only be read."""


@contextlib.contextmanager
def claimed(
  parts: epath.Path, identity: str, kept: bool = True, stamps: Sequence[str] = ()
) -> Generator[None, None, None]:
  """Within, the folder for parts is this process's; another run is refused.

  Args:
    parts: the folder; what a run with other input or options left there is dropped.
    identity: of the input and options.
    kept: whether the parts stay once the context has ended without an exception.
    stamps: one of each item: a part whose item has another stamp than before is dropped alone.
  Raises:
    NotWritableError: nothing can be written.
    ValueError: another run is at work there.
  """
  try:
    parts.mkdir(parents=True, exist_ok=True)
    held = lease.Lease(parts, _lost, 'works on it. Wait for its end, or stop it.')
  except retries.StorageError:
    raise
  except OSError as error:
    raise NotWritableError(
      f'{parts.parent} is not writable: {user_errors.reason(error)}'
    ) from error
  try:
    marker = parts / 'identity'
    if not marker.exists() or marker.read_text() != identity:
      _empty(parts)
      storage.write_bytes(marker, identity.encode())
    if stamps:
      _drop_others(parts, stamps)
    _sweep(parts)
    yield
    _sweep(parts)
  finally:
    held.release()
  if not kept:
    storage.remove_folder(parts)


def _sweep(parts: epath.Path) -> None:
  """Deletes what workers that were killed left behind."""
  if storage.is_local(parts):
    for folder in parts.glob('partial-*'):
      storage.remove_folder(folder)


def _empty(parts: epath.Path) -> None:
  """Deletes all parts, not the lease."""
  for path in parts.iterdir():
    if path.is_dir():
      storage.remove_folder(path)
  (parts / _STAMPS).unlink(missing_ok=True)


def _drop_others(parts: epath.Path, stamps: Sequence[str]) -> None:
  """Deletes the parts of items that are others now, then says which items these are."""
  path, text = parts / _STAMPS, json.dumps(list(stamps))
  before = path.read_text() if path.exists() else '[]'  # Older versions had none, nor need of any.
  if before == text:
    return
  for index, stamp in enumerate(json.loads(before)):
    if list(stamps[index : index + 1]) != [stamp]:
      storage.remove_folder(part(parts, index))
  storage.write_bytes(path, text.encode())


def _lost(sentence: str) -> None:
  """Ends this process, with its children, before it writes what another one would read."""
  print(f'error: {sentence}', file=sys.stderr, flush=True)
  os.kill(os.getpid(), signal.SIGTERM)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
  """Adds --dry_run, spelled either way."""
  text = 'only say what would be done; nothing is written'
  parser.add_argument('--dry_run', '--dry-run', action='store_true', help=text)


def end_with(command: Callable[[], None]) -> NoReturn:
  """Runs a command and ends the process with its exit code, without taking Python down.

  Beam leaves threads behind. One that stirs while the interpreter goes ends it with 134, though all
  work is done (seen once in five runs on a busy machine).
  """
  code: Any = 0
  try:
    command()
  except SystemExit as error:
    code = error.code
  except KeyboardInterrupt:
    raise  # It ends the process as a signal does.
  except BaseException:
    traceback.print_exc()
    code = 1
  if code is not None and not isinstance(code, int):
    print(code, file=sys.stderr)
    code = 1
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code or 0)


@dataclasses.dataclass
class _ShardWork:
  work: Work
  parts: epath.Path

  def __call__(self, numbered: tuple[int, Any]) -> None:
    index, item = numbered
    target = part(self.parts, index)
    if (target / MARKER).exists():  # An engine may give a shard to two workers.
      return
    if not (self.parts / 'identity').exists():
      raise ValueError(
        f'{self.parts.parent} of the machine that started the job is not that of '
        f'{socket.gethostname()}: give a folder on a disk that all machines share, or in a bucket.'
      )
    parent = self.parts if storage.is_local(self.parts) else None
    # Its name tells who looks what is under way, and in which process.
    prefix = f'partial-{index:05d}-{os.getpid()}-'
    folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    result = self.work(item, folder)
    (folder / MARKER).write_text(json.dumps(result))
    storage.publish(folder, target, last=MARKER)


@contextlib.contextmanager
def _progress(parts: epath.Path, total: int) -> Generator[None, None, None]:
  """Shows how many parts are done, by looking: the workers may be anywhere."""
  stopped = threading.Event()

  def watch():
    done, took = 0, 0.0
    with progress.Progress(total, 'shard') as shown:
      while True:
        last = stopped.wait(max(_poll_secs(parts), 20 * took))  # To list 100,000 takes seconds.
        began, before, done = time.monotonic(), done, len(_done(parts))
        took = time.monotonic() - began
        shown.update(done - before)
        if last:
          return

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    stopped.set()
    thread.join()


def _done(parts: epath.Path) -> set[int]:
  """Numbers of the items whose parts are whole."""
  names = [marker.parent.name for marker in parts.glob(f'*/{MARKER}')]
  return {int(name) for name in names if name.isdigit()}  # Others are being written.


def _poll_secs(parts: epath.Path) -> float:
  return 1.0 if storage.is_local(parts) else 20.0


def _read_text(path: epath.Path) -> str:
  return path.read_text()
