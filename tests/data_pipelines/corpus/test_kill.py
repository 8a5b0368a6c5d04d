"""A command that is killed at each file that it puts in place, one after the other, ends with the
bytes of one that is not."""

import json
import pathlib
import subprocess
import sys

import pytest

from data_pipelines import __main__ as commands
from tests import corpora
from tests.data_pipelines.corpus.test_jobs import contents

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[3]
# Forks a child that runs a command, and kills itself with -9 when it is about to rename its n-th
# file, for n = 1, 2, ... until one comes to its end; prints that n. Forked, before there are
# threads, since importing everything takes longer than what is tested.
DRIVER = """
import itertools, os, signal, sys
from data_pipelines import __main__ as commands
from data_pipelines.curate import measure
from data_pipelines.corpus import sidecars
import duckdb, tensorflow_datasets
replace = os.replace
for count in itertools.count(1):
  pid = os.fork()
  if not pid:
    left = count
    def counted(*arguments, **options):
      global left
      left -= 1
      if not left:
        os.kill(os.getpid(), signal.SIGKILL)
      return replace(*arguments, **options)
    os.replace = counted
    commands.main(sys.argv[1:])
    os._exit(0)
  status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
  if status != -signal.SIGKILL:
    break
print('ended', count, status)
"""
COMMANDS = {
  'ingest': 'ingest --input={root}/in --output={root}/corpus --num_processes=1',
  'grow': 'ingest --input={root}/in --output={root}/corpus --num_processes=1',
  'curate': 'curate --corpus={root}/corpus --num_processes=1 --min_short_side=16 '
  '--min_duration=0.1 --keep_duplicates',
  'index': 'index --corpus={root}/corpus --output={root}/index --quantiles=2',
  'report': 'report --corpus={root}/corpus --index={root}/index --output={root}/report/page.html',
}

NUM_RENAMES = dict(
  ingest=5, grow=5, curate=4, index=6, report=1
)  # That a run is killed at, at least.


def arguments(name, root):
  return COMMANDS[name].format(root=root).split()


def comparable(root):
  """Bytes by name; of an index's manifest, without the paths and times that identify its input."""
  found = contents(root)
  if 'index/manifest.json' in found:
    found['index/manifest.json'] = json.loads(found['index/manifest.json']) | dict(identity='')
  return found


def test_killed_at_every_rename(tmp_path):
  roots = tmp_path / 'whole', tmp_path / 'killed'
  for root in roots:
    folder = corpora.write_folder(root / 'in', 66)
    (folder / '003.mp4').write_bytes(b'')
  for name in COMMANDS:
    if name == 'grow':  # Four more, and the damaged one is sound.
      for root in roots:
        corpora.write_folder(root / 'in', 70)
    commands.main(arguments(name, roots[0]))
    command = [sys.executable, '-c', DRIVER, *arguments(name, roots[1])]
    found = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    count, status = map(int, found.stdout.split()[-2:])
    assert status == 0 and count > NUM_RENAMES[name]
    assert comparable(roots[1]) == comparable(roots[0])
