"""Machines by name: how many ways to split the batch (slice x data x fsdp), the parameters (fsdp),
single videos where the batch leaves less than one for a device (context), and the matmuls (tensor).

The names are those of i2vgen_jax/parallel/topology.py; NxNAME is N slices of it, or N hosts of
GPUs, with the batch split between them. fsdp stays at 64 or below, for 320 channels are 64 x 5, and
at 16 where memory allows: small shards are costly (docs/performance.md). -1 takes whatever devices
are left.
"""

import re

MESHES = {
  'all': dict(data=-1, fsdp=1, tensor=1),  # Parameters whole on each device.
  'fsdp': dict(data=1, fsdp=-1, tensor=1),
  'cpu': dict(data=-1, fsdp=1, tensor=1),
  'cpu-8': dict(data=2, fsdp=2, tensor=2),  # Eight simulated devices: every axis is there.
  'gpu-1': dict(data=1, fsdp=1, tensor=1),
  'gpu-8': dict(data=1, fsdp=8, tensor=1),
  'v5e-16': dict(data=1, fsdp=16, tensor=1),
  'v5e-64': dict(data=4, fsdp=16, tensor=1),
  'v5e-256': dict(data=16, fsdp=16, tensor=1),
  'v5p-8': dict(data=1, fsdp=4, tensor=1),  # 4 chips: v5p names count two cores of each.
  'v5p-128': dict(data=16, fsdp=4, tensor=1),
  'v5p-1024': dict(data=64, fsdp=8, tensor=1),
  'v6e-8': dict(data=1, fsdp=8, tensor=1),
  'v6e-64': dict(data=4, fsdp=16, tensor=1),
  'v6e-256': dict(data=16, fsdp=16, tensor=1),
  'tpu7x-8': dict(data=1, fsdp=8, tensor=1),  # 4 chips of two devices each.
  'tpu7x-128': dict(data=8, fsdp=16, tensor=1),
}


def get(name, context=1):
  """Axis sizes of a machine, of whose data axis, or else fsdp, `context` is split off.

  Raises:
    ValueError: unknown name, or `context` divides neither.
  """
  match = re.fullmatch(r'(?:([1-9]\d*)x)?(.+)', name)
  slices, one = match.groups() if match else (None, name)
  if one not in MESHES:
    raise ValueError(f'mesh={name!r} is unknown; known: {", ".join(MESHES)}, and 2x before them.')
  sizes = dict(slice=int(slices or 1), context=context) | MESHES[one]
  if -1 in sizes.values():  # It takes what is left.
    return sizes
  axis = next((axis for axis in ('data', 'fsdp') if sizes[axis] % context == 0), None)
  if axis is None:
    raise ValueError(f'mesh={name!r} is {sizes}: context={context} divides neither data nor fsdp.')
  sizes[axis] //= context
  return sizes
