"""Reads a compiled TPU program: what each op costs by XLA's own model.

XLA writes `estimated_cycles` beside most ops of a scheduled TPU program. Their sum, at the chip's
clock, is the estimate of a step: it knows tiles, padding and memory, but neither contention nor
Pallas kernels and collectives, which compiled.py adds (exchanges.py, links.py).
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

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
  for op in computations[entry]:
    yield op, 1
    yield from inside(op, computations)


def inside(op: Op, computations: Mapping[str, list[Op]], times: int = 1) -> Iterator[Any]:
  """Yields (Op, times) for all that an op calls, if it is a loop, a call or a branch.

  Args:
    op: of the program.
    computations: of the program.
    times: that the op runs.
  """
  if op.kind not in ('while', 'call', 'conditional', 'async-start'):
    return
  trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', op.text)
  times *= int(trips.group(1)) if trips else 1
  for callee in op.callees:
    for inner in computations[callee]:
      yield inner, times
      yield from inside(inner, computations, times)


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
