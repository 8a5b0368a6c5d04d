"""Reads a compiled TPU program: what each op costs by XLA's own model, and what it sends where.

XLA writes `estimated_cycles` beside most ops of a scheduled TPU program. Their sum, at the chip's
clock, is the estimate of a step: it knows tiles, padding and memory, but neither contention nor
Pallas kernels and collectives, which compiled.py adds.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
KERNEL = 'tpu_custom_call'  # Target of a Pallas kernel's custom call.
_ITEM_BYTES = {'pred': 1, 's4': 0.5, 'u4': 0.5, 'bf16': 2, 'c64': 8, 'c128': 16}
_OP = re.compile(r'\s*(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([\w-]+)\(')  # /*index=5*/ is in tuples.
_CALLEES = re.compile(r'(?:calls|body|condition|to_apply|branch_computations)=\{?(%[^,\s}]+)')


@dataclasses.dataclass(frozen=True)
class Op:
  """One instruction of a scheduled computation."""

  name: str
  kind: str  # HLO opcode.
  type: str  # Type of the result, with its layout.
  path: str  # The module and JAX primitive that it was made for.
  cycles: int  # Estimated by XLA; 0 where it says nothing.
  operands: tuple  # Names.
  callees: tuple  # Names of computations.
  text: str

  @property
  def bytes(self) -> int:
    """Bytes of the result; a tuple counts as the sum."""
    return type_bytes(self.type)


Program = tuple[dict[str, list[Op]], str]  # Ops by computation, and the entry's name.


def parse(text: str) -> Program:
  """({computation: [Op]}, name of the entry) of `compiled.as_text()`."""
  computations, current, entry = {}, None, None
  for line in text.splitlines():
    if line.endswith('{') and (line.startswith('%') or line.startswith('ENTRY')):
      name = line.removeprefix('ENTRY ').split(' ', 1)[0].lstrip('%')
      entry = name if line.startswith('ENTRY') else entry
      current = computations.setdefault(name, [])
    elif line == '}':
      current = None
    elif current is not None and _OP.match(line):
      current.append(line)
    elif current:
      current[-1] += line  # Attributes of kernels have line breaks.
  if entry is None:
    raise ValueError('no HLO module: there is no ENTRY computation in this text.')
  return {name: [_op(line) for line in lines] for name, lines in computations.items()}, entry


def _op(line: str) -> Op:
  match: Any = _OP.match(line)
  name, result, kind = match.groups()
  arguments = line[match.end() :].split(')', 1)[0]
  cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
  path = re.search(r'op_name="([^"]*)"', line)
  return Op(
    name=name,
    kind=kind,
    type=result,
    path=path.group(1) if path else '',
    cycles=int(cycles.group(1)) if cycles else 0,
    operands=tuple(re.findall(r'%([^\s,)]+)', arguments)),
    callees=tuple(callee.lstrip('%') for callee in _CALLEES.findall(line)),
    text=line,
  )


def executed(program: Program) -> Iterator[tuple[Op, int]]:
  """Yields (Op, times) for all that runs; a loop's body counts its trips, a fusion is one op."""
  computations, entry = program

  def walk(name: str, times: int) -> Iterator[tuple[Op, int]]:
    for op in computations[name]:
      yield op, times
      if op.kind in ('while', 'call', 'conditional', 'async-start'):
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', op.text)
        inner = times * int(trips.group(1)) if trips else times
        for callee in op.callees:
          yield from walk(callee, inner)

  yield from walk(entry, 1)


def type_bytes(text: str) -> int:
  """Bytes of 'bf16[4,16]{1,0}', or of a tuple of such."""
  total = 0
  for dtype, dims in re.findall(r'\b([a-z]\w*)\[([\d,]*)\]', text):
    digits = re.search(r'\d+', dtype)
    size = _ITEM_BYTES.get(dtype, int(digits.group()) / 8 if digits else 0)
    total += size * math.prod(int(dim) for dim in dims.split(',') if dim)
  return int(total)


def array_types(text: str) -> list[str]:
  """['f32[8]{0}', 'bf16[4,16]{1,0}'] of a tuple's type."""
  return re.findall(r'\b[a-z]\w*\[[\d,]*\](?:\{[^}]*\})?', text)


