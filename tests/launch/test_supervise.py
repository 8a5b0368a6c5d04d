"""What is started again, how often, and what is not."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from i2vgen_jax.process import exit_codes
from launch import local, supervise
from tests import runs
from tests.launch import consumers

RESTARTED = [code for code in range(256) if exit_codes.restarts(code)]


def repeated(workdir, codes, max_restarts=10, steps=True, **options):
  """(exit code, number of starts) of a run that ends with these codes, one after the other."""
  workdir.mkdir(exist_ok=True)
  ended = []

  def run():
    if steps is True or len(ended) in (steps or ()):
      with (workdir / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 1}\n')
    ended.append(codes[len(ended)])
    return ended[-1]

  code = supervise.repeat(run, str(workdir), max_restarts, [], wait_secs=0.0, **options)
  return code, len(ended)


@pytest.mark.parametrize('code', [1, 2, 3, 42, 134, 137, 139, 143, 171])
def test_a_run_starts_again_after_the_codes_of_the_table_alone(code, tmp_path):
  restarted = exit_codes.restarts(code)
  assert repeated(tmp_path, [code, 0]) == (0 if restarted else code, 2 if restarted else 1)


def test_restarts_are_bounded_and_preemptions_do_not_count(tmp_path):
  assert repeated(tmp_path / 'a', [171] * 9, max_restarts=3) == (171, 4)
  assert repeated(tmp_path / 'b', [137] * 9, max_restarts=0) == (137, 1)
  codes = [42, 171, 42, 42, 171, 42, 171]
  assert repeated(tmp_path / 'c', codes, max_restarts=2) == (171, 7)
  assert repeated(tmp_path / 'd', [42] * 9, max_restarts=0) == (42, 1)


def test_preemptions_before_the_first_step_are_bounded(tmp_path):
  assert repeated(tmp_path, [42] * 9, max_restarts=3, steps=False) == (42, 4)


@pytest.mark.parametrize('code', RESTARTED[::29])
def test_a_restart_without_a_step_is_the_last(code, tmp_path):
  assert repeated(tmp_path / 'a', [code] * 9, steps=False) == (code, 2)
  assert repeated(tmp_path / 'b', [code] * 9, steps=[0, 2, 4]) == (code, 2)
  assert repeated(tmp_path / 'c', [code] * 9, steps=[1, 2, 3]) == (code, 5)


def test_a_step_counts_that_only_a_checkpoint_tells_of(tmp_path):
  def run():
    step = tmp_path / 'checkpoints' / str(len(list((tmp_path / 'checkpoints').glob('*'))) + 1)
    step.mkdir(parents=True)
    if step.name != '3':
      (step / 'commit_success.txt').write_text('')
    return 171

  assert supervise.repeat(run, str(tmp_path), 10, [], wait_secs=0.0) == 171
  assert len(list((tmp_path / 'checkpoints').glob('*'))) == 3  # The third was cut off.


def test_a_host_that_waits_for_another_one_is_patient(tmp_path):
  lost = exit_codes.LOST_PEER
  assert repeated(tmp_path, [lost] * 9, 5, steps=False, each_host=True) == (lost, 6)
  assert repeated(tmp_path, [137] * 9, 5, steps=False, each_host=True) == (137, 2)


def test_a_workdir_that_cannot_be_read_bounds_restarts_by_their_number(tmp_path):
  (tmp_path / 'file').write_text('')
  ended = []
  run = lambda: ended.append(171) or 171  # noqa: E731
  assert supervise.repeat(run, 'nosuch://bucket/run', 3, [], wait_secs=9.0) == 171
  assert len(ended) == 4


def test_nothing_starts_after_a_signal(tmp_path):
  stopping = []
  run = lambda: stopping.append(signal.SIGTERM) or 42  # noqa: E731
  assert supervise.repeat(run, str(tmp_path), 10, stopping, wait_secs=0.0) == 42
  assert len(stopping) == 1


@pytest.mark.parametrize(
  ('codes', 'code'),
  [
    ((0, 0), 0), ((42, 42), 42), ((171, 2), 2), ((134, 171), 134), ((42, 137), 137), ((42, 0), 42),
    ((171, 137), 137), ((171, 42), 171), ((137, 1, 171), 1),
  ],
)  # fmt: skip
def test_a_pod_ends_with_the_code_that_says_most(codes, code):
  assert local.verdict(list(codes)) == code


def test_the_command_passes_signals_on_and_ends_with_3_where_no_restart_helps(tmp_path):
  """One process is stopped, another makes a step at its first start alone."""
  child = (
    'import signal, sys, time\n'
    'signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n'
    'print("ready", flush=True)\n'
    'time.sleep(600)'
  )
  supervised = [sys.executable, '-m', 'launch.supervise', f'--workdir={tmp_path}']
  with subprocess.Popen(
    [*supervised, '--', sys.executable, '-c', child], cwd=runs.ROOT, stdout=subprocess.PIPE
  ) as process:
    assert process.stdout.readline() == b'ready\n'
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 42
  consumers.stand_in(tmp_path / 'bin', 'train', 'sys.exit(172)')
  done = runs.module(
    'launch.supervise',
    f'--workdir={tmp_path}',
    '--max_restarts=0',
    '--',
    tmp_path / 'bin/train',
    '-x',
  )
  assert done.returncode == exit_codes.FAILED
  assert 'ended with 172 after 0 of 0 restarts' in done.stderr
  assert [call[1:] for call in consumers.calls(tmp_path / 'bin')] == [['-x']]


@pytest.mark.parametrize('kind', ['supervise', 'local'])
def test_no_process_outlives_a_launcher_that_was_killed(kind, tmp_path):
  """Of a training that would go on for ever, and hears no signal but SIGKILL."""
  child = (
    'import os, signal, time\n'
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    'print(os.getpid(), flush=True)\n'
    'time.sleep(600)'
  )
  starter = {
    'supervise': 'supervise.Command(command).run()',
    'local': (
      'from launch import local\n'
      'from tests.launch.test_launch import make_job\n'
      'class Job:\n'
      '  topology, environment = make_job("cpu-1").topology, {}\n'
      '  command = ["python", *command[1:]]\n'
      f'local._run_once(Job, __import__("pathlib").Path({str(tmp_path)!r}), [])'
    ),
  }[kind]
  code = f'import sys\nfrom launch import supervise\ncommand = [sys.executable, "-c", {child!r}]\n'
  launcher = subprocess.Popen(
    [sys.executable, '-c', code + starter], cwd=runs.ROOT, stdout=subprocess.PIPE,
    env=runs.environment(),
  )  # fmt: skip
  pid = int(launcher.stdout.readline())
  launcher.kill()
  launcher.wait()
  deadline = time.monotonic() + 30
  while pathlib.Path(f'/proc/{pid}').exists() and ' Z ' not in (
    pathlib.Path(f'/proc/{pid}/stat').read_text()
  ):
    assert time.monotonic() < deadline, f'{pid} lives'
    time.sleep(0.05)


@pytest.mark.parametrize(
  ('codes', 'starts', 'code', 'requeued'),
  [([0], 1, 0, False), ([2], 1, 2, False), ([42], 1, 42, True), ([137, 42], 2, 42, True)],
)
def test_slurm_restarts_in_place_and_asks_for_machines_after_a_preemption(
  codes, starts, code, requeued, tmp_path
):
  """The script itself, with Slurm's two commands replaced on PATH; each start makes a step."""
  from tests.launch.test_launch import make_job, slurm

  workdir = tmp_path / "it's 100%" / '$run'
  workdir.mkdir(parents=True)
  made = make_job('2xgpu-8', training=('--config=c.py', f'--workdir={workdir}'), max_restarts=1)
  (tmp_path / '.venv' / 'bin').mkdir(parents=True)
  (tmp_path / '.venv' / 'bin' / 'activate').write_text('')
  step = f'open({str(workdir / "metrics.jsonl")!r}, "a").write("{{}}")\n'
  ends = f'sys.exit({codes}[len((folder / "calls.jsonl").read_text().splitlines()) - 1])'
  consumers.stand_in(tmp_path / 'bin', 'srun', step + ends)
  consumers.stand_in(tmp_path / 'bin', 'scontrol')
  text = slurm.slurm(made).files['job.sbatch']
  variables = dict(SLURM_JOB_ID='7', PYTHONPATH=str(runs.ROOT))
  done = consumers.bash(text, tmp_path, tmp_path / 'bin', **variables)
  assert done.returncode == code, done.stderr
  calls = consumers.calls(tmp_path / 'bin')
  srun = ['srun', '--kill-on-bad-exit=1', '--gpu-bind=none', *made.command]
  assert calls == [srun] * starts + [['scontrol', 'requeue', '7']] * requeued
  assert json.dumps(calls).count('--distributed') == starts
