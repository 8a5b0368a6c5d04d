"""XLA's flags by named sets, each flag with its reason; a run chooses one by `compilation.profile`.

They are given to the compiler with the train step, not through the environment, so that a flag
that the compiler does not know is an error and the config says all. libtpu 0.0.52 accepts every
TPU flag here, XLA of jaxlib 0.10.2 every GPU flag. None has been timed on a chip: start from
'none', and keep what measures better.
"""

from collections.abc import Callable
from typing import Any

import jax

# Products are not cut into a loop of small ones around each transfer: our widths are too small.
_WHOLE_PRODUCTS = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': 1000000}
# A mesh with fsdp gathers weights and scatters gradients at every layer: both should run beside the
# products of the layers around them.
_OVERLAP = _WHOLE_PRODUCTS | {
  # Collectives become asynchronous, and the start of one may be fused with the products that it
  # runs beside.
  'xla_tpu_enable_async_collective_fusion': True,
  # A transfer may run beside several products, if one is shorter than it.
  'xla_tpu_enable_async_collective_fusion_multiple_steps': True,
  # Products go on while the core that computes them sends.
  'xla_tpu_overlap_compute_collective_tc': True,
  # Gathers of weights may start ahead of the layer that needs them.
  'xla_enable_async_all_gather': True,
  # Halos of convolutions, where the width of images is split.
  'xla_enable_async_collective_permute': True,
  # The scheduler tries again with less memory where its first schedule does not fit.
  'xla_latency_hiding_scheduler_rerun': 2,
}
# The same for gathers, which are most of them; libtpu refuses it on other chips.
_V5E = {'xla_tpu_enable_async_collective_fusion_fuse_all_gather': True}
# Between slices: one reduction of gradients per step, over the slow network.
_SLICES = {
  # Reductions of gradients wait for nothing but their gradient, and run beside the backward pass.
  'xla_tpu_enable_data_parallel_all_reduce_opt': True,
  # Do so for tensors of different sizes too, as ours are.
  'xla_tpu_data_parallel_opt_different_sized_ops': True,
}
# With unet.remat='offload', copies to and from the host's memory should run beside the layers.
_OFFLOAD = {
  # At most so many copies are under way at once.
  'xla_tpu_host_transfer_overlap_limit': 24,
  # The schedule counts what copies under way hold.
  'xla_tpu_enable_scheduler_memory_pressure_tracking': True,
  # Barriers of rematerialisation would hold the copies back.
  'xla_tpu_aggressive_opt_barrier_removal': 'ENABLED',
  # Early copies before short stalls: they are long.
  'xla_lhs_prioritize_async_depth_over_stall': 'ENABLED',
}
_GPU = {
  # Transfers run beside products, as on TPU.
  'xla_gpu_enable_latency_hiding_scheduler': True,
  # One transfer for several small tensors: NCCL's calls cost more than their bytes.
  'xla_gpu_all_gather_combine_threshold_bytes': 134217728,
  'xla_gpu_reduce_scatter_combine_threshold_bytes': 134217728,
}

PROFILES = {  # Name -> (platform, flags).
  'none': (None, {}),
  'tpu': ('tpu', _OVERLAP),
  'v5e': ('tpu', _OVERLAP | _V5E),
  'tpu_slices': ('tpu', _OVERLAP | _SLICES),
  'v5e_slices': ('tpu', _OVERLAP | _V5E | _SLICES),
  'tpu_offload': ('tpu', _OVERLAP | _OFFLOAD),
  'gpu': ('gpu', _GPU),
}


def options(name: str, platform: str, slices: int = 1) -> dict[str, Any]:
  """Flags of a profile, for `compile(compiler_options=...)`.

  Args:
    name: a key of PROFILES.
    platform: kind of the devices: 'tpu', 'gpu' or 'cpu'.
    slices: how many slices of TPUs. With several, the products of replicas.py stay whole in every
      profile: XLA would pass the kernels around device by device (3,430 transfers a step).

  Raises:
    ValueError: no such profile, or it is for other devices.
  """
  if name not in PROFILES:
    raise ValueError(f'compilation.profile={name!r} is unknown; known: {", ".join(PROFILES)}.')
  meant_for, flags = PROFILES[name]
  if meant_for not in (None, platform):
    raise ValueError(
      f'compilation.profile={name!r} is for {meant_for}, but the devices are {platform}: take '
      f"'none' or another of {', '.join(PROFILES)}."
    )
  return flags | (_WHOLE_PRODUCTS if platform == 'tpu' and slices > 1 else {})


def jit_once(function: Callable[..., Any], **arguments: Any) -> Callable[..., Any]:
  """jax.jit for what runs once: on CPU, optimising takes longer than it saves."""
  options = {'cpu': {'xla_backend_optimization_level': 0}}.get(jax.default_backend())
  return jax.jit(function, compiler_options=options, **arguments)
