"""What one JAX device of each kind of TPU has.

Memory, its bandwidth and that of a chip's links (v5e: 400 GB/s over 4, v5p: 1,200 GB/s over 6, both
ways together), and which slices have joined ends, are by Google's documentation of v5e and v5p,
November 2026; network rates and host vCPUs of v6e and TPU7x, and vCPUs of v5e, have not been
checked against it. A TPU7x chip shows as two devices; its figures are halved here.
"""

import dataclasses
import importlib
import os
from collections.abc import Mapping, Sequence

import jax

from i2vgen_jax.parallel import flops
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology as topology_lib

# To a neighbour of the torus: "about 1 us" a hop, by "How To Scale Your Model" (Google, 2025).
HOP_SECS = 1e-6
# From slice to slice through both hosts. Assumed; we know of no published figure.
DCN_SECS = 50e-6
# Between the two devices of a TPU7x chip: six times a chip's link, which is twice a device's share.
LINKS_ON_CHIP = 12


@dataclasses.dataclass(frozen=True)
class Device:
  """Figures of one device."""

  kind: str  # device_kind of JAX.
  cores: int
  hbm_bytes: float  # What libtpu leaves to a program.
  hbm_bytes_per_sec: float
  ici_bytes_per_sec: float  # All links of the device, both ways together.
  links: int  # Of its chip: two in each dim of the torus.
  dcn_bytes_per_sec: float
  host_vcpus: int  # vCPUs of the host of four chips.
  kernel_rate: float  # Share of the peak that splash attention is taken to reach.

  @property
  def peak(self) -> float:
    """Dense bfloat16 FLOP/s."""
    return flops.PEAKS[self.kind]

  @property
  def clock(self) -> float:
    """Hz, of the peak and the 128x128 or 256x256 multipliers: 4 per v5e core, 8 per v5p chip."""
    multipliers, side = {'TPU v5 lite': (4, 128), 'TPU v5': (8, 128)}.get(self.kind, (4, 256))
    return self.peak / (2 * multipliers * side * side)

  @property
  def link_bytes_per_sec(self) -> float:
    """Of one link, one way."""
    return self.ici_bytes_per_sec / 2 / self.links

  def wraps(self, grid: Sequence[int]) -> tuple[bool, ...]:
    """Of each dim of a slice, whether the chips at its ends have a link: in three dims, of slices
    of whole cubes of 4x4x4; in two, of a dim of 16.

    Args:
      grid: chips in each dim.
    """
    if self.links == 6:
      return (all(size % 4 == 0 for size in grid),) * len(grid)
    return tuple(size == 16 for size in grid)


# Attention of head size 64 fills half of a 128-wide multiplier and a quarter of a 256-wide one at
# best; we assume 70 % of that, which is not measured.
DEVICES = {
  'v5e': Device('TPU v5 lite', 1, 15.75 * 2**30, 819e9, 400e9, 4, 25e9 / 8, 112, 0.35),
  'v5p': Device('TPU v5', 2, 95.0 * 2**30, 2765e9, 1200e9, 6, 50e9 / 8, 208, 0.35),
  'v6e': Device('TPU v6 lite', 1, 31.25 * 2**30, 1640e9, 800e9, 4, 100e9 / 8, 180, 0.175),
  'tpu7x': Device('TPU7x', 1, 96.0 * 2**30, 3690e9, 600e9, 6, 100e9 / 16, 224, 0.175),
}


def device(topology: topology_lib.Topology) -> Device:
  """The Device of a topology.

  Raises:
    ValueError: it is no TPU.
  """
  if topology.kind != 'tpu':
    raise ValueError(
      f'topology={topology.name!r}: plans are made for TPUs, such as v5p-128 or 2xv5e-256.'
    )
  return DEVICES[topology.generation_name]


def here(devices: Sequence[jax.Device]) -> topology_lib.Topology | None:
  """The topology that a process's TPUs are of, all devices of the run; None of other devices."""
  names = [name for name, device in DEVICES.items() if device.kind == devices[0].device_kind]
  if not names:
    return None
  generation = topology_lib.GENERATIONS[names[0]]
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  hosts = len({device.process_index for device in devices})
  chips = len(devices) // generation.devices_per_chip
  return topology_lib.Topology(
    f'{chips} chips of {names[0]}', 'tpu', slices, hosts // slices, chips // hosts,
    generation.devices_per_chip, generation,
  )  # fmt: skip


def described(topology: topology_lib.Topology) -> Sequence[jax.Device]:
  """Devices of a i2vgen_jax.parallel.topology.Topology, as libtpu describes them.

  Raises:
    ValueError: libtpu is not installed.
  """
  # Ask no TPU VM for metadata, and let several processes compile at once.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  from jax.experimental import topologies

  name = f'{topology.generation_name}:{topology.grid}'
  try:
    if 'TPU_LIBRARY_PATH' not in os.environ:
      importlib.import_module('libtpu')  # JAX asks once a process, and says less.
    described = topologies.get_topology_desc(
      platform='tpu', topology_name=name, num_slices=topology.slices
    )
  except Exception as error:
    raise ValueError(
      f'libtpu cannot describe {name} ({error}). Compiling needs it: pip install libtpu'
    ) from error
  return described.devices


def abstract_mesh(sizes: Mapping[str, int], device_of_mesh: Device) -> jax.sharding.AbstractMesh:
  """A mesh without real devices, for tracing and for the shapes of shards."""
  auto = (jax.sharding.AxisType.Auto,) * len(mesh_lib.AXES)
  named = jax.sharding.AbstractDevice(device_of_mesh.kind, device_of_mesh.cores, 'tpu')
  return jax.sharding.AbstractMesh(
    tuple(sizes.values()), tuple(sizes), axis_types=auto, abstract_device=named
  )
