"""Compiles each kernel of a program alone, in a process in which libtpu writes down its schedule.

A kernel takes 3 to 12 seconds; the schedule of a whole step would take gigabytes.
"""

import dataclasses
import logging
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import export
from jax.extend import core as jax_core

from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology as topology_lib
from i2vgen_jax.plan import bundles, chips

LOOPS = 'loops'  # In a kernel's metadata (pallas_parts.trips).
_FILES = ('final_bundles', 'final_hlo-static-per-bundle-utilization')


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A Pallas kernel of a traced program.

  Attributes:
    name: of the kernel.
    shapes: of what it takes, such as 'bf16[4,16]'.
    call: the kernel, of arrays.
    arguments: of `call`, abstract.
    num_flops: that it states to compute.
    num_bytes: that it states to move.
    grid: steps, by dim.
    parallel: of each dim, whether the cores share it.
    trips: of its loops; None if it does not say.
  """

  name: str
  shapes: tuple[str, ...]
  call: Callable[..., Any] = dataclasses.field(compare=False)
  arguments: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(compare=False)
  num_flops: int
  num_bytes: int
  grid: tuple[int, ...]
  parallel: tuple[bool, ...]
  trips: tuple[float, ...] | None

  def steps(self, cores: int) -> int:
    """Of the grid, on the core that has most: libtpu deals out the parallel dims together."""
    shared = math.prod(n for n, mine in zip(self.grid, self.parallel, strict=True) if mine)
    return math.ceil(shared / cores) * (math.prod(self.grid) // shared)


def of_program(jaxpr: jax_core.Jaxpr) -> list[Kernel]:
  """The different kernels of a program and of all that it calls."""
  return list(dict.fromkeys(_walk(jaxpr)))


def _walk(jaxpr: jax_core.Jaxpr) -> Iterator[Kernel]:
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'pallas_call':
      yield _kernel(eqn)
      continue
    for value in eqn.params.values():
      for inner in value if isinstance(value, (tuple, list)) else [value]:
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from _walk(inner)


def _kernel(eqn: Any) -> Kernel:
  params, grid = eqn.params, eqn.params['grid_mapping'].grid
  semantics = getattr(params['compiler_params'], 'dimension_semantics', None)
  semantics = semantics or ('arbitrary',) * len(grid)
  stated = dict(params['metadata'] or {}).get(LOOPS)
  arguments = tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars)
  cost = params['cost_estimate']

  def call(*arrays):
    return eqn.primitive.bind(*arrays, **params)

  return Kernel(
    name=params['name'],
    shapes=tuple(shape_name(x) for x in arguments),
    call=call,
    arguments=arguments,
    num_flops=cost.flops if cost else 0,
    num_bytes=cost.bytes_accessed if cost else 0,
    grid=tuple(grid),
    parallel=tuple('parallel' in str(kind).lower() for kind in semantics),
    trips=None if stated is None else tuple(map(float, stated.split())),
  )


def shape_name(x: Any) -> str:
  """'bf16[4,16]', as HLO has it, of an array or its shape."""
  kind, bits = x.dtype.kind, x.dtype.itemsize * 8
  name = {'i': 's', 'u': 'u', 'b': 'pred'}.get(kind, 'bf' if 'bfloat' in x.dtype.name else 'f')
  return f'{name}{"" if kind == "b" else bits}[{",".join(map(str, x.shape))}]'


def times(
  kernels: Sequence[Kernel],
  topology: topology_lib.Topology,
  devices: Sequence[jax.Device],
  device: chips.Device,
) -> dict[Kernel, bundles.Time]:
  """What each kernel takes; those whose schedule cannot be had are logged and left out.

  Args:
    kernels: of `of_program`.
    topology: of the devices.
    devices: as libtpu describes them.
    device: what one of them has.
  """
  found = {}
  mesh = mesh_lib.make_mesh(dict.fromkeys(('data', 'fsdp', 'tensor'), 1), devices[:1])
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for number, kernel in enumerate(kernels):
      traced = jax.jit(mesh_lib.within(mesh, kernel.call))
      exported = export.export(traced, platforms=['tpu'])(*kernel.arguments)
      (folder / f'{number}.export').write_bytes(exported.serialize())
    _compile_elsewhere(folder, topology)
    for number, kernel in enumerate(kernels):
      try:
        found[kernel] = _time(folder / str(number), kernel, device)
      except (OSError, ValueError) as error:
        logging.warning('%s of %s: no schedule: %s', kernel.name, kernel.shapes, error)
  return found


def _time(folder: pathlib.Path, kernel: Kernel, device: chips.Device) -> bundles.Time:
  if kernel.trips is None:
    raise ValueError('the kernel does not state the trips of its loops')
  texts = [(folder / f'{name}.txt').read_text(encoding='utf-8') for name in _FILES]
  loops, capacity = bundles.read(*texts)
  return bundles.time(loops, capacity, kernel.steps(device.cores), kernel.trips)


def _compile_elsewhere(folder: pathlib.Path, topology: topology_lib.Topology) -> None:
  """Runs `write` in a process of its own: libtpu reads its flags once."""
  dump = folder / 'dump'
  dump.mkdir()
  flags = os.environ.get('LIBTPU_INIT_ARGS', '')
  flags += f' --xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true'
  code = 'import sys; from i2vgen_jax.plan import schedules; schedules.write(*sys.argv[1:])'
  command = [sys.executable, '-c', code, str(folder), topology.name]
  done = subprocess.run(
    command,
    env=os.environ | {'LIBTPU_INIT_ARGS': flags.strip(), 'JAX_PLATFORMS': 'cpu'},
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    logging.warning('kernels were not all compiled: %s', done.stderr[-2000:])


def write(name: str, topology: str) -> None:
  """What that process does: compiles each FOLDER/NUMBER.export, and moves the two files of it that
  bundles.py reads to FOLDER/NUMBER/.

  Args:
    name: of the folder.
    topology: to compile for, by name.
  """
  folder, devices = pathlib.Path(name), chips.described(topology_lib.parse(topology))
  mesh = mesh_lib.make_mesh(dict.fromkeys(('data', 'fsdp', 'tensor'), 1), devices[:1])
  for path in sorted(folder.glob('*.export')):
    exported = export.deserialize(bytearray(path.read_bytes()))
    placed = [
      jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=mesh_lib.replicated(mesh))
      for x in exported.in_avals
    ]
    jax.jit(exported.call).lower(*placed).compile()
    target = path.with_suffix('')
    target.mkdir()
    for kind in _FILES:
      # Of the largest: copies around the kernel have schedules too.
      written = [p for p in (folder / 'dump').iterdir() if re.search(rf'-\d+-{kind}\.txt$', p.name)]
      max(written, key=lambda p: p.stat().st_size).rename(target / f'{kind}.txt')
    for other in (folder / 'dump').iterdir():
      other.unlink()
