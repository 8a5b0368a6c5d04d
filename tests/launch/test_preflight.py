"""Machines are tried before a run: what works says so, and what does not is named."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.preflight import devices, kernels, report, storage
from i2vgen_jax.training import data
from tests import runs, tiny

MESH = mesh_lib.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})


def test_devices_links_and_memory_of_a_mesh_are_measured():
  lines = [*devices.inventory(MESH), devices.batch_lies_over_hosts(MESH), devices.memory_rate()]
  lines += devices.links(MESH)
  assert [line.name for line in lines[-6:]] == [
    f'{kind} over {axis}'
    for axis in ('data', 'fsdp', 'tensor')
    for kind in ('all-reduce', 'all-gather')
  ]
  assert not any(line.ok is False for line in lines), lines
  assert all(line.figure > 0 for line in lines[-7:])


def test_a_link_that_adds_wrongly_is_a_failure(monkeypatch):
  monkeypatch.setattr(jax.lax, 'psum', lambda x, axis: 2.5 * x)
  [line] = [line for line in devices.links(MESH) if line.name == 'all-reduce over data']
  assert line.ok is False and 'wrong sums' in line.text


def test_the_slowest_host_is_named_and_judged():
  line = report.against('x', [9e9, 2e9, 8e9], 10e9, 0.5, 'GB/s')
  assert line.ok is False and '2 GB/s on host 1' in line.text and '10 assumed' in line.text
  assert report.against('x', [9e9, 5e9], 10e9, 0.5, 'GB/s').ok
  assert report.against('x', [9e9], None, 0.5, 'GB/s').ok is None


def test_each_kernel_is_compared_with_its_gradients():
  lines = list(kernels.check())
  assert len(lines) == 3 and all(line.ok for line in lines), lines


@pytest.mark.parametrize(('wrong', 'ok'), [('output', False), ('gradient', False), ('none', True)])
def test_a_kernel_whose_output_or_gradient_is_wrong_is_seen(wrong, ok):
  @jax.custom_vjp
  def ours(q, k, v):
    return q * (1.1 if wrong == 'output' else 1.0) + k + v

  scale = 1.2 if wrong == 'gradient' else 1.0
  ours.defvjp(lambda *a: (ours(*a), None), lambda _, g: (g, scale * g, g))
  plain = lambda q, k, v: q + k + v  # noqa: E731
  assert (kernels.difference(ours, plain, ((2, 3),) * 3, jnp.float32) < 1e-4) == ok


def test_a_workdir_that_gives_back_other_bytes_is_a_failure(tmp_path, monkeypatch):
  folder = epath.Path(tmp_path)
  line, *rates = storage.workdir(folder, mib=1)
  assert line.ok and len(rates) == 2 and all(rate.figure > 0 for rate in rates)
  assert not list(tmp_path.iterdir())
  write = storage.storage_lib.write_bytes
  monkeypatch.setattr(storage.storage_lib, 'write_bytes', lambda p, data: write(p, data[:-1]))
  line, *_ = storage.workdir(folder, mib=1)
  assert line.ok is False and 'hosts 0 read other bytes' in line.text


def test_the_loader_is_measured(demo_corpus):
  config = tiny.get_config(str(demo_corpus))
  config.data.sandbox = False
  session = session_lib.build(config).on(mesh_lib.make_mesh(config.mesh))
  line = storage.loader(data.make_stream(session), None, secs=0.1)
  assert line.ok is None and line.figure > 0


def test_a_check_that_raises_is_a_line():
  def check():
    yield report.Line('a', True, '')
    raise OSError(28, 'No space left on device')

  [line] = report.guarded('workdir', check)
  assert line.ok is False and 'No space left' in line.text
  with pytest.raises(jax.errors.JaxRuntimeError):
    report.guarded('links', lambda: (_ for _ in ()).throw(jax.errors.JaxRuntimeError('halted')))


@pytest.mark.slow
def test_two_hosts_are_tried_killed_and_started_again(demo_corpus, tmp_path):
  """By the launcher, on CPU: one report of both, from before and after the kill."""
  done = subprocess.run(
    [
      sys.executable, '-m', 'launch', 'preflight', '--topology=2xcpu-1', '--go',
      f'--config=tests/tiny.py:{demo_corpus}', '--config.mesh.data=2', f'--workdir={tmp_path}/run',
      f'--logs={tmp_path}/logs', '--max_restarts=0',
    ],
    cwd=runs.ROOT, env=runs.environment(), capture_output=True, text=True, timeout=900,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr[-3000:]
  lines = json.loads((tmp_path / 'run' / 'preflight' / 'report.json').read_text())['lines']
  names = {line['name']: line['ok'] for line in lines}
  assert {'all-reduce over data', 'workdir', 'loader', 'attention of frames'} <= set(names)
  assert names['steps and save'] and names['kill and restore'] and False not in names.values()
  assert 'ended with 137' in done.stderr
  assert [path.name for path in (tmp_path / 'run' / 'preflight').iterdir()] == ['report.json']
  assert np.all([line in done.stdout for line in ('kill and restore', 'step ')])
