"""A cache that was killed half-way, or made by two hosts, is that of one host, byte by byte."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from data_pipelines import __main__ as commands
from data_pipelines.ingest import command as ingest
from i2vgen_jax.parallel import topology
from launch import job, local
from tests import corpora, runs
from tests.data_pipelines.corpus.test_jobs import contents

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """Three shards of videos."""
  root = tmp_path_factory.mktemp('hosts')
  ingest.ingest(
    str(corpora.write_folder(root / 'in', 140)), str(root / 'corpus/videos'), num_processes=1
  )
  return root / 'corpus'


def command(corpus, output, *flags):
  return [
    sys.executable, '-m', 'i2vgen_jax.precompute', f'--config=tests/tiny.py:{corpus}',
    f'--output={output}', *flags,
  ]  # fmt: skip


@pytest.fixture(scope='module')
def whole(corpus):
  """The cache by one host in one go; before that, only a dry run."""
  output = corpus.parent / 'whole'
  dry = subprocess.run(
    command(corpus, output, '--dry_run'), cwd=ROOT, env=runs.environment(), check=True,
    capture_output=True, text=True,
  )  # fmt: skip
  told = re.search(r'(\d+) examples in 3 shards, 0 of them done; about ([\d.]+) GB', dry.stdout)
  assert not output.exists()
  subprocess.run(command(corpus, output), cwd=ROOT, env=runs.environment(), check=True)
  made = contents(output)
  num_bytes = sum(len(data) for name, data in made.items() if 'array_record' in name)
  assert int(told[1]) == 139 and float(told[2]) == pytest.approx(num_bytes / 1e9, rel=0.1)
  return made


def finished(output):
  """Markers of parts that are done, with what tells whether they were written again."""
  found = pathlib.Path(output).glob('_precomputed/[0-9]*/result.json')
  return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def assert_kept(before, output):
  """No part is lost or written again; under the manifest, which is written last, they go."""
  now = finished(output)
  assert before.items() <= now.items() or (output / 'manifest.json').exists()
  assert all(before.get(path, mark) == mark for path, mark in now.items())


def wait_for(happened, processes):
  deadline = time.monotonic() + 600
  while not happened():
    assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
    time.sleep(0.01)


def test_a_killed_precompute_goes_on_with_the_same_bytes(corpus, whole):
  output = corpus.parent / 'killed'
  with subprocess.Popen(
    command(corpus, output), cwd=ROOT, env=runs.environment(), start_new_session=True
  ) as process:
    wait_for(lambda: finished(output), [process])
    os.killpg(process.pid, signal.SIGKILL)
  done = finished(output)
  assert 0 < len(done) < 3
  again = subprocess.Popen(command(corpus, output), cwd=ROOT, env=runs.environment())
  while again.poll() is None:
    assert_kept(done, output)
    time.sleep(0.01)
  assert again.returncode == 0 and contents(output) == whole


def test_two_hosts_share_the_shards_also_after_one_is_killed(corpus, whole):
  output = corpus.parent / 'hosts'
  found = {}
  for is_killed in (True, False):
    address = f'127.0.0.1:{local.free_port()}'
    made = job.Job('pod', topology.parse('2xcpu-1'), ())
    processes = [
      subprocess.Popen(
        command(corpus, output, '--distributed'), cwd=ROOT, start_new_session=True,
        env=runs.environment() | local.environment_of(made, index, address),
      )
      for index in range(2)
    ]  # fmt: skip
    if is_killed:
      begun = lambda: len(list(output.glob('_precomputed/partial-*'))) == 2  # noqa: E731
      wait_for(begun, processes)
      os.killpg(processes[1].pid, signal.SIGKILL)
      assert processes[0].wait(600) != 0  # It is told that the other is gone.
      found = finished(output)
      assert len(found) <= 2 and not (output / 'manifest.json').exists()
      continue
    while any(process.poll() is None for process in processes):
      assert_kept(found, output)
      time.sleep(0.01)
    assert [process.returncode for process in processes] == [0, 0]
  assert contents(output) == whole


def test_each_command_says_how_to_use_it(capsys):
  for name in ('ingest', 'curate', 'score', 'index', 'report', 'verify', 'peek', 'bench'):
    with pytest.raises(SystemExit, match='0'):
      commands.main([name, '--help'])
    assert '--dry_run' in capsys.readouterr().out
