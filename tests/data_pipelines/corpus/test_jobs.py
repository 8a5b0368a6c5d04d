"""Work on shards: the same bytes from any runner, after a kill, and in a bucket; bad media cannot
stop it."""

import concurrent.futures
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
from data_pipelines.corpus import jobs, lease
from data_pipelines.ingest import command as ingest
from tests import corpora, shard_works

ROOT = pathlib.Path(__file__).parents[3]


def contents(folder):
  """Bytes by name, of all files below a folder but leases."""
  files = [file for file in pathlib.Path(folder).rglob('*') if file.is_file()]
  files = [file for file in files if lease.NAME not in file.name]
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


@pytest.mark.parametrize(
  'flags',
  [
    ['--num_processes=2'],
    ['--engine=beam', '--num_processes=2'],
    ['--', '--runner=FnApiRunner', '--direct_running_mode=in_memory'],
  ],
  ids=['local', 'beam', 'flags of beam'],
)
def test_processes_and_beam_write_the_same_bytes_as_this_process(folder, whole, tmp_path, flags):
  commands.main(['ingest', f'--input={folder}', f'--output={tmp_path}/out', *flags])
  assert contents(tmp_path / 'out') == whole


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


HANG = """
import signal, sys
from etils import epath
from data_pipelines.corpus import jobs, lease
from data_pipelines.engines import choice
from tests import shard_works
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background ignores it.
with jobs.claimed(parts := epath.Path(sys.argv[1]), ''):
  jobs.run(shard_works.hang, range(2), parts, 2, choice.engine_of(sys.argv[2]))
"""


@pytest.mark.parametrize('engine', ['local', 'beam'])
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_that_hang_end_with_a_command_that_is_stopped(tmp_path, engine, number):
  if engine == 'beam' and number != signal.SIGKILL:
    pytest.skip('Beam itself waits for its workers.')
  command = [sys.executable, '-c', HANG, str(tmp_path), engine]
  process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 120
  while len(list(tmp_path.glob('partial-*'))) < 2:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  workers = shard_works.below(process.pid)
  process.send_signal(number)
  process.wait(30)
  deadline = time.monotonic() + 5
  while (alive := workers & set(shard_works.parents())) and time.monotonic() < deadline:
    time.sleep(0.05)
  for pid in alive:
    os.kill(pid, signal.SIGKILL)
  assert len(workers) >= 2 and not alive


def test_the_shard_of_a_worker_that_is_killed_is_begun_again_and_no_other(tmp_path):
  command = [sys.executable, '-c', HANG, str(tmp_path), 'local']
  process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

  def begun(number):
    deadline = time.monotonic() + 120
    while len(found := shard_works.under_way(tmp_path)) < number:
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.01)
    return found

  try:
    [pid] = {pid for shard, pid, _ in begun(2) if shard == 0}
    assert pid in shard_works.below(process.pid)
    os.kill(pid, signal.SIGKILL)
    assert sorted(shard for shard, _, _ in begun(3)) == [0, 0, 1]
  finally:
    for pid in {process.pid} | shard_works.below(process.pid):
      os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_curate_goes_on_with_the_same_bytes_and_redoes_no_finished_shard(folder, tmp_path):
  directory, whole = tmp_path / 'out', tmp_path / 'whole'
  ingest.ingest(str(folder), str(directory), validation_fraction=0.0, num_processes=1)
  shutil.copytree(directory, whole)
  flags = ['curate', '--min_short_side=16', '--min_duration=0.5', '--num_processes=1']
  commands.main([*flags, f'--corpus={whole}'])
  corpora.kill_and_run_again([*flags, f'--corpus={directory}'], directory / '_measured')
  assert contents(directory) == contents(whole)


def test_a_bucket_holds_the_same_bytes(folder, whole, tmp_path, gs_bucket):
  gs_bucket.put(f'{folder}/', 'held/in/', recursive=True)
  for _ in range(2):  # The second run finds it done.
    commands.main(['ingest', '--input=gs://held/in', '--output=gs://held/out', '--num_processes=1'])
  gs_bucket.get('held/out', str(tmp_path / 'got'), recursive=True)
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


@pytest.fixture
def parts(tmp_path):
  """A folder for parts, held."""
  with jobs.claimed(epath.Path(tmp_path / 'parts'), ''):
    yield epath.Path(tmp_path / 'parts')


def test_hosts_share_the_items_and_the_first_waits_for_all(parts):
  with concurrent.futures.ThreadPoolExecutor() as pool:
    first = pool.submit(jobs.run, shard_works.double, range(5), parts, 1, host=(0, 2))
    while len(list(parts.glob(f'*/{jobs.MARKER}'))) < 3:
      assert not first.done()
    assert not (parts / '00001').exists() and not first.done()
    others = jobs.run(shard_works.double, range(5), parts, 1, host=(1, 2))
    assert [result['double'] for result in others] == [2, 6]
    assert [result['double'] for result in first.result()] == [0, 2, 4, 6, 8]
  assert (parts / '00003/double').read_text() == '6'


def test_a_part_that_is_being_written_is_not_done(parts):
  (parts / 'partial-0').mkdir()
  (parts / 'partial-0' / jobs.MARKER).write_text('{}')
  results = jobs.run(shard_works.double, range(2), parts, 1)
  assert [result['double'] for result in results] == [0, 2]


def test_another_identity_drops_old_parts_and_the_same_keeps_them(tmp_path):
  parts = epath.Path(tmp_path / 'parts')
  with jobs.claimed(parts, 'a'):
    (parts / '00000').mkdir()
    (parts / 'partial-killed').mkdir()
  with jobs.claimed(parts, 'a'):
    assert (parts / '00000').exists() and not (parts / 'partial-killed').exists()
  with jobs.claimed(parts, 'b', kept=False):
    assert not (parts / '00000').exists()
  assert not parts.exists()


def test_a_second_run_on_an_output_is_refused_whatever_its_input(folder, tmp_path):
  command = ['ingest', f'--input={folder}', f'--output={tmp_path}/out', '--num_processes=1']
  with jobs.claimed(epath.Path(tmp_path / 'out/_parts'), 'of another input'):
    (tmp_path / 'out/_parts/00000').mkdir()
    with corpora.ends_with_2('_parts is in use: process .* works on it. Wait for its end'):
      commands.main(command)
    assert (tmp_path / 'out/_parts/00000').exists()
  assert not (tmp_path / 'out/manifest.json').exists()
  commands.main(command)
  assert not (tmp_path / 'out/_parts').exists()


def test_a_machine_without_the_folder_says_so(tmp_path):
  with pytest.raises(ValueError, match='give a folder on a disk that all machines share'):
    jobs.run(shard_works.double, [1], epath.Path(tmp_path / 'elsewhere'), 1)


ENDS = """
import atexit, os, sys
from data_pipelines.corpus import jobs, lease

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
