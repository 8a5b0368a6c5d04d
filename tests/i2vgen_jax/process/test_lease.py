"""One trainer per workdir."""

from data_pipelines.corpus import lease
from i2vgen_jax.process import exit_codes
from tests import runs


def test_the_second_trainer_ends_with_one_line_before_it_writes(own_run, demo_corpus):
  held = lease.Lease(own_run, print, 'trains there.')
  before = {path: path.stat().st_mtime_ns for path in own_run.rglob('*') if path.is_file()}
  done = runs.module(
    'i2vgen_jax.train', f'--config=tests/tiny.py:{demo_corpus}', f'--workdir={own_run}'
  )
  assert done.returncode == exit_codes.USAGE, done.stderr[-3000:]
  assert done.stderr.splitlines()[-1].startswith(f'error: {own_run} is in use: process')
  after = {path: path.stat().st_mtime_ns for path in own_run.rglob('*') if path.is_file()}
  changed = {path.name for path in after if before.get(path) != after[path]}
  assert changed <= {'lease.json', '.lease.json.lock'}  # Renewed meanwhile.
  held.release()
