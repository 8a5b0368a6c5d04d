"""What a collective takes alone, by the links that its devices have between them.

Within a slice these are the links of the torus dims that a group of devices covers. Where it covers
a dim whose ends are joined, a device receives from both sides, which are two links; else those at
the ends have one. Between slices, each device has its share of its host's network. With n devices,
a gather brings (n - 1)/n of its result to each; a reduction to all is a scatter and a gather. No
collective is faster than this, but for one that starts while another holds its links: exchanges.py.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np

from i2vgen_jax.plan import chips

# Collectives that move their bytes twice: reduce and gather.
TWICE = ('all-reduce',)


@dataclasses.dataclass(frozen=True)
class Span:
  """What a group of devices covers of one dim of the torus.

  Attributes:
    size: devices along it.
    stride: from one to the next; other groups have those between, and share the links.
    is_ring: it covers all of a dim whose ends are joined.
  """

  size: int
  stride: int
  is_ring: bool

  @property
  def links(self) -> float:
    """Links into the device that has fewest, less what other groups take of them."""
    return (2 if self.is_ring else 1) / self.stride

  @property
  def hops(self) -> int:
    """From the farthest device."""
    return self.stride * (self.size // 2 if self.is_ring else self.size - 1)

  @property
  def crossing(self) -> float:
    """What an all-to-all sends through the busiest link, as a share of a device's bytes."""
    n = self.size
    if self.is_ring:
      return self.stride * sum(min(k, n - k) for k in range(n)) / n / 2
    return self.stride * (n // 2) * (n - n // 2) / n


@dataclasses.dataclass(frozen=True)
class Network:
  """Where the devices of a mesh lie.

  Attributes:
    device: what one of them has.
    places: coordinates in the slice of each device, in the mesh's order.
    grid: chips of a slice in each dim.
    slices: how many there are.
  """

  device: chips.Device
  places: tuple[tuple[int, ...], ...]
  grid: tuple[int, ...]
  slices: int

  def secs(
    self, kind: str, axes: Sequence[str], groups: tuple[tuple[int, ...], ...], num_bytes: float
  ) -> float:
    """Of one collective.

    Args:
      kind: one of exchanges.COLLECTIVES.
      axes: of the mesh, along which it goes.
      groups: numbers of devices that exchange with each other; of a permute, (from, to).
      num_bytes: input or output of one device, whichever is larger.
    """
    twice = 2 if kind in TWICE else 1
    if 'slice' in axes:
      moved = twice * num_bytes * (self.slices - 1) / self.slices
      return chips.DCN_SECS + moved / self.device.dcn_bytes_per_sec
    hops, share = self._on_torus(kind, groups)
    return twice * (hops * chips.HOP_SECS + share * num_bytes / self.device.link_bytes_per_sec)

  @functools.cache  # noqa: B019 - a network lives as long as a plan.
  def _on_torus(self, kind: str, groups: tuple[tuple[int, ...], ...]) -> tuple[float, float]:
    """(hops, share of the bytes that goes through the busiest link), the most of all groups."""
    if kind == 'collective-permute':
      return self._of_permute(groups)
    found = [self._of_group(kind, group) for group in groups if len(group) > 1]
    return max(found, key=lambda row: row[1], default=(0, 0))

  def _of_group(self, kind: str, group: tuple[int, ...]) -> tuple[float, float]:
    n, spans = len(group), self.spans(group)
    hops = sum(span.hops for span in spans) or 1
    if kind == 'all-to-all' and spans:
      return hops, _crowd(n, spans) * max(span.crossing for span in spans)
    return hops, (n - 1) / n / self.links(group)

  def links(self, group: Sequence[int]) -> float:
    """Links over which each device of a group receives, the others' share taken off.

    Args:
      group: numbers of its devices.
    """
    spans = self.spans(group)
    if not spans:
      return chips.LINKS_ON_CHIP
    return sum(span.links for span in spans) / _crowd(len(group), spans)

  def _of_permute(self, pairs: tuple[tuple[int, ...], ...]) -> tuple[float, float]:
    """As `_on_torus`, with each transfer going dim by dim, the shorter way round."""
    loads, hops = collections.Counter(), 0
    for source, target in pairs:
      place, steps = list(self.places[source]), 0
      for dim, goal in enumerate(self.places[target]):
        size = self.grid[dim]
        while place[dim] != goal:
          ahead = goal > place[dim]
          if self.wraps[dim] and abs(goal - place[dim]) > size / 2:
            ahead = not ahead
          loads[*place, dim, ahead] += 1
          place[dim] = (place[dim] + (1 if ahead else -1)) % size
          steps += 1
      hops = max(hops, steps)
    return hops, max(loads.values(), default=0)

  @property
  def wraps(self) -> tuple[bool, ...]:
    """Of each dim of the torus, whether its ends are joined."""
    return self.device.wraps(self.grid)

  def spans(self, group: Sequence[int]) -> list[Span]:
    """What a group of devices covers of each dim in which they differ.

    Args:
      group: their numbers.
    """
    spans = []
    places = np.array([self.places[number] for number in group]).T
    for row, size, wraps in zip(places, self.grid, self.wraps, strict=True):
      along = np.unique(row)
      if len(along) > 1:
        stride = int(np.diff(along).min())
        spans.append(Span(len(along), stride, wraps and len(along) * stride == size))
    return spans


def _crowd(size: int, spans: Sequence[Span]) -> float:
  """How many groups of this size share the links of the box around one; the devices of one chip
  receive once for both, and count as half a group."""
  return math.prod(span.size for span in spans) / size


def along(mesh: jax.sharding.Mesh, axis: str) -> tuple[int, ...]:
  """Numbers of the first devices that differ in one axis alone.

  Args:
    mesh: of the devices.
    axis: of the mesh.
  """
  numbers = np.arange(mesh.size).reshape(mesh.devices.shape)
  rows = np.moveaxis(numbers, mesh.axis_names.index(axis), -1)
  return tuple(rows.reshape(-1, mesh.shape[axis])[0].tolist())


def of_mesh(mesh: jax.sharding.Mesh, device: chips.Device) -> Network:
  """The Network of a mesh of TPUs, described ones too.

  Args:
    mesh: of the devices.
    device: what one of them has.
  """
  places = [tuple(each.coords) for each in mesh.devices.flat]
  grid = tuple(int(most) + 1 for most in np.max(places, axis=0))
  return Network(device, tuple(places), grid, mesh.shape['slice'])
