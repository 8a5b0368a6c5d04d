"""Machines by name: how many ways to split the batch (data x fsdp), the parameters (fsdp) and the
matmuls (tensor).

fsdp stays at 64 or below: 320 channels are 64 x 5. -1 takes whatever devices are left.
"""

MESHES = {
  'all': dict(data=-1, fsdp=1, tensor=1),  # Parameters whole on each device.
  'fsdp': dict(data=1, fsdp=-1, tensor=1),
  'cpu8': dict(data=2, fsdp=2, tensor=2),  # Eight simulated devices.
  'v5e-16': dict(data=1, fsdp=16, tensor=1),
  'v5e-256': dict(data=4, fsdp=64, tensor=1),
  'v5p-128': dict(data=1, fsdp=64, tensor=1),  # 64 chips.
  'v6e-256': dict(data=4, fsdp=64, tensor=1),
}


def get(name):
  """Axis sizes of a machine.

  Raises:
    ValueError: unknown name.
  """
  if name not in MESHES:
    raise ValueError(f'mesh={name!r} is unknown; known: {", ".join(MESHES)}.')
  return dict(MESHES[name])
