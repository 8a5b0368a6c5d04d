"""What a TPU kernel takes, read from the schedule that libtpu wrote for it.

XLA states no cycles for a Pallas kernel, but libtpu, told to by its flags (schedules.py), writes
the bundles of instructions that it will issue, and which units each of them uses. A loop's bundles
times its trips are cycles; where its matrix products need more, they count. This knows neither
stalls nor waits for memory: it is a lower bound on time, of the real schedule.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence

# Cycles for which a matrix product of a bundle holds one of its units.
PRODUCT_CYCLES = 16
_BUNDLE = re.compile(r'\s*(0x[0-9a-f]+|\d+)\s+(?:(\w\w)\s*)?:\s*(>*)\s*(\{\})?')
_COPIES = ('VLOAD', 'VLOAD:FILL', 'VSTORE', 'VSTORE:SPILL', 'SALU')


@dataclasses.dataclass(frozen=True)
class Loop:
  """A loop of a kernel, without the loops in it; the first of a kernel is the code around all.

  Attributes:
    outer: number of the loop that it is in; -1 of the first.
    bundles: that one trip issues.
    products: matrix products of one trip.
    used: slots of bundles that one trip fills, by unit.
  """

  outer: int
  bundles: int
  products: float
  used: dict[str, int]

  @property
  def is_copy(self) -> bool:
    """Whether it computes nothing: libtpu moves windows of odd shapes by such loops."""
    return not any(slots for unit, slots in self.used.items() if unit not in _COPIES)

  def cycles(self, units: int) -> float:
    """Of one trip.

    Args:
      units: for matrix products, of a core.
    """
    return max(self.bundles, self.products * PRODUCT_CYCLES / units)


@dataclasses.dataclass(frozen=True)
class Time:
  """What a kernel takes on one core.

  Attributes:
    cycles: of all of it.
    limit: the unit that is busy for most of them.
    busy: for what share of them it is.
    spills: share of the stores that put aside what does not fit the registers.
  """

  cycles: float
  limit: str
  busy: float
  spills: float


def read(bundles: str, utilization: str) -> tuple[list[Loop], dict[str, int]]:
  """(loops in their order, how often a bundle has each unit).

  Args:
    bundles: text of libtpu's `*-final_bundles.txt`.
    utilization: of its `*-final_hlo-static-per-bundle-utilization.txt`.
  Raises:
    ValueError: the texts are not of this form.
  """
  try:
    head, rows = utilization.split('== UTILIZATION:\n')
    names, counts = head.strip().splitlines()[-2:]
  except ValueError as error:
    raise ValueError('libtpu wrote no utilization of bundles, or in another form.') from error
  units = [name.strip() for name in names.split(',')]
  capacity = dict(zip(units, map(int, counts.split()), strict=True))
  used = [tuple(map(int, row.split())) for row in rows.strip().splitlines()]
  outer: list[int] = [-1]
  inside, products = _places(bundles, len(used), outer)
  sums = [[0] * len(units) for _ in outer]
  for loop, row in zip(inside, used, strict=True):
    sums[loop] = [a + b for a, b in zip(sums[loop], row, strict=True)]
  numbers = collections.Counter(inside)
  loops = [
    Loop(outer[i], numbers[i], products[i], dict(zip(units, sums[i], strict=True)))
    for i in range(len(outer))
  ]
  return loops, capacity


def _places(text: str, num_bundles: int, outer: list[int]) -> tuple[list[int], dict[int, float]]:
  """(number of the loop of each bundle, products by loop); `outer` grows by the loops."""
  inside: list[int] = []
  products: collections.defaultdict[int, float] = collections.defaultdict(float)
  latest = {0: 0}  # Loop by depth; the bundles of one may lie between those of another.
  current = 0
  for line in text.splitlines():
    if found := _BUNDLE.match(line):
      address, label, depth = int(found[1], 0), found[2], found[3].count('>')
      inside += [current] * (address - len(inside))
      if label == 'LB':
        outer.append(latest[depth - 1])
        latest[depth] = len(outer) - 1
      if not found[4]:  # An empty bundle has no mark.
        current = latest[depth]
    products[current] += line.count('vmatmul') - line.count('vmatmul.lmr') / 2
  return inside + [current] * (num_bundles - len(inside)), products


def time(
  loops: Sequence[Loop], capacity: dict[str, int], steps: float, trips: Sequence[float]
) -> Time:
  """What a kernel takes.

  Args:
    loops: of `read`; the second is that over the grid, if there is any.
    capacity: of `read`.
    steps: of the grid, on one core.
    trips: of each other loop that computes, in their order.
  Raises:
    ValueError: there are more loops or fewer than `trips` says.
  """
  computing = [i for i, loop in enumerate(loops) if i > 1 and not loop.is_copy]
  if len(computing) != len(trips):
    raise ValueError(f'the schedule has {len(computing)} loops, and the kernel states {trips}.')
  times = {0: 1.0, 1: float(steps)} | dict(zip(computing, trips, strict=True))
  total, weights = 0.0, []
  for i, loop in enumerate(loops):
    weight, around = times.get(i, 1.0), loop.outer
    while around > 0:
      weight *= times.get(around, 1.0)
      around = loops[around].outer
    weights.append(weight)
    total += weight * loop.cycles(capacity['MATMUL'])
  used = {
    unit: sum(w * loop.used[unit] for w, loop in zip(weights, loops, strict=True))
    for unit in capacity
  }
  shares = {unit: used[unit] / (total * capacity[unit]) for unit in capacity if ':' not in unit}
  products = sum(w * loop.products for w, loop in zip(weights, loops, strict=True))
  shares['MATMUL'] = products * PRODUCT_CYCLES / (total * capacity['MATMUL'])
  limit = max(shares, key=lambda unit: shares[unit])
  return Time(total, limit, shares[limit], used['VSTORE:SPILL'] / max(1, used['VSTORE']))
