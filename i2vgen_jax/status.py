"""Says where a run is, from its workdir alone: python -m i2vgen_jax.status --workdir=DIR [--json]

It needs no devices, takes no lease and changes nothing.
"""

import dataclasses
import datetime
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data_pipelines import progress, user_errors
from data_pipelines.corpus import json_lines, storage
from i2vgen_jax.process import run_folder

# A lease is renewed every 10 s; a bucket may be late.
ALIVE_SECS = 60.0
REPORTS = 5  # Steps/s is that of so many reports.


@dataclasses.dataclass
class Status:
  """Where a run is; None for what nothing in the workdir tells.

  Attributes:
    workdir: of the run.
    state: 'not started', 'running', 'stopped' or 'finished'.
    holder: the process that trains or trained last, from the lease.
    step, num_steps: done, and in all.
    reported_secs_ago: since the newest event of the run.
    checkpoint, checkpoint_secs_ago: the newest complete one; damaged ones are set aside.
    damaged_checkpoints: names of those.
    steps_per_sec: with all that comes between steps, over the last reports.
    secs_left: at this speed; 0 if it is finished.
    loss: of the newest report.
    eval_loss: of held-out clips, the newest.
    goodput: share of the last start's time that went into steps, in [0, 1].
    starts: how often it was started.
    num_bad_samples: that were replaced since the last start, on the first host.
    skipped_steps: whose update was left out.
    slowest_host: and `slowest_host_ratio`, its time by that of the others.
    last_error: what ended the last start, if the run could write it down.
    problems: what is damaged in the workdir.
  """

  workdir: str
  state: str = 'not started'
  holder: str | None = None
  step: int = 0
  num_steps: int | None = None
  reported_secs_ago: float | None = None
  checkpoint: int | None = None
  checkpoint_secs_ago: float | None = None
  damaged_checkpoints: list[str] = dataclasses.field(default_factory=list)
  steps_per_sec: float | None = None
  secs_left: float | None = None
  loss: float | None = None
  eval_loss: float | None = None
  goodput: float | None = None
  starts: int = 0
  num_bad_samples: int = 0
  skipped_steps: int = 0
  slowest_host: int | None = None
  slowest_host_ratio: float | None = None
  last_error: str | None = None
  problems: list[str] = dataclasses.field(default_factory=list)


def read(workdir: str, now: float) -> Status:
  """The status of a run.

  Args:
    workdir: local or in a bucket.
    now: seconds since 1970.

  Raises:
    ValueError: there is no such folder.
  """
  root = epath.Path(workdir)
  if not root.is_dir():
    raise ValueError(f'workdir {workdir} does not exist: check the path.')
  status = Status(workdir)
  if config := _json(root / 'config.json', status):
    train = config.get('train')
    status.num_steps = _number(train if isinstance(train, dict) else {}, 'num_steps')
    if status.num_steps is None:
      status.problems.append(f'{root / "config.json"} is damaged: it says no train.num_steps.')
  _read_checkpoints(root, status, now)
  events = json_lines.read(root / run_folder.EVENTS)
  _read_events(events, status, now)
  _read_metrics(run_folder.standing(json_lines.read(root / run_folder.METRICS)), status)
  alive = _read_lease(root, status, now)
  if status.num_steps is not None and (status.checkpoint or 0) >= status.num_steps:
    status.state, status.secs_left = 'finished', 0.0
  elif alive if alive is not None else _seems_alive(events, now):
    status.state = 'running'
  elif status.starts or status.checkpoint is not None:
    status.state = 'stopped'
  if status.state != 'finished' and status.steps_per_sec and status.num_steps:
    status.secs_left = (status.num_steps - status.step) / status.steps_per_sec
  return status


def _json(path: epath.Path, status: Status) -> dict[str, Any]:
  """A JSON file; {} if it is missing or damaged, which is a problem."""
  try:
    return storage.read_json(path) if path.exists() else {}
  except ValueError as error:
    status.problems.append(str(error))
    return {}


def _read_checkpoints(root: epath.Path, status: Status, now: float) -> None:
  if steps := run_folder.checkpoint_steps(root):
    status.checkpoint = status.step = steps[-1]
    marker = root / 'checkpoints' / str(steps[-1]) / run_folder.COMMITTED
    written = marker.stat().mtime  # s3:// does not say it: 0.
    status.checkpoint_secs_ago = max(0.0, now - written) if written else None
  aside = root / 'damaged_checkpoints'
  if aside.is_dir():
    names = {path.name.removesuffix('.txt') for path in aside.iterdir()}
    status.damaged_checkpoints = sorted(names)
    status.problems += [f'checkpoint {name} is damaged and set aside' for name in sorted(names)]


