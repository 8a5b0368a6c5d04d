"""One function over many shards: in this process, or as an Apache Beam job wherever Beam runs.

Each shard's files appear in parts/IIIII at once, with result.json as the marker. So a job that was
killed, run again, does only what is unfinished, with the same bytes; Beam itself cannot resume.
Nothing but the shards' names goes through Beam: media is never shuffled.
"""

import argparse
import atexit
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from typing import Any, NoReturn, TypeAlias

from etils import epath

from data_pipelines import children, progress
from data_pipelines.corpus import storage
from data_pipelines.media import failures

Work = Callable[[Any, pathlib.Path], dict]
# What a parser's add_subparsers returns: where commands are added.
Commands: TypeAlias = 'argparse._SubParsersAction[Any]'
MARKER = 'result.json'


def run(
  work: Work,
  items: Sequence[Any],
  parts: epath.Path,
  num_processes: int = 2,
  beam_flags: Sequence[str] = (),
  host: tuple[int, int] = (0, 1),
) -> list[dict]:
  """Does the work on all items that are not done yet.

  Args:
    work: picklable. work(item, folder) writes files into an empty local folder and returns what
      there is to say about them, as JSON. The same item gives the same bytes.
    items: what to work on. Their order names the parts, so it must not change between runs.
    parts: folder for the parts, on a disk that all workers share, or in a bucket.
    num_processes: of Beam's own runner on this machine; 1 does the work here, without Beam.
    beam_flags: Beam's own, such as --runner=DataflowRunner with what that needs.
    host: (index, count) of this one among those that run it at once: each does every count-th item,
      and the first waits until the others have done theirs.
  Returns:
    The results in the order of the items; but for the first host, only of its own.
  """
  done = _done(parts)
  mine = range(host[0], len(items), host[1])
  todo = [(index, items[index]) for index in mine if index not in done]
  shard_work = _ShardWork(work, parts)
  if beam_flags or (num_processes > 1 and len(todo) > 1):
    with _stderr_in_a_file(), _progress(parts, len(items)):
      _run_beam(shard_work, todo, num_processes, beam_flags)
  else:
    with _progress(parts, len(items)):
      for numbered in todo:
        shard_work(numbered)
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


def claim(parts: epath.Path, identity: str) -> None:
  """Prepares the folder for parts; what a run with other input or options left there is dropped."""
  marker = parts / 'identity'
  if parts.exists() and (not marker.exists() or marker.read_text() != identity):
    storage.remove_folder(parts)
  try:
    parts.mkdir(parents=True, exist_ok=True)
    storage.write_bytes(marker, identity.encode())
  except OSError as error:
    raise ValueError(f'{parts.parent} is not writable: {error}') from error
  if storage.is_local(parts):
    for folder in parts.glob('partial-*'):  # Of workers that were killed.
      storage.remove_folder(folder)


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `run` to a command's."""
  parser.add_argument(
    '--num_processes', type=at_least_one, default=2, help='on this machine; 1 works without Beam'
  )
  parser.add_argument(
    'beam_flags', nargs='*', metavar='-- BEAM_FLAGS', help="Beam's, as -- --runner=DataflowRunner"
  )


def at_least_one(text: str) -> int:
  """The number of a flag that counts what there must be one of."""
  if int(text) < 1:
    raise argparse.ArgumentTypeError(f'{text} must be at least 1')
  return int(text)


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
  parent: int = dataclasses.field(default_factory=os.getpid)

  def __call__(self, numbered: tuple[int, Any]) -> None:
    if os.getppid() == self.parent:  # A worker on this machine.
      children.follow(self.parent)
    index, item = numbered
    target = part(self.parts, index)
    if (target / MARKER).exists():  # Beam may give a shard to two workers.
      return
    parent = self.parts if storage.is_local(self.parts) else None
    folder = pathlib.Path(tempfile.mkdtemp(prefix='partial-', dir=parent))
    result = self.work(item, folder)
    (folder / MARKER).write_text(json.dumps(result))
    storage.publish(folder, target, last=MARKER)


def _run_beam(
  shard_work: _ShardWork,
  todo: Sequence[tuple[int, Any]],
  num_processes: int,
  beam_flags: Sequence[str],
) -> None:
  import apache_beam as beam  # Half a second, and not needed to train.
  from apache_beam.options import pipeline_options

  # What --runner=DirectRunner stands for, without its attempt to download another runner first.
  flags = ['--runner=FnApiRunner', f'--direct_num_workers={min(num_processes, len(todo))}']
  if beam_flags:
    flags += ['--direct_running_mode=multi_processing', *beam_flags]
  options = pipeline_options.PipelineOptions(flags)
  runner = options.view_as(pipeline_options.StandardOptions).runner
  if runner == 'DataflowRunner' and storage.is_local(shard_work.parts):
    raise ValueError(
      f'{shard_work.parts.parent} is on this machine, where the workers of {runner} cannot write: '
      'give an --output in a bucket, gs://...'
    )
  with beam.Pipeline(None if beam_flags else _local_runner(), options) as pipeline:
    shards = pipeline | 'Shards' >> beam.Create(todo)
    _ = shards | 'Spread' >> beam.Reshuffle() | 'Work' >> beam.Map(shard_work)


def _local_runner() -> Any:
  """Beam's, of processes on this machine that are our own children, not those of a shell."""
  from apache_beam.runners.portability.fn_api_runner import fn_runner
  from apache_beam.transforms import environments

  command = f'exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main'
  return fn_runner.FnApiRunner(environments.SubprocessSDKEnvironment.from_command_string(command))


@contextlib.contextmanager
def _stderr_in_a_file() -> Generator[None, None, None]:
  """Beam's processes on this machine say 18 lines each to stderr: kept for those who need them."""
  sys.stderr.flush()
  terminal, python_stderr = os.dup(2), sys.stderr
  descriptor, log = tempfile.mkstemp(prefix='beam-', suffix='.log')
  os.dup2(descriptor, 2)
  sys.stderr = os.fdopen(os.dup(terminal), 'w')  # The progress bar's and our own messages'.
  try:
    yield
  except Exception as error:
    error.add_note(f'What the processes wrote is in {log}.')
    raise
  else:
    os.remove(log)
  finally:
    sys.stderr.close()
    sys.stderr = python_stderr
    os.dup2(terminal, 2)
    os.close(terminal)
    os.close(descriptor)


@contextlib.contextmanager
def _progress(parts: epath.Path, total: int) -> Generator[None, None, None]:
  """Shows how many parts are done, by looking: the workers may be anywhere."""
  stopped = threading.Event()

  def watch():
    done = 0
    with progress.Progress(total, 'shard') as shown:
      while True:
        last = stopped.wait(_poll_secs(parts))
        before, done = done, len(_done(parts))
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
