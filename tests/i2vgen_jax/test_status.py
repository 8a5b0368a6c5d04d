"""What `status` says of workdirs in every state, without JAX."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from etils import epath

from data_pipelines.corpus import json_lines
from i2vgen_jax import status
from i2vgen_jax.process import run_folder
from tests import runs

NOW = 2_000_000_000.0
CONFIG = {'train': {'num_steps': 1000}}


@pytest.fixture
def run(tmp_path):
  """A run that was started twice and writes a report of 10 steps every 20 s, the last 4 s ago."""
  (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
  events = [{'job_start_time': NOW - 9000}, {'step_start_time': NOW - 8000, 'step_count': 480}]
  events += [{'job_start_time': NOW - 1000}, {'training_prep_end_time': NOW - 900}]
  events += [
    {'step_start_time': NOW - 4 - 20 * back, 'step_count': 400 - 10 * back}
    for back in reversed(range(9))
  ]
  write(tmp_path / 'goodput.jsonl', events)
  rows = [{'step': 480, 'goodput': 0.5, 'num_bad_samples': 7}, {'step': 300, 'eval_loss': 0.75}]
  rows += [{'step': 390, 'loss': 0.625}]
  rows += [{'step': 391, 'skipped_reason': 'not finite'}, {'step': 395, 'skipped_reason': 'norm'}]
  rows += [
    {
      'step': 400, 'goodput': 0.875, 'num_bad_samples': 3, 'slowest_host': 2,
      'slowest_host_ratio': 1.25,
    }
  ]  # fmt: skip
  write(tmp_path / 'metrics.jsonl', rows)
  for step, secs in ((300, 700), (350, 90)):
    checkpoint(tmp_path, step, secs)
  (tmp_path / 'checkpoints' / '400').mkdir()  # Under way.
  return tmp_path


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def checkpoint(workdir, step, secs_ago):
  marker = workdir / 'checkpoints' / str(step) / 'commit_success.txt'
  marker.parent.mkdir(parents=True)
  marker.write_text('')
  os.utime(marker, (NOW - secs_ago, NOW - secs_ago))


def lease(workdir, secs_ago, **fields):
  holder = dict(host='a', pid=12, renewed=NOW - secs_ago, released=False)
  (workdir / 'lease.json').write_text(json.dumps(holder | fields))


def test_a_running_run_says_where_it_is_how_fast_and_when_it_ends(run):
  lease(run, 9)
  found = status.read(str(run), NOW)
  assert (found.state, found.holder) == ('running', 'process 12 of a')
  assert (found.step, found.num_steps, found.reported_secs_ago) == (400, 1000, 4.0)
  assert (found.checkpoint, found.checkpoint_secs_ago) == (350, 90.0)
  assert found.steps_per_sec == pytest.approx(0.5) and found.secs_left == pytest.approx(1200)
  assert (found.goodput, found.starts) == (0.875, 2)
  assert (found.loss, found.eval_loss) == (0.625, 0.75)
  assert (found.num_bad_samples, found.skipped_steps) == (3, 2)
  assert (found.slowest_host, found.slowest_host_ratio) == (2, 1.25)
  assert not found.problems and found.last_error is None
  text = status.describe(found, NOW)
  for part in (
    'running: process 12 of a', '400 of 1000 (40.0%), last sign 4 s ago', 'step 350, 90 s old',
    '0.5 steps/s', 'in 20 min, about 2033-05-18', '87.5% of the time', 'restarts   1',
    '3 bad samples, 2 steps', 'host 2, 1.25 times',
  ):  # fmt: skip
    assert part in text, text


@pytest.mark.parametrize(
  ('secs_ago', 'fields', 'state'),
  [(9, {}, 'running'), (61, {}, 'stopped'), (9, dict(released=True), 'stopped')],
)
def test_who_holds_the_lease_decides_whether_it_runs(run, secs_ago, fields, state):
  lease(run, secs_ago, **fields)
  assert status.read(str(run), NOW).state == state


def test_without_a_lease_a_run_that_wrote_lately_and_did_not_end_runs(run):
  assert status.read(str(run), NOW).state == 'running'
  assert status.read(str(run), NOW + 60).state == 'stopped'
  with (run / 'goodput.jsonl').open('a') as file:
    file.write(json.dumps({'job_error_time': NOW - 1, 'error': 'OSError: disk'}) + '\n')
  found = status.read(str(run), NOW)
  assert (found.state, found.last_error) == ('stopped', 'OSError: disk')
  with (run / 'goodput.jsonl').open('a') as file:
    file.write(json.dumps({'job_start_time': NOW}) + '\n')
  found = status.read(str(run), NOW)
  assert (found.state, found.last_error, found.starts) == ('running', None, 3)
  assert found.step == 350 and found.steps_per_sec is None  # It goes on from its checkpoint.


def test_a_finished_run_is_one_with_its_last_checkpoint(run):
  checkpoint(run, 1000, 3)
  lease(run, 1, released=True)
  found = status.read(str(run), NOW)
  assert (found.state, found.secs_left, found.checkpoint) == ('finished', 0.0, 1000)


def test_a_folder_without_a_run_was_not_started_and_no_folder_is_an_error(tmp_path):
  assert status.read(str(tmp_path), NOW) == status.Status(str(tmp_path))
  with pytest.raises(ValueError, match='does not exist: check the path'):
    status.read(str(tmp_path / 'typo'), NOW)


@pytest.mark.parametrize('text', ['{"train": {"num', '', '[1]', '{"train": {}}', '{"train": 3}'])
def test_a_damaged_config_is_named_beside_what_the_rest_says(run, text):
  (run / 'config.json').write_text(text)
  found = status.read(str(run), NOW)
  assert (found.step, found.checkpoint, found.num_steps) == (400, 350, None)
  [problem] = found.problems
  assert str(run / 'config.json') in problem
  assert f'problem    {problem}' in status.describe(found, NOW)


@pytest.mark.parametrize('name', ['metrics.jsonl', 'goodput.jsonl'])
@pytest.mark.parametrize(
  'damage', [b'{"step": 5', b'\0\xff\n', b'[1]\n3\n"a"\nnull\n', b'{"step": "a"}\n']
)
def test_lines_that_were_cut_off_or_damaged_hide_nothing_else(run, name, damage):
  lease(run, 9)
  before = status.read(str(run), NOW)
  data = (run / name).read_bytes()
  (run / name).write_bytes(damage + (b'' if damage.endswith(b'\n') else b'\n') + data)
  assert status.read(str(run), NOW) == before


def test_damaged_checkpoints_and_leases_are_named(run):
  aside = run / 'damaged_checkpoints'
  (aside / '400').mkdir(parents=True)
  (aside / '400.txt').write_text('digest of params/a')
  (run / 'lease.json').write_text('{')
  found = status.read(str(run), NOW)
  assert found.damaged_checkpoints == ['400'] and len(found.problems) == 2
  shutil.rmtree(run / 'checkpoints')
  assert 'checkpoint none' in status.describe(status.read(str(run), NOW), NOW)


def test_the_command_needs_no_jax_and_gives_json(run):
  code = (
    'import sys\n'
    'for name in ("jax", "flax", "orbax", "absl", "torch", "grain"): sys.modules[name] = None\n'
    'from i2vgen_jax import status\n'
    'sys.exit(status.main(sys.argv[1:]))'
  )
  lease(run, 0, host=socket.gethostname())
  command = [sys.executable, '-c', code, f'--workdir={run}', '--json']
  done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout).keys() == {field for field in vars(status.Status(''))}
  (run / 'config.json').write_text('{')
  done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
  assert done.returncode == 2 and json.loads(done.stdout)['problems']
  done = runs.module('i2vgen_jax.status', f'--workdir={run}/no')
  assert (done.returncode, done.stderr.count('\n')) == (2, 1) and done.stderr.startswith('error: ')


def test_a_run_in_a_bucket_says_the_same(run, gs_bucket):
  lease(run, 9)
  bucket = epath.Path('gs://held/status/run')
  for name in ('metrics.jsonl', 'goodput.jsonl'):  # There, logs are folders.
    log = json_lines.Log(bucket / name)
    for row in json_lines.read(run / name):
      log.append(row)
  before = run_folder.progress(bucket)
  for path in run.rglob('*'):
    if path.is_file() and path.suffix != '.jsonl':
      (bucket / path.relative_to(run)).write_bytes(path.read_bytes())
  assert run_folder.progress(bucket) != before
  expected, found = status.read(str(run), NOW), status.read(str(bucket), NOW)
  assert found.checkpoint_secs_ago != expected.checkpoint_secs_ago  # Both are of now, there.
  alike = dict(workdir='', checkpoint_secs_ago=None)
  assert dataclasses.replace(found, **alike) == dataclasses.replace(expected, **alike)
  last = run_folder.progress(bucket)
  assert last is not None and run_folder.progress(bucket) == last
  json_lines.Log(bucket / 'metrics.jsonl').append({'step': 401})
  assert run_folder.progress(bucket) != last


def test_what_a_real_run_leaves_is_read(finished_run):
  found = status.read(str(finished_run), os.path.getmtime(finished_run / 'config.json') + 9999)
  assert (found.state, found.step, found.num_steps, found.checkpoint) == ('finished', 6, 6, 6)
  assert found.starts >= 1 and found.steps_per_sec > 0 and 0 < found.goodput < 1
  assert not found.problems and found.last_error is None
