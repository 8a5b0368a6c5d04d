"""What is prepared for a GPU runs on a CPU at tiny sizes, and says what it does not run."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

from benchmarks import gpu

ROOT = pathlib.Path(__file__).parents[2]


def test_all_parts_run_and_what_does_not_is_said_in_words(tmp_path):
  done = subprocess.run(
    ['bash', 'benchmarks/gpu.sh', '--dry_run', f'--output={tmp_path}'],
    cwd=ROOT,
    env=os.environ | {'PYTHON': sys.executable, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / 'gpu.json').read_text())['rows']
  ours = [row for row in rows if row.get('side') == 'jax' or row.get('code') == 'xla']
  assert [row['part'] for row in ours] == ['attention', 'denoise', 'train']
  assert all(row['secs'] > 0 for row in ours)
  assert ours[-1]['flops'] > 0
  codes = {row['code']: row for row in rows if row['part'] == 'attention'}
  assert codes['xla']['chosen'] and not codes['cudnn']['chosen']
  assert 'failed' in codes['cudnn']  # There is none on a CPU.
  has_torch = importlib.util.find_spec('torch') and importlib.util.find_spec('diffusers')
  for row in rows:
    if row.get('side') == 'torch':
      assert 'secs' in row if has_torch else 'is not installed' in row['failed'], row
  assert done.stdout.count('| train | ') == 2


def test_a_batch_grows_while_it_fits_and_shrinks_until_it_does(monkeypatch):
  taken = []

  def run(command, minutes):
    options = dict(part.removeprefix('--').split('=') for part in command if '=' in part)
    batch, side = int(options['batch']), options['side']
    taken.append((side, batch))
    if batch > (16 if side == 'jax' else 2):
      return dict(failed='out of memory')
    return dict(secs=batch**0.9, first_secs=1.0, peak_gib=8.0 * batch, flops=10 * batch)

  monkeypatch.setattr(gpu, 'run', run)
  ours, theirs = gpu.train(lambda: 9.0, 139.0, dry=False)
  assert taken == [('jax', 4), ('jax', 8), ('torch_compile', 4), ('torch_compile', 2)]
  assert (ours['batch'], theirs['batch']) == (8, 2)  # Sixteen would take 128 of 139 GiB.


def test_flops_of_ours_are_those_of_both():
  row = dict(part='train', secs=1.0, peak_gib=1.0, first_secs=1.0)
  rows = [
    row | dict(side='jax', batch=4, flops=4e12),
    row | dict(side='torch_compile', batch=2, flops=None),
  ]
  lines = gpu.table(rows, peak=10e12).splitlines()
  assert '| 40.0% |' in lines[2] and '| 20.0% |' in lines[3]
  skipped = gpu.table([dict(part='denoise', side='torch_compile', failed='no torch')], None)
  assert 'not run: no torch' in skipped
