"""Two processes save and restore together; what only one of them sees damaged, both pass over."""

import subprocess
import sys

import pytest

from launch import local
from tests import runs

pytestmark = pytest.mark.slow
PROCESS = """
import pathlib, shutil, sys
import jax, numpy as np
from absl import logging
from i2vgen_jax.stored import checkpoint
from i2vgen_jax.process import hosts
hosts.join()
mesh = jax.make_mesh((2,), ('fsdp',))
place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp'))
values = np.arange(200_000, dtype=np.float32).reshape(2, -1)
def state(step):
  return {'x': jax.make_array_from_callback(values.shape, place, lambda i: values[i] + step)}
root = pathlib.Path(sys.argv[1])
make = lambda: checkpoint.Checkpoints(root, every=1, keep_last=3, keep_every=0)
checkpoints = make()
for step in (1, 2, 3):
  checkpoints.save(step, state(step), {'step': step})
checkpoints.close()
hosts.meet('saved')
if hosts.is_lead():
  file = max((root / 'checkpoints/3/state/ocdbt.process_1/d').iterdir(),
             key=lambda path: path.stat().st_size)
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 4
  file.write_bytes(data if sys.argv[2] == 'flip' else data[: len(data) // 2])
hosts.meet('damaged')
checkpoints = make()
abstract = {'x': jax.ShapeDtypeStruct(values.shape, np.float32, sharding=place)}
step, restored, position = checkpoints.restore_newest(abstract)
for shard in restored['x'].addressable_shards:
  np.testing.assert_array_equal(shard.data, values[shard.index] + step)
checkpoints.save(3, restored, {'step': 3})
checkpoints.check_saved(3)
checkpoints.close()
print('restored', step, position['step'], checkpoint.steps(root / 'checkpoints'))
"""


@pytest.mark.parametrize('damage', ['flip', 'cut'])
def test_both_processes_take_the_older_step_when_the_part_of_one_is_damaged(tmp_path, damage):
  port = local.free_port()
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', PROCESS, str(tmp_path), damage],
      cwd=runs.ROOT,
      env=runs.environment()
      | {
        'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
        'JAX_COORDINATOR_BIND_ADDRESS': f'127.0.0.1:{port}',
        'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
        'JAX_NUM_PROCESSES': '2',
        'JAX_PROCESS_ID': str(index),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  for process in processes:
    printed, log = process.communicate(timeout=300)
    assert process.returncode == 0, log[-3000:]
    assert 'restored 2 2 ' in printed
    assert 'is damaged' in log
  assert len(list((tmp_path / 'damaged_checkpoints').glob('3_*.txt'))) == 1
