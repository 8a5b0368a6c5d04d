"""Shards as an Apache Beam job: on its own runner here, or on Dataflow, Flink, Spark or Dask.

Nothing but the shards' names goes through Beam: media is never shuffled. Beam cannot resume: the
job's marker files can.
"""

import contextlib
import dataclasses
import os
import shlex
import sys
import tempfile
from collections.abc import Generator, Sequence
from typing import Any

from data_pipelines import children
from data_pipelines.engines import outcomes


@dataclasses.dataclass(frozen=True)
class Beam:
  """A pipeline.

  Attributes:
    flags: Beam's own, such as --runner=DataflowRunner with what that needs.
  """

  flags: Sequence[str] = ()

  def run(self, work: outcomes.Work, todo: Sequence[tuple[int, Any]], num_processes: int) -> None:
    """Does all that is to do; of Beam's own runner here, in as many processes."""
    import apache_beam as beam  # Half a second, and only for those who ask for it.
    from apache_beam.options import pipeline_options

    # What --runner=DirectRunner stands for, without its attempt to download another runner first.
    flags = [
      '--runner=FnApiRunner',
      f'--direct_num_workers={max(min(num_processes, len(todo)), 1)}',
    ]
    if self.flags:
      flags += ['--direct_running_mode=multi_processing', *self.flags]
    options = pipeline_options.PipelineOptions(flags)
    with beam.Pipeline(None if self.flags else _own_runner(), options) as pipeline:
      shards = pipeline | 'Shards' >> beam.Create(todo)
      _ = shards | 'Spread' >> beam.Reshuffle() | 'Work' >> beam.Map(_Followed(work))

  def is_elsewhere(self) -> bool:
    """Whether it runs on Dataflow, whose workers share no disk with this machine."""
    from apache_beam.options import pipeline_options

    options = pipeline_options.PipelineOptions(list(self.flags))
    return options.view_as(pipeline_options.StandardOptions).runner == 'DataflowRunner'


@dataclasses.dataclass
class _Followed:
  """The work; a worker on this machine ends with this process."""

  work: outcomes.Work
  parent: int = dataclasses.field(default_factory=os.getpid)

  def __call__(self, numbered: tuple[int, Any]) -> None:
    if os.getppid() == self.parent:
      children.follow(self.parent)
    self.work(numbered)


def _own_runner() -> Any:
  """Beam's, of processes on this machine that are our own children, not those of a shell."""
  from apache_beam.runners.portability.fn_api_runner import fn_runner
  from apache_beam.transforms import environments

  command = f'exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main'
  return fn_runner.FnApiRunner(environments.SubprocessSDKEnvironment.from_command_string(command))


@contextlib.contextmanager
def stderr_in_a_file() -> Generator[None, None, None]:
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