def _read_events(events: Sequence[Mapping[str, Any]], status: Status, now: float) -> None:
  starts = [number for number, event in enumerate(events) if 'job_start_time' in event]
  status.starts = len(starts)
  times = [_time(event) for event in events]
  if not events:
    return
  status.reported_secs_ago = max(0.0, now - max(times))
  last = events[starts[-1] :] if starts else events
  reports = [
    (step, _time(event)) for event in last if (step := _number(event, 'step_count')) is not None
  ][-REPORTS - 1 :]
  if reports:
    # Not the newest of all: a run may go on from an earlier checkpoint.
    status.step = int(reports[-1][0])
    (first, began), (step, ended) = reports[0], reports[-1]
    if len(reports) > 1 and ended > began:
      status.steps_per_sec = (step - first) / (ended - began)
  status.last_error = next((str(event['error']) for event in last if 'error' in event), None)


def _time(event: Mapping[str, Any]) -> float:
  """When an event was; its name begins with what happened and ends with _time."""
  names = (name for name in event if name.endswith('_time'))
  return max((_number(event, name) or 0.0 for name in names), default=0.0)


def _number(fields: Mapping[str, Any], name: str) -> Any:
  """A field that is a number; None if it is missing or something else."""
  value = fields.get(name)
  return value if isinstance(value, int | float) else None


def _read_metrics(rows: Sequence[Mapping[str, Any]], status: Status) -> None:
  skipped = {_number(row, 'step') for row in rows if 'skipped_reason' in row}
  status.skipped_steps = len(skipped)
  for name in ('loss', 'eval_loss'):
    known = [number for row in rows if (number := _number(row, name)) is not None]
    setattr(status, name, known[-1] if known else None)
  reports = [row for row in rows if _number(row, 'goodput') is not None]
  if reports:
    status.num_bad_samples = int(_number(reports[-1], 'num_bad_samples') or 0)
    for name in ('goodput', 'slowest_host', 'slowest_host_ratio'):
      setattr(status, name, _number(reports[-1], name))


def _read_lease(root: epath.Path, status: Status, now: float) -> bool | None:
  """Whether a process holds the workdir; None without a lease."""
  lease = _json(root / 'lease.json', status)
  if not lease:
    return None
  status.holder = f'process {lease.get("pid")} of {lease.get("host")}'
  return now - (_number(lease, 'renewed') or 0.0) < ALIVE_SECS and not lease.get('released')


def _seems_alive(events: Sequence[Mapping[str, Any]], now: float) -> bool:
  """Without a lease: the last start has not ended, and wrote an event within ALIVE_SECS."""
  ends = ('job_end_time', 'job_error_time')
  return bool(events) and now - _time(events[-1]) < ALIVE_SECS and not set(ends) & set(events[-1])


def describe(status: Status, now: float) -> str:
  """The status for people, a line for each thing that is known."""
  share = f' ({status.step / status.num_steps:.1%})' if status.num_steps else ''
  lines = {'state': status.state, 'step': f'{status.step} of {status.num_steps or "?"}{share}'}
  if status.holder:
    lines['state'] += f': {status.holder}'
  if status.reported_secs_ago is not None:
    lines['step'] += f', last sign {progress.spell_secs(status.reported_secs_ago)} ago'
  lines['checkpoint'] = 'none'
  if status.checkpoint is not None:
    lines['checkpoint'] = f'step {status.checkpoint}'
    if status.checkpoint_secs_ago is not None:
      lines['checkpoint'] += f', {progress.spell_secs(status.checkpoint_secs_ago)} old'
  if status.steps_per_sec:
    lines['speed'] = f'{status.steps_per_sec:.3g} steps/s'
  if status.secs_left:
    end = datetime.datetime.fromtimestamp(now + status.secs_left).strftime('%Y-%m-%d %H:%M')
    when = f'about {end}' if status.state == 'running' else 'once it runs again'
    lines['ends'] = f'in {progress.spell_secs(status.secs_left)}, {when}'
  if status.loss is not None:
    lines['loss'] = f'{status.loss:.4g}'
  if status.eval_loss is not None:
    lines['held out'] = f'loss {status.eval_loss:.4g}'
  if status.goodput is not None:
    lines['goodput'] = f'{status.goodput:.1%} of the time since the last start'
  lines['restarts'] = str(max(0, status.starts - 1))
  skipped = f'{status.num_bad_samples} bad samples, {status.skipped_steps} steps'
  lines['skipped'] = skipped
  if status.slowest_host is not None and status.slowest_host_ratio is not None:
    lines['slowest'] = f'host {status.slowest_host}, {status.slowest_host_ratio:.2f} times others'
  if status.last_error:
    lines['last error'] = status.last_error
  described = [f'{name:<11}{text}' for name, text in lines.items()]
  return '\n'.join([*described, *(f'{"problem":<11}{problem}' for problem in status.problems)])


def main(arguments: Sequence[str]) -> int:
  """Entry point; returns the exit code: 2 if the workdir is damaged."""
  parser = user_errors.Parser(prog='python -m i2vgen_jax.status', description=__doc__)
  parser.add_argument('--workdir', required=True, help='of the run, local or in a bucket')
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  options = parser.parse_args(arguments)
  now = time.time()
  status = read(options.workdir, now)
  print(json.dumps(dataclasses.asdict(status)) if options.json else describe(status, now))
  return user_errors.USAGE if status.problems else 0


if __name__ == '__main__':
  user_errors.run(main)