def dims(text: str) -> tuple[int, ...]:
  """(4, 16) of 'bf16[4,16]{1,0}'."""
  match: Any = re.search(r'\[([\d,]*)\]', text)
  return tuple(int(dim) for dim in match.group(1).split(',') if dim)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between devices."""

  kind: str  # One of COLLECTIVES.
  axes: tuple  # Mesh axes along which it goes.
  bytes: int  # Input or output of one device, whichever is larger.
  times: int
  overlaps: bool  # Other work is scheduled between its start and its end.
  op: Op


def collectives(program: Program, mesh_shape: Mapping[str, int]) -> list[Collective]:
  """All Collectives of a program.

  Args:
    program: what `parse` returns.
    mesh_shape: dict of axis sizes, in the mesh's order.
  """
  computations, _ = program
  types = {op.name: op.type for ops in computations.values() for op in ops}
  hidden = {op.name for ops in computations.values() for op in _overlapped(ops)}
  found: dict[Any, Collective] = {}
  for op, times in executed(program):
    inside = _exchange(op, computations)
    if inside is None:
      continue
    kind, exchange = inside
    if exchange.kind == 'send':  # Its first operand goes to the hosts, which meet over DCN.
      sent = type_bytes(types.get(exchange.operands[0], ''))
      found[op.name] = Collective(kind, ('slice',), sent, times, op.name in hidden, op)
      continue
    incoming = sum(type_bytes(types.get(name, '')) for name in exchange.operands)
    outgoing = exchange.bytes
    if exchange.kind.endswith('-start'):  # Its result is a tuple of operands and results.
      outgoing = max(0, exchange.bytes - incoming)
    # A collective that is cut into steps of a product is named by its start, each of these
    # products, and its end, all with one channel.
    channel = re.search(r'channel_id=(\d+)', exchange.text) if exchange is not op else None
    key = ('fused', channel.group(1)) if channel else op.name
    found[key] = Collective(
      kind=kind,
      axes=crossed_axes(exchange.text, mesh_shape),
      bytes=max(incoming, outgoing),
      times=times,
      overlaps=op.name in hidden or key in found,
      op=found[key].op if key in found else op,
    )
  return list(found.values())


def _exchange(op: Op, computations: Mapping[str, list[Op]]) -> tuple[str, Op] | None:
  """(kind, the op that says between whom) if an op is a collective or is fused with one."""
  kind = op.kind.removesuffix('-start')
  if kind in COLLECTIVES:
    return kind, op
  # A collective between slices is a send and a recv, which name what the runtime makes of them.
  between = re.search(r'_xla_megascale_transfer_type="(\w+)"', op.text)
  if kind == 'send' and between:
    return between.group(1).lower().replace('_', '-'), op
  if op.kind != 'fusion':
    return None
  for callee in op.callees:
    for inner in computations.get(callee, ()):
      inside = _exchange(inner, computations)
      if inside:
        scatters = 'all-reduce-scatter' in callee
        return ('reduce-scatter' if scatters else inside[0]), inside[1]
  return None


def _overlapped(ops: Iterable[Op]) -> Iterator[Op]:
  """Starts of asynchronous ops that other work is scheduled beside."""
  running: dict[str, tuple[Any, bool]] = {}
  for op in ops:
    if op.kind.endswith('-done') and op.kind != 'recv-done':
      for name in op.operands:
        start, busy = running.pop(name, (None, False))
        if busy:
          yield start
    elif op.cycles:
      running = {name: (start, True) for name, (start, _) in running.items()}
    if op.kind.endswith('-start') or op.kind == 'send':
      running[op.name] = (op, False)


def crossed_axes(text: str, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
  """Names of the mesh axes along which the members of a replica group differ.

  XLA numbers devices as they lie in the mesh, row-major.
  """
  group = _one_group(text, math.prod(mesh_shape.values()))
  if len(group) < 2:
    return ()
  coordinates = np.array(np.unravel_index(group, tuple(mesh_shape.values())))
  return tuple(
    name for name, row in zip(mesh_shape, coordinates, strict=True) if len(set(row.tolist())) > 1
  )


def _one_group(text: str, num_devices: int) -> list[int]:
  """Device numbers of one of the groups that an instruction's text names, in any of HLO's forms."""
  if pairs := re.search(r'source_target_pairs=\{(.*?)\}\}', text):
    for pair in re.findall(r'(\d+),(\d+)', pairs.group(1)):
      if pair[0] != pair[1]:
        return [int(number) for number in pair]
    return []
  if named := re.search(r'replica_groups=mesh\[(.*?)\](?:, device_ids=\S+)? ?\{(.*?)\}', text):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named.group(1))}
    used = re.findall(r"'(\w+)'", named.group(2))
    ranges = [range(size) if name in used else (0,) for name, size in sizes.items()]
    shape = tuple(sizes.values())
    return [int(np.ravel_multi_index(place, shape)) for place in itertools.product(*ranges)]
  if iota := re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text):
    parts: Any = (tuple(map(int, part.split(','))) if part else None for part in iota.groups())
    groups, shape, order = parts
    numbers = np.arange(math.prod(shape)).reshape(shape).transpose(order)
    return numbers.reshape(groups)[0].tolist()
  if listed := re.search(r'replica_groups=\{\{([\d,]+)\}', text):
    return [int(number) for number in listed.group(1).split(',')]
  return list(range(num_devices))  # `replica_groups={}`: all.
