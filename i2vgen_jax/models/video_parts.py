"""Videos split over the mesh axis `context`, where a device holds less than one.

A batch that divides over `context` too is split further. Otherwise each device holds some frames of
a video in layers that look at a frame, and some pixels of all frames in layers that look over
frames: between the two, devices exchange them, and norms over frames take the mean of all parts.
No layer sees a border between the pixels of two devices, and any height and width will do whose
product divides, level by level.

All of it is written out by `jax.shard_map`, within which XLA still splits the other axes. With
sharding constraints alone, XLA (jaxlib 0.10.2) mixes the two splits in the backward pass and
computes wrong gradients of kernels.

The mesh is the current one (parallel/mesh.py: within).
Dimension key: B batch, F frames, H W height and width, S = H*W, C channels.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

# Axes of parallel/mesh.py.
BATCH_AXES, AXIS, HEADS = ('slice', 'data', 'fsdp'), 'context', 'tensor'
P = jax.sharding.PartitionSpec


def split_videos(function: Callable[..., Any]) -> Callable[..., Any]:
  """The same function of whole batches; each device of `context` computes its part.

  Args:
    function: (params, video_BFHWC, *others) -> (B, F, ...), as UNet3D.apply; others have leading
      dim B, or are None.

  Raises:
    ValueError: when traced, if neither the batch nor the frames divide over `context`.
  """

  @functools.wraps(function)
  def of_whole_batch(params, video_BFHWC, *others):
    mesh = jax.sharding.get_abstract_mesh()
    parts = mesh.shape.get(AXIS, 1)
    if parts == 1:
      return function(params, video_BFHWC, *others)
    batch_size, num_frames = video_BFHWC.shape[:2]
    rows = tuple(axis for axis in (*BATCH_AXES, AXIS) if axis not in mesh.manual_axes)
    if batch_size % math.prod(mesh.shape[axis] for axis in rows) == 0:
      place = lambda x: jax.lax.with_sharding_constraint(x, P(rows))  # noqa: E731
      return function(params, *jax.tree.map(place, (video_BFHWC, *others)))
    if num_frames % parts:
      raise ValueError(
        f'{batch_size} videos of {num_frames} frames do not divide over mesh axis context={parts}.'
      )
    of_parts = jax.shard_map(
      function,
      in_specs=(P(), P(None, AXIS), *[P()] * len(others)),
      out_specs=P(None, AXIS),
      axis_names={AXIS},
      check_vma=False,
    )
    return of_parts(params, video_BFHWC, *others)

  return of_whole_batch


def num_parts() -> int:
  """How many parts the video is cut into; the code that asks sees one of them."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.shape[AXIS] if AXIS in mesh.manual_axes else 1


def pixels_apart(x_BFHWC: jax.Array) -> jax.Array:
  """Exchanges some frames of all pixels for some pixels, in one row, of all frames.

  Whole videos stay as they are.

  Raises:
    ValueError: pixels do not divide over `context`.
  """
  if num_parts() == 1:
    return x_BFHWC
  batch_size, frames, height, width, channels = x_BFHWC.shape
  if height * width % num_parts():
    raise ValueError(
      f'a level of {height} x {width} latent pixels does not divide over mesh axis context='
      f'{num_parts()}. Choose a smaller one, or other videos.'
    )
  row_BF1SC = x_BFHWC.reshape(batch_size, frames, 1, height * width, channels)
  return _exchange(row_BF1SC, split_axis=3, concat_axis=1)


def frames_apart(x_BFHWC: jax.Array, height: int, width: int) -> jax.Array:
  """The inverse of pixels_apart: some frames, of the whole height and width.

  Args:
    x_BFHWC: all frames of some pixels, in one row where the video is split.
    height: rows of the whole frame.
    width: columns of the whole frame.
  """
  if num_parts() == 1:
    return x_BFHWC
  x_BF1SC = _exchange(x_BFHWC, split_axis=1, concat_axis=3)
  return x_BF1SC.reshape(*x_BF1SC.shape[:2], height, width, x_BF1SC.shape[-1])


def _exchange(x_BF1SC: jax.Array, **axes: int) -> jax.Array:
  """Exchanges the rows that a device holds; XLA alone would first gather those of all devices."""
  exchange = functools.partial(jax.lax.all_to_all, axis_name=AXIS, tiled=True, **axes)
  return on_each_device(exchange, ('BF1SC',), num_heads=1)(x_BF1SC)


def own_part(x: jax.Array, dim: int) -> jax.Array:
  """This device's part along a dim of an array that every device has whole."""
  if num_parts() == 1:
    return x
  size = x.shape[dim] // num_parts()
  return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * size, size, dim)


def mean_of_parts(x: jax.Array) -> jax.Array:
  """The mean over all parts, of equal size."""
  return x if num_parts() == 1 else jax.lax.pmean(x, AXIS)


def on_each_device(
  function: Callable[..., jax.Array], dims: Sequence[str], num_heads: int
) -> Callable[..., jax.Array]:
  """The function applied to each device's part of the arrays, for what XLA cannot split itself.

  A dim stays whole if its axes do not divide it.

  Args:
    function: takes arrays; its result has the dims of the first.
    dims: a string of letters for each array: 'B' is split as the batch is, 'C' over tensor.
    num_heads: how many heads lie in C.
  """

  def mapped(*arrays):
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {name: size for name, size in mesh.shape.items() if name not in mesh.manual_axes}

    def dividing(axes, length):
      axes = tuple(axis for axis in axes if sizes.get(axis, 1) > 1)
      return axes if length % math.prod(sizes[axis] for axis in axes) == 0 else ()

    batch_size, rows = arrays[0].shape[0], (*BATCH_AXES, AXIS)
    axes = {
      'B': dividing(rows, batch_size) or dividing(BATCH_AXES, batch_size),
      'C': dividing((HEADS,), num_heads),
    }
    specs = tuple(P(*(axes.get(dim, ()) for dim in names)) for names in dims)
    return jax.shard_map(
      function, in_specs=specs, out_specs=specs[0], axis_names=set(sizes), check_vma=False
    )(*arrays)

  return mapped
