"""Where each tensor of the train state lies: first-match rules from paths to mesh axes.

The rules see paths such as `params/down_blocks_0/resnets_0/conv1/kernel`. Adam's moments and the
EMA end in the same names, so one table places the whole state. No model file knows of it.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from i2vgen_jax.parallel import mesh as mesh_lib

P = jax.sharding.PartitionSpec

# Two matmuls in a row split their shared inner dim over `tensor`: the first by output, the second
# by input, so that one all-reduce follows the pair. Everything with a kernel is also split over
# `fsdp`.
RULES = (
  (r'(to_q|to_k|to_v|proj)/kernel$', ('fsdp', 'tensor')),
  (r'(to_out_0|net_2)/kernel$', ('tensor', 'fsdp')),
  (r'conv1/kernel$', (None, None, 'fsdp', 'tensor')),
  (r'conv2/kernel$', (None, None, 'tensor', 'fsdp')),
  # Pixels and latents are too few inputs to split.
  (r'(patch_embedding|conv_in|conv_0|proj_in_0)/kernel$', (None, 'fsdp')),
  (r'/embedding$', (None, 'fsdp')),
  (r'kernel$', ('fsdp', None)),
)


def path_name(path: Sequence[Any]) -> str:
  """'params/down_blocks_0/conv1/kernel' of a jax tree path."""
  return '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path)


def by_path(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by `path_name`, in the tree's order."""
  return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def spec_for(
  name: str,
  shape: Sequence[int],
  mesh: mesh_lib.AnyMesh,
  min_elements: int,
  rules: Sequence[tuple[str, tuple[str | None, ...]]] = RULES,
) -> jax.sharding.PartitionSpec:
  """The PartitionSpec of one tensor.

  Args:
    name: path of the tensor.
    shape: sizes of its dims.
    mesh: the mesh, whose `shape` has the axis sizes.
    min_elements: smaller tensors stay whole on every device: gathering them costs more than
      keeping them. At full size 910 of 1,484 tensors hold 1 M of 1,413 M parameters below 65,536.
    rules: (pattern, axes) pairs.

  A rule's axes are for the last dims of the tensor: ('fsdp', 'tensor') fits a matrix, and the two
  last dims of a convolution.

  Raises:
    ValueError: the first matching rule names an axis twice, has more axes than the tensor has dims,
      or its axis does not divide a dim.
  """
  if math.prod(shape) < min_elements:
    return P()
  for pattern, axes in rules:
    if not re.search(pattern, name):
      continue
    used = [axis for axis in axes if axis is not None]
    if len(set(used)) < len(used) or len(axes) > len(shape):
      raise ValueError(f'sharding rule {pattern!r} -> {axes} does not fit {name} of shape {shape}.')
    spec = (None,) * (len(shape) - len(axes)) + tuple(axes)
    for dim, axis in zip(shape, spec, strict=True):
      if axis is not None and dim % mesh.shape[axis]:
        raise ValueError(
          f'{name} of shape {shape}: dim {dim} does not divide over mesh axis {axis}='
          f'{mesh.shape[axis]} (rule {pattern!r}). Choose a smaller {axis} axis.'
        )
    return P(*spec)
  return P()


def shard_tree(abstract_tree: Any, mesh: mesh_lib.AnyMesh, min_elements: int) -> Any:
  """NamedShardings for a tree of arrays or ShapeDtypeStructs; raises as `spec_for`.

  Args:
    abstract_tree: arrays or ShapeDtypeStructs.
    mesh: the mesh to place them on.
    min_elements: smaller tensors stay whole on every device.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: jax.sharding.NamedSharding(
      mesh, spec_for(path_name(path), leaf.shape, mesh, min_elements)
    ),
    abstract_tree,
  )


def with_shardings(abstract_tree: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs that say where they lie."""
  return jax.tree.map(
    lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
    abstract_tree,
    shardings,
  )
