"""Damages checkpoints in all ways and restores them: no wrong number may come back.

  JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8 \
      python -m benchmarks.mutate_checkpoints --seeds=1,2 [--number=120]

Three steps are saved, sharded over the devices there are; the newest is damaged, sometimes the
second newest as well, and the run is restored, as one that starts again, on one device or on a mesh
of another shape. Right is that what comes back is a whole step as it was saved, with its position
in the data; that the newest step that was not touched is not passed over; and that the workdir
takes the next saves. 'silent' and 'lost' count what is not so.
"""

import argparse
import collections
import logging
import pathlib
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.stored import checkpoint

STEPS = (1, 2, 3)
# Of a file of the newest step, given its bytes and one of another step of the same name or kind.
FILE_KINDS: dict[str, Callable[[random.Random, bytes, bytes], bytes | None]] = {
  'remove': lambda draw, data, other: None,
  'empty': lambda draw, data, other: b'',
  'truncate': lambda draw, data, other: data[: draw.randrange(len(data))],
  'flip a bit': lambda draw, data, other: _flip(draw, data),
  'flip in the first 256': lambda draw, data, other: _flip(draw, data[:256]) + data[256:],
  'zero 64 bytes': lambda draw, data, other: _over(draw, data, bytes(64)),
  'insert bytes': lambda draw, data, other: _insert(draw, data),
  'delete bytes': lambda draw, data, other: _delete(draw, data),
  'repeat a block': lambda draw, data, other: _over(draw, data, data[: len(data) // 8]),
  'of another step': lambda draw, data, other: other,
  'block of another step': lambda draw, data, other: _over(draw, data, other[: len(other) // 2]),
}
FOLDER_KINDS = (
  'empty newer step', 'empty step', 'no state', 'no step metadata', 'swapped files',
  'state of another step', 'all of another step', 'renamed older step',
)  # fmt: skip


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seeds', default='1', help='comma-separated')
  parser.add_argument('--number', type=int, default=120, help='of mutations per seed')
  options = parser.parse_args()
  logging.disable(logging.CRITICAL)
  results = collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    source = save(pathlib.Path(folder) / 'source')
    for seed in map(int, options.seeds.split(',')):
      for kind, outcome in mutate(source, pathlib.Path(folder) / 'work', seed, options.number):
        results[kind, outcome] += 1
  for (kind, outcome), count in sorted(results.items()):
    print(f'{kind:24} {outcome:30} {count:4}')
  by_outcome = collections.Counter()
  for (_, outcome), count in results.items():
    by_outcome[outcome.split(':')[0]] += count
  print(sum(results.values()), 'mutations on', jax.device_count(), 'devices:', dict(by_outcome))
  return 1 if by_outcome['SILENT'] or by_outcome['LOST'] else 0


def save(workdir: pathlib.Path) -> pathlib.Path:
  """A workdir with STEPS."""
  checkpoints = checkpoint.Checkpoints(workdir, every=1, keep_last=len(STEPS), keep_every=0)
  for step in STEPS:
    state = jax.device_put(tree(step), _shardings(tree(step), {'data': 1, 'fsdp': -1, 'tensor': 1}))
    checkpoints.save(step, state, position(step))
  checkpoints.close()
  return workdir


def tree(step: int) -> dict[str, Any]:
  """A state like that of a run, of 0.5 MB, on the host."""
  draw = np.random.default_rng(step)
  shapes = {'conv': {'kernel': (3, 3, 16, 32), 'bias': (32,)}, 'to_q': {'kernel': (96, 128)}}
  params = jax.tree.map(
    lambda shape: draw.standard_normal(shape, np.float32),
    shapes,
    is_leaf=lambda x: type(x) is tuple,
  )
  return {
    'params': params,
    'ema_params': jax.tree.map(lambda x: np.float32(0.999) * x, params),
    'opt_state': {'mu': jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), 'nu': params},
    'step': np.int32(step),
    'seed': np.arange(2, dtype=np.uint32),
  }


def position(step: int) -> dict[str, Any]:
  """Of a step in the data."""
  return {'step': step, 'fingerprint': '5eed'}


def mutate(source: pathlib.Path, work: pathlib.Path, seed: int, number: int):
  """Yields (kind, outcome) of mutations drawn from the seed; they take turns by kind."""
  draw = random.Random(seed)
  kinds = [*FILE_KINDS, *FOLDER_KINDS]
  for index in range(number):
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    kind = kinds[(index + seed) % len(kinds)]
    steps = [3, 2] if draw.random() < 0.2 else [3]
    what = [damage(work / 'checkpoints', step, kind, draw) for step in steps]
    outcome = restore(work, good=steps[-1] - 1, on_one=draw.random() < 0.5)
    yield kind, outcome if outcome in ('harmless', 'fell back') else f'{outcome} {what}'


def damage(folder: pathlib.Path, step: int, kind: str, draw: random.Random) -> str:
  """Damages a step; says what was."""
  own, other = folder / str(step), folder / str(step - 1)
  if kind in FILE_KINDS:
    files = sorted(path for path in own.rglob('*') if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    # A third goes to the arrays, else every file has its turn, however small.
    file = largest if draw.random() < 0.33 else draw.choice(files)
    mutant = FILE_KINDS[kind](draw, file.read_bytes(), _counterpart(file, own, other).read_bytes())
    file.unlink() if mutant is None else file.write_bytes(mutant)
    return str(file.relative_to(folder))
  if kind == 'empty newer step':
    (folder / str(step + 1)).mkdir(exist_ok=True)
  elif kind == 'no state':
    shutil.rmtree(own / 'state')
  elif kind == 'no step metadata':
    (own / '_CHECKPOINT_METADATA').unlink()
  elif kind == 'swapped files':
    first, second = draw.sample(sorted(path for path in own.rglob('*') if path.is_file()), 2)
    before = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(before)
  elif kind == 'state of another step':
    shutil.rmtree(own / 'state')
    shutil.copytree(other / 'state', own / 'state')
  else:
    shutil.rmtree(own)
    if kind == 'empty step':
      own.mkdir()
    elif kind == 'all of another step':
      shutil.copytree(other, own)
    else:
      shutil.copytree(other, folder / str(step + 4))
  return str(step)


def restore(work: pathlib.Path, good: int, on_one: bool) -> str:
  """'harmless', 'fell back', or a fault.

  Args:
    work: the damaged workdir.
    good: the newest step that was not touched.
    on_one: whether to restore on one device, else on a mesh of all.
  """
  shape = {'data': 1, 'fsdp': 1, 'tensor': 1} if on_one else {'data': 1, 'fsdp': 1, 'tensor': -1}
  devices = jax.devices()[:1] if on_one else None
  shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree(1)))
  abstract = sharding.with_shardings(shapes, _shardings(shapes, shape, devices))
  try:
    checkpoints = checkpoint.Checkpoints(work, every=1, keep_last=3, keep_every=0)
    step, state, found = checkpoints.restore_newest(abstract)
    if state is None:
      return 'LOST: starts from scratch'
    expected = sharding.by_path(tree(step)) if step in STEPS else {}
    for name, leaf in sharding.by_path(state).items():
      if np.asarray(leaf).tobytes() != np.asarray(expected.get(name)).tobytes():
        return f'SILENT: step {step}, {name}'
    if found != position(step):
      return f'SILENT: position {found}'
    if step < good:
      return f'LOST: step {step} instead of {good}'
    for later in range(step + 1, 5):  # Over what lies there.
      checkpoints.save(later, state, position(later))
    checkpoints.check_saved(4)
    checkpoints.close()
  except Exception as error:  # Of any kind: a good step is there.
    return f'LOST: {type(error).__name__}: {str(error)[:200]}'
  return 'harmless' if step == 3 else 'fell back'


def _shardings(tree: Any, shape: dict[str, int], devices: list | None = None) -> Any:
  return sharding.shard_tree(tree, mesh_lib.make_mesh(shape, devices), min_elements=64)


def _counterpart(file: pathlib.Path, own: pathlib.Path, other: pathlib.Path) -> pathlib.Path:
  """The file of another step that has this one's part: names of data are random."""
  same = other / file.relative_to(own)
  return same if same.exists() else next((other / file.parent.relative_to(own)).iterdir())


def _flip(draw: random.Random, data: bytes) -> bytes:
  bit, mutant = draw.randrange(8 * len(data)), bytearray(data)
  mutant[bit // 8] ^= 1 << bit % 8
  return bytes(mutant)


def _over(draw: random.Random, data: bytes, block: bytes) -> bytes:
  at = draw.randrange(len(data))
  return (data[:at] + block + data[at + len(block) :])[: len(data)]


def _insert(draw: random.Random, data: bytes) -> bytes:
  at = draw.randrange(len(data) + 1)
  return data[:at] + draw.randbytes(draw.randrange(1, 64)) + data[at:]


def _delete(draw: random.Random, data: bytes) -> bytes:
  at = draw.randrange(len(data))
  return data[:at] + data[at + draw.randrange(1, 64) :]


if __name__ == '__main__':
  sys.exit(main())
