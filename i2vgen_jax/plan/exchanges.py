"""What a compiled TPU program sends between devices, and how much of it the schedule hides.

A collective is hidden by what is scheduled between its start and its end, or by the products that
it is cut up among, and no further than their time goes: what hides one collective hides no other
over the same mesh axes. One that has neither start nor end waits, and all else with it.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from i2vgen_jax.plan import hlo

COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between devices.

  Attributes:
    kind: one of COLLECTIVES.
    axes: of the mesh, along which it goes.
    groups: numbers of devices that exchange with each other; of a permute, (from, to).
    bytes: input or output of one device, whichever is larger.
    times: that it runs.
    op: of the program; the first of those that it is fused with.
    others: names of the rest of these, which compute beside it.
  """

  kind: str
  axes: tuple[str, ...]
  groups: Groups
  bytes: int
  times: int
  op: hlo.Op
  others: tuple[str, ...] = ()


def collectives(program: hlo.Program, mesh_shape: Mapping[str, int]) -> list[Collective]:
  """All Collectives of a program.

  Args:
    program: what `hlo.parse` returns.
    mesh_shape: dict of axis sizes, in the mesh's order.
  """
  computations, _ = program
  types = {op.name: op.type for ops in computations.values() for op in ops}
  found: dict[Any, Collective] = {}
  within = set()  # Computations of asynchronous ops, which are read at their start.
  for op, times in hlo.executed(program):
    inside = None if op.name in within else _exchange(op, computations)
    if inside is None:
      continue
    kind, exchange = inside
    if op.kind == 'async-start':
      within |= {inner.name for callee in op.callees for inner in computations[callee]}
    if exchange.kind == 'send':  # Its first operand goes to the hosts, which meet over DCN.
      sent = hlo.type_bytes(types.get(exchange.operands[0], ''))
      found[op.name] = Collective(kind, ('slice',), (), sent, times, op)
      continue
    incoming = sum(hlo.type_bytes(types.get(name, '')) for name in exchange.operands)
    outgoing = exchange.bytes
    if exchange.kind.endswith('-start'):  # Its result is a tuple of operands and results.
      outgoing = max(0, exchange.bytes - incoming)
    # A collective that is cut into steps of a product is named by its start, each of these
    # products, and its end, all with one channel.
    channel = re.search(r'channel_id=(\d+)', exchange.text) if op.kind == 'fusion' else None
    key = ('fused', channel.group(1)) if channel else op.name
    if key in found:
      found[key] = dataclasses.replace(found[key], others=(*found[key].others, op.name))
      continue
    groups = device_groups(exchange.text, math.prod(mesh_shape.values()))
    axes = crossed_axes(groups, mesh_shape)
    found[key] = Collective(kind, axes, groups, max(incoming, outgoing), times, op)
  return list(found.values())


def _exchange(op: hlo.Op, computations: Mapping[str, list[hlo.Op]]) -> tuple[str, hlo.Op] | None:
  """(kind, the op that says between whom) if an op is a collective, or calls one."""
  kind = op.kind.removesuffix('-start')
  if kind in COLLECTIVES:
    return kind, op
  # A collective between slices is a send and a recv, which name what the runtime makes of them.
  between = re.search(r'_xla_megascale_transfer_type="(\w+)"', op.text)
  if kind == 'send' and between:
    return between.group(1).lower().replace('_', '-'), op
  if op.kind not in ('fusion', 'async-start'):
    return None
  for callee in op.callees:
    for inner in computations.get(callee, ()):
      inside = _exchange(inner, computations)
      if inside:
        scatters = 'all-reduce-scatter' in callee
        return ('reduce-scatter' if scatters else inside[0]), inside[1]
  return None


def exposed(
  program: hlo.Program,
  found: Sequence[Collective],
  secs: Sequence[float],
  work: Callable[[hlo.Op], float],
) -> list[float]:
  """Seconds of each collective, once, that no work hides.

  Args:
    program: the collectives'.
    found: by `collectives`.
    secs: of each of them alone.
    work: seconds of an op by itself, and of all that it calls.
  """
  left = list(secs)
  started = {each.op.name: i for i, each in enumerate(found) if not each.others}
  fused = {name: i for i, each in enumerate(found) for name in each.others}
  for ops in program[0].values():
    running: dict[str, int] = {}
    for op in ops:
      if op.kind.endswith('-done'):
        for name in op.operands:
          running.pop(name, None)
      elif op.name in started:
        if op.kind.endswith('-start') or op.kind == 'send':
          running[op.name] = started[op.name]
      else:
        first = [fused[op.name]] if op.name in fused else []
        _hide([*first, *running.values()], found, left, work(op))
  return left


