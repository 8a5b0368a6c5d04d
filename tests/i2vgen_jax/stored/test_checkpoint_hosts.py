"""Two processes save and restore together; what only one of them sees damaged, both pass over, and
one that alone cannot write says so at once."""

import pytest

from i2vgen_jax.process import exit_codes
from tests import runs

pytestmark = pytest.mark.slow
SETUP = """
import pathlib, resource, shutil, signal, sys, threading, time
import jax, numpy as np
from absl import logging
from i2vgen_jax.stored import checkpoint
from i2vgen_jax.process import hosts
hosts.join()
mesh = jax.make_mesh((2,), ('fsdp',))
place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp'))
values = np.arange(int(sys.argv[3]), dtype=np.float32).reshape(2, -1)
def state(step):
  return {'x': jax.make_array_from_callback(values.shape, place, lambda i: values[i] + step)}
root = pathlib.Path(sys.argv[1])
make = lambda: checkpoint.Checkpoints(root, every=1, keep_last=3, keep_every=0)
checkpoints = make()
"""
DAMAGE = """
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
# The process of this number has no room for more than 0.5 MB in a file.
FULL = """
checkpoints.save(1, state(1), {'step': 1})
checkpoints._finish()
hosts.meet('saved')
threading.Thread(target=hosts.hear, args=(threading.Event(), print), daemon=True).start()
if jax.process_index() == int(sys.argv[2]):
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, resource.RLIM_INFINITY))
began = time.monotonic()
try:
  checkpoints.save(2, state(2), {'step': 2})
  while time.monotonic() - began < 100:
    checkpoints.due(3)
    time.sleep(0.1)
except checkpoint.SaveError as error:
  hosts.leave_pod(error)
"""


@pytest.mark.parametrize('damage', ['flip', 'cut'])
def test_both_processes_take_the_older_step_when_the_part_of_one_is_damaged(tmp_path, damage):
  for process in runs.pod(SETUP + DAMAGE, tmp_path, damage, 200_000):
    printed, log = process.communicate(timeout=300)
    assert process.returncode == 0, log[-3000:]
    assert 'restored 2 2 ' in printed
    assert 'is damaged' in log
  assert len(list((tmp_path / 'damaged_checkpoints').glob('3_*.txt'))) == 1


@pytest.mark.parametrize('host', [0, 1])
def test_one_that_alone_cannot_write_ends_the_run_at_once(tmp_path, host):
  """Orbax's own meeting of all processes would last twenty minutes."""
  processes = runs.pod(SETUP + FULL, tmp_path, host, 2_000_000)
  logs = [process.communicate(timeout=90)[1] for process in processes]
  assert [process.returncode for process in processes] == [exit_codes.STORAGE] * 2, logs
  assert 'Step 2 is not saved: ' in logs[host] and 'File too large' in logs[host]
  assert f'process {host} left with exit code {exit_codes.STORAGE}' in logs[1 - host]
