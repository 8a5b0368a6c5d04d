"""XLA's `estimated_cycles` of its largest fusions, beside what their schedules say by the method by
which plans time kernels.

  python -m benchmarks.fusions [--topology=v5p-8] [--number=5]

Compiles a feed-forward of 320 channels, forward and backward, 4 videos of 16 frames of 448x256, by
libtpu, in a process in which it writes its schedules (0.4 GB, a minute of CPU time). A fusion is
one loop over the windows that XLA states, which both cores share where it says so; one with other
loops in it is left out. As of kernels, the bytes that it moves bound it too.
"""

import argparse
import json
import math
import os
import pathlib
import re
import sys
import tempfile

CHANNELS, SHAPE = 320, (4, 16, 32 * 56)


def compiled_program(topology):
  """hlo.Program of the feed-forward on one device of a topology."""
  import jax
  import jax.numpy as jnp

  from i2vgen_jax.models import attention
  from i2vgen_jax.parallel import mesh as mesh_lib
  from i2vgen_jax.plan import chips, hlo

  sizes = dict.fromkeys(('data', 'fsdp', 'tensor'), 1)
  mesh = mesh_lib.make_mesh(sizes, chips.described(topology)[:1])
  module = attention.FeedForward(dtype=jnp.bfloat16)
  x = jax.ShapeDtypeStruct((*SHAPE, CHANNELS), jnp.bfloat16)
  params = jax.eval_shape(module.init, jax.random.key(0), x)

  def both(params, x, dy):
    return jax.vjp(module.apply, params, x)[1](dy)

  whole = mesh_lib.replicated(mesh)
  placed = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), (params, x, x)
  )
  executable = jax.jit(mesh_lib.within(mesh, both)).lower(*placed).compile()
  return hlo.parse(executable.as_text())


def rows(program, folder, number, device):
  """For each of the largest fusions: its cycles by XLA and by its schedule.

  Args:
    program: hlo.Program.
    folder: of what libtpu wrote down.
    number: of fusions.
    device: chips.Device.
  """
  from i2vgen_jax.plan import bundles, hlo, modules

  found = []
  types = {op.name: op.type for ops in program[0].values() for op in ops}
  fusions = (op for op, _ in hlo.executed(program) if op.kind == 'fusion' and op.cycles)
  for op in sorted(fusions, key=lambda op: -op.cycles):
    bounds = re.search(r'"iteration_bounds":\[(.*?)\]', op.text)
    texts = [
      [
        path
        for path in folder.iterdir()
        if re.search(rf'-{re.escape(op.name)}-\d+-{name}', path.name)
      ]
      for name in ('final_bundles', 'final_hlo-static-per-bundle-utilization')
    ]
    if not bounds or not all(texts):
      continue
    steps = math.prod(int(bound) for bound in re.findall(r'\d+', bounds[1]))
    cores = device.cores if 'megacore_split_dim' in op.text else 1
    loops, capacity = bundles.read(*(paths[0].read_text(encoding='utf-8') for paths in texts))
    try:
      time = bundles.time(loops, capacity, math.ceil(steps / cores), ())
    except ValueError:
      continue
    memory = modules.moved_bytes(op, types) / device.hbm_bytes_per_sec * device.clock
    row = dict(fusion=op.name, module=op.path, xla=op.cycles, schedule=time.cycles, memory=memory)
    ratio = max(time.cycles, memory) / op.cycles
    found.append(row | dict(ratio=ratio, limit=time.limit, busy=time.busy))
    if len(found) == number:
      break
  return found


def main():
  """Entry point."""
  from i2vgen_jax.parallel import topology as topology_lib
  from i2vgen_jax.plan import chips

  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--topology', type=topology_lib.parse, default='v5p-8')
  parser.add_argument('--number', type=int, default=5)
  parser.add_argument('--folder', help='of schedules; default one that is deleted')
  options = parser.parse_args()
  if options.folder is None:
    with tempfile.TemporaryDirectory() as name:
      flags = f'--xla_jf_dump_to={name} --xla_jf_dump_llo_text=true'
      # libtpu reads its flags once, when it is loaded.
      os.environ['LIBTPU_INIT_ARGS'] = f'{os.environ.get("LIBTPU_INIT_ARGS", "")} {flags}'.strip()
      done = os.spawnv(
        os.P_WAIT,
        sys.executable,
        [sys.executable, '-m', 'benchmarks.fusions', *sys.argv[1:], f'--folder={name}'],
      )
    sys.exit(done)
  program = compiled_program(options.topology)
  device = chips.device(options.topology)
  print(json.dumps(rows(program, pathlib.Path(options.folder), options.number, device), indent=1))


if __name__ == '__main__':
  main()