def _hide(beside: Sequence[int], found: Sequence[Collective], left: list[float], secs: float):
  """Takes from `left` what work of so many seconds hides, the first that began first."""
  budget: dict[str, float] = collections.defaultdict(lambda: secs)
  for i in beside:
    spent = min([left[i], *(budget[axis] for axis in found[i].axes)])
    left[i] -= spent
    for axis in found[i].axes:
      budget[axis] -= spent


def by_kind_and_axis(
  found: Sequence[Collective], secs: Sequence[float], exposed_secs: Sequence[float]
) -> dict[str, dict[str, float]]:
  """Number, bytes and time of collectives, by kind, axes and network.

  Args:
    found: by `collectives`.
    secs: of each of them alone, once.
    exposed_secs: what of these nothing hides.
  """
  rows = collections.defaultdict(lambda: dict(number=0, gib=0.0, ms=0.0, exposed_ms=0.0))
  for each, alone, waits in zip(found, secs, exposed_secs, strict=True):
    network = 'DCN' if 'slice' in each.axes else 'ICI'
    row = rows[f'{each.kind} over {"+".join(each.axes) or "nothing"} ({network})']
    row['number'] += each.times
    row['gib'] += each.bytes * each.times / 2**30
    row['ms'] += alone * each.times * 1e3
    row['exposed_ms'] += waits * each.times * 1e3
  return dict(rows)


def all_to_alls(found: Sequence[Collective]) -> dict[str, float]:
  """MiB of all-to-alls by the module that each was made for; no mesh of ours asks for any."""
  rows: Any = collections.Counter()
  for each in found:
    if each.kind == 'all-to-all':
      rows[each.op.path] += each.bytes * each.times / 2**20
  return dict(rows.most_common())


def crossed_axes(groups: Groups, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
  """Names of the mesh axes along which the members of a group differ.

  XLA numbers devices as they lie in the mesh, row-major.
  """
  group = next((group for group in groups if len(set(group)) > 1), ())
  if not group:
    return ()
  coordinates = np.array(np.unravel_index(group, tuple(mesh_shape.values())))
  return tuple(
    name for name, row in zip(mesh_shape, coordinates, strict=True) if len(set(row.tolist())) > 1
  )


def device_groups(text: str, num_devices: int) -> Groups:
  """The groups of devices that an instruction's text names, in any of HLO's forms."""
  if pairs := re.search(r'source_target_pairs=\{(.*?)\}\}', text):
    found = re.findall(r'(\d+),(\d+)', pairs.group(1))
    return tuple((int(a), int(b)) for a, b in found if a != b)
  if named := re.search(r'replica_groups=mesh\[(.*?)\](?:, device_ids=\S+)? ?\{(.*?)\}', text):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named.group(1))}
    used = re.findall(r"'(\w+)'", named.group(2))
    order = [name for name in sizes if name not in used] + [name for name in sizes if name in used]
    numbers = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    numbers = numbers.transpose([list(sizes).index(name) for name in order])
    return _rows(numbers.reshape(-1, math.prod(sizes[name] for name in used)))
  if iota := re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text):
    parts: Any = (tuple(map(int, part.split(','))) if part else None for part in iota.groups())
    groups, shape, order = parts
    numbers = np.arange(math.prod(shape)).reshape(shape).transpose(order)
    return _rows(numbers.reshape(groups))
  if listed := re.search(r'replica_groups=\{(\{[\d,{} ]+\})\}', text):
    found = re.findall(r'\{([\d,]+)\}', listed.group(1))
    return tuple(tuple(int(number) for number in group.split(',')) for group in found)
  return (tuple(range(num_devices)),)  # `replica_groups={}`: all.


def _rows(numbers: np.ndarray) -> Groups:
  return tuple(map(tuple, numbers.tolist()))
