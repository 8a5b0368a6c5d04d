"""What a topology's name stands for: slices, hosts, chips, devices and machine types.

  v5p-128       one slice of 128 cores = 64 chips on 16 hosts (v5e and v6e count chips)
  2xv5p-128     two of them, joined by the data centre network
  gpu-8         one machine of eight GPUs; 2xgpu-8 is two
  2xcpu-4       two processes of four CPU devices each

Chips per host and names are those of XPK's table and of Google's documentation, November 2026.
"""

import dataclasses
import math
import re
from collections.abc import Collection


@dataclasses.dataclass(frozen=True)
class Generation:
  """One kind of TPU."""

  accelerator: str  # gcloud's name, before the size.
  gke_accelerator: str  # GKE's label of nodes.
  runtime: str  # TPU VM image.
  cores_per_chip: int  # The size in a name counts cores.
  devices_per_chip: int  # As JAX counts them.
  grids: dict  # Size in the name -> chips in each direction.


GRIDS_2D = {
  1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16',
}  # fmt: skip
GRIDS_3D = {
  8: '2x2x1', 16: '2x2x2', 32: '2x2x4', 64: '2x4x4', 128: '4x4x4', 256: '4x4x8', 512: '4x8x8',
  1024: '8x8x8',
}  # fmt: skip
CHIPS_PER_HOST = 4
GENERATIONS = {
  'v5e': Generation(
    'v5litepod', 'tpu-v5-lite-podslice', 'v2-alpha-tpuv5-lite', 1, 1, GRIDS_2D
  ),
  'v5p': Generation(
    'v5p', 'tpu-v5p-slice', 'v2-alpha-tpuv5', 2, 1, GRIDS_3D
  ),
  'v6e': Generation(
    'v6e', 'tpu-v6e-slice', 'v2-alpha-tpuv6e', 1, 1, GRIDS_2D
  ),
  'tpu7x': Generation('tpu7x', 'tpu7x', 'v2-alpha-tpuv7', 2, 2, GRIDS_3D),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
  """Machines of a run."""

  name: str
  kind: str  # 'tpu', 'gpu' or 'cpu'.
  slices: int  # Joined by the data centre network; for gpu and cpu, hosts.
  hosts_per_slice: int
  chips_per_host: int
  devices_per_chip: int = 1
  generation: Generation | None = None
  grid: str = ''  # Chips of one slice, such as 4x4x8.

  @property
  def hosts(self) -> int:
    """Hosts of all slices."""
    return self.slices * self.hosts_per_slice

  @property
  def processes(self) -> int:
    """Processes of a run: one for each GPU, else one for each host."""
    return self.hosts * (self.chips_per_host if self.kind == 'gpu' else 1)

  @property
  def devices(self) -> int:
    """Devices that JAX sees in all."""
    return self.hosts * self.chips_per_host * self.devices_per_chip

  @property
  def generation_name(self) -> str:
    """Key of GENERATIONS."""
    return next(name for name, value in GENERATIONS.items() if value is self.generation)

  @property
  def chips(self) -> int:
    """Chips of all slices."""
    return self.hosts * self.chips_per_host

  @property
  def accelerator_type(self) -> str:
    """gcloud's name of one slice, such as v5litepod-256."""
    # pyrefly: ignore[missing-attribute] - every TPU has a generation.
    return f'{self.generation.accelerator}-{self.name.rpartition("-")[2]}'


def parse(name: str, kinds: Collection[str] = ('tpu', 'gpu', 'cpu')) -> Topology:
  """The Topology of a name.

  Args:
    name: as v5p-128 or 2xcpu-1.
    kinds: that the command takes; of what is unknown, it names these alone.

  Raises:
    ValueError: no such topology; the known ones are listed.
  """
  match = re.fullmatch(r'(?:([1-9]\d*)x)?([a-z]\w*)-([1-9]\d*)', name)
  slices, kind, size = match.groups() if match else (None, None, '0')
  slices, size = int(slices or 1), int(size)
  if kind in ('gpu', 'cpu'):
    return Topology(name, kind, slices, 1, size)
  generation = GENERATIONS.get(kind or '')
  if generation is None or size not in generation.grids:
    others = [f'{kind}-N' for kind in ('gpu', 'cpu') if kind in kinds]
    known = ', '.join(f'{kind}-{list(g.grids)}' for kind, g in GENERATIONS.items())
    raise ValueError(
      f'topology={name!r} is unknown; known: {", ".join([known, *others])}; 2x before it is two '
      f'slices{" or hosts" if others else ""}.'
    )
  grid = generation.grids[size]
  chips = math.prod(map(int, grid.split('x')))
  assert chips * generation.cores_per_chip == size
  return Topology(
    name,
    'tpu',
    slices,
    hosts_per_slice=max(1, chips // CHIPS_PER_HOST),
    chips_per_host=min(chips, CHIPS_PER_HOST),
    devices_per_chip=generation.devices_per_chip,
    generation=generation,
    grid=grid,
  )
