"""Work on shards: the same bytes from any runner, after a kill, and in a bucket; bad media cannot
stop it."""

import concurrent.futures
import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from data_pipelines import __main__ as commands
from data_pipelines.corpus import jobs
from data_pipelines.ingest import command as ingest
from tests import corpora

ROOT = pathlib.Path(__file__).parents[3]


def contents(folder):
  """Bytes by name, of all files below a folder."""
  files = [file for file in pathlib.Path(folder).rglob('*') if file.is_file()]
  assert files, f'{folder} is empty'
  return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Three shards: 64, 64 and 22 videos, one of them damaged."""
  folder = corpora.write_folder(tmp_path_factory.mktemp('source') / 'in', 150)
  (folder / '100.mp4').write_bytes(b'')
  return folder


@pytest.fixture(scope='module')
def whole(folder, tmp_path_factory):
  """Its corpus, ingested in one process."""
  output = tmp_path_factory.mktemp('whole') / 'out'
  ingest.ingest(str(folder), str(output), num_processes=1)
  return contents(output)


def test_beam_processes_write_the_same_bytes_as_this_one(folder, whole, tmp_path):
  commands.main(['ingest', f'--input={folder}', f'--output={tmp_path}/out', '--num_processes=2'])
  assert contents(tmp_path / 'out') == whole
  commands.main(
    ['ingest', f'--input={folder}', f'--output={tmp_path}/flags', '--']
    + ['--runner=FnApiRunner', '--direct_running_mode=in_memory']
  )
  assert contents(tmp_path / 'flags') == whole


def test_a_killed_job_goes_on_with_the_same_bytes_and_redoes_no_finished_shard(
  folder, whole, tmp_path
):
  source, output = tmp_path / 'in', tmp_path / 'out'
  subprocess.run(['cp', '-r', folder, source], check=True)
  command = [sys.executable, '-m', 'data_pipelines', 'ingest', '--num_processes=1']
  command += [f'--input={source}', f'--output={output}']
  with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
    deadline = time.monotonic() + 60
    while not (output / '_parts/00000' / jobs.MARKER).exists():
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
  assert not (output / 'manifest.json').exists()
  done = [int(marker.parent.name) for marker in output.glob(f'_parts/*/{jobs.MARKER}')]
  for index in range(64 * len(done)):  # Damaged now, so whatever is read again would be rejected.
    file = source / f'{index:03d}.mp4'
    file.write_bytes(bytes(file.stat().st_size))
  subprocess.run(command, cwd=ROOT, check=True)
  assert done and len(done) < 3
  assert contents(output) == whole


def hang(item, folder):
  ctypes.PyDLL(None).sleep(600)  # It sees no signal and reads no pipe.


HANG = """
import sys
from etils import epath
from data_pipelines.corpus import jobs
from tests.data_pipelines.corpus import test_jobs
jobs.run(test_jobs.hang, range(2), epath.Path(sys.argv[1]), num_processes=2)
"""


def test_workers_of_beam_that_hang_end_with_a_command_that_is_killed(tmp_path):
  command = [sys.executable, '-c', HANG, str(tmp_path)]
  process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
  deadline = time.monotonic() + 120
  while len(list(tmp_path.glob('partial-*'))) < 2:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  workers = in_session(process.pid) - {process.pid}
  process.kill()
  process.wait()
  deadline = time.monotonic() + 5
  while (alive := in_session(process.pid)) and time.monotonic() < deadline:
    time.sleep(0.05)
  for pid in alive:
    os.kill(pid, signal.SIGKILL)
  assert len(workers) >= 2 and not alive


def in_session(leader):
  """Process ids of a session, but those that are dead."""
  found = set()
  for path in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      state, _, _, session = (path / 'stat').read_text().rpartition(')')[2].split()[:4]
    except OSError:
      continue
    if int(session) == leader and state not in 'ZX':
      found.add(int(path.name))
  return found


@pytest.mark.slow
def test_a_killed_curate_goes_on_with_the_same_bytes_and_redoes_no_finished_shard(folder, tmp_path):
  directory, whole = tmp_path / 'out', tmp_path / 'whole'
  ingest.ingest(str(folder), str(directory), validation_fraction=0.0, num_processes=1)
  shutil.copytree(directory, whole)
  flags = ['curate', '--min_short_side=16', '--min_duration=0.5', '--num_processes=1']
  commands.main([*flags, f'--corpus={whole}'])
  corpora.kill_and_run_again([*flags, f'--corpus={directory}'], directory / '_measured')
  assert contents(directory) == contents(whole)


def test_a_bucket_holds_the_same_bytes(folder, whole, tmp_path):
  for bucket in corpora.bucket():
    bucket.put(str(folder), '/held/in', recursive=True)
    for _ in range(2):  # The second run finds it done.
      commands.main(
        ['ingest', '--input=gs://held/in', '--output=gs://held/out', '--num_processes=1']
      )
    bucket.get('/held/out', str(tmp_path / 'got'), recursive=True)
  got = contents(tmp_path / 'got')
  assert got.keys() == whole.keys()
  for name in got.keys() - {'dataset_info.json', 'manifest.json'}:
    assert got[name] == whole[name], name
  assert json.loads(got['manifest.json']) == json.loads(whole['manifest.json'])


def test_a_dry_run_says_what_is_left_and_writes_nothing(folder, tmp_path, capsys):
  commands.main(['ingest', f'--input={folder}', f'--output={tmp_path}/out', '--dry_run'])
  assert 'Folder: 150 examples in 3 shards, 0 of them done' in capsys.readouterr().out
  assert not list(tmp_path.iterdir())


def test_a_runner_elsewhere_cannot_write_to_this_disk(folder, tmp_path):
  with corpora.ends_with_2('give an --output in a bucket'):
    commands.main(
      ['ingest', f'--input={folder}', f'--output={tmp_path}/out', '--']
      + ['--runner=DataflowRunner', '--project=p', '--temp_location=gs://held/tmp']
    )


def write_double(item, folder):
  (folder / 'double').write_text(str(2 * item))
  return dict(double=2 * item)


def test_hosts_share_the_items_and_the_first_waits_for_all(tmp_path):
  parts = epath.Path(tmp_path / 'parts')
  jobs.claim(parts, '')
  with concurrent.futures.ThreadPoolExecutor() as pool:
    first = pool.submit(jobs.run, write_double, range(5), parts, 1, host=(0, 2))
    while len(list(parts.glob(f'*/{jobs.MARKER}'))) < 3:
      assert not first.done()
    assert not (parts / '00001').exists() and not first.done()
    assert jobs.run(write_double, range(5), parts, 1, host=(1, 2)) == [
      dict(double=2),
      dict(double=6),
    ]
    assert first.result() == [dict(double=2 * item) for item in range(5)]
  assert (parts / '00003/double').read_text() == '6'


def test_a_part_that_is_being_written_is_not_done(tmp_path):
  parts = epath.Path(tmp_path / 'parts')
  jobs.claim(parts, '')
  (parts / 'partial-0').mkdir()
  (parts / 'partial-0' / jobs.MARKER).write_text('{}')
  assert jobs.run(write_double, range(2), parts, 1) == [dict(double=0), dict(double=2)]


def test_another_identity_drops_old_parts_and_the_same_keeps_them(tmp_path):
  parts = epath.Path(tmp_path / 'parts')
  jobs.claim(parts, 'a')
  (parts / '00000').mkdir()
  (parts / 'partial-killed').mkdir()
  jobs.claim(parts, 'a')
  assert (parts / '00000').exists() and not (parts / 'partial-killed').exists()
  jobs.claim(parts, 'b')
  assert not (parts / '00000').exists()


ENDS = """
import atexit, os, sys
from data_pipelines.corpus import jobs

class Torn:
  def __del__(self, abort=os.abort):
    abort()

torn = Torn()
atexit.register(print, 'left in order')

def command():
  print('all is done', end='', flush=False)
  {end}

jobs.end_with(command)
"""


@pytest.mark.parametrize(
  ('end', 'code', 'said'),
  [
    ('return', 0, ''),
    ('sys.exit()', 0, ''),
    ('sys.exit(2)', 2, ''),
    ('sys.exit("in words")', 1, 'in words\n'),
    ('1 / 0', 1, 'ZeroDivisionError: division by zero\n'),
  ],
)
def test_nothing_that_happens_while_python_goes_changes_a_commands_exit_code(end, code, said):
  run = [sys.executable, '-c', ENDS.format(end=end)]
  done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == code, done.stderr
  assert done.stdout == 'all is doneleft in order\n'
  assert done.stderr.endswith(said)
