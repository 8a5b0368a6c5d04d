"""Parameter trees to named tensors in torch's layout, and back; every name accounted for.

A `name_of(path)` function (unet_names, vae_names, clip_names) says what a parameter is called in
diffusers or transformers; the layout follows from the parameter's own name and rank. No torch is
needed: safetensors reads and writes numpy.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

Params = Any  # A nested dict of arrays, as `module.init(...)['params']`.

# What Flax calls a parameter -> what torch calls it. 'bias' and raw parameters keep their names.
LEAF_NAMES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}

MAX_NAMES_SHOWN = 20


def torch_name(path: str) -> str:
  """Turns 'encoder/down_blocks_0/resnets_1/conv1/kernel' into torch's dotted name.

  `name_i` is entry i of a list: 'encoder.down_blocks.0.resnets.1.conv1.weight'.
  """
  *modules, leaf = path.split('/')
  modules = [re.sub(r'_(\d+)$', r'.\1', module) for module in modules]
  return '.'.join([*modules, LEAF_NAMES.get(leaf, leaf)])


def to_torch(params: Params, name_of: Callable[[str], str]) -> dict[str, np.ndarray]:
  """Returns the parameters as contiguous numpy arrays under torch's names and in torch's layout.

  Args:
    params: nested dict of arrays.
    name_of: parameter path, joined by '/', to tensor name.

  Raises:
    ValueError: two parameters get one name.
  """
  tensors = {}
  for path, value in _flatten(params).items():
    name = name_of(path)
    if name in tensors:
      raise ValueError(f'Two parameters are called {name!r}, one of them {path!r}: fix name_of.')
    tensors[name] = np.ascontiguousarray(_to_torch_layout(path, np.asarray(value)))
  return tensors


def from_torch(
  tensors: Mapping[str, np.ndarray], abstract_params: Params, name_of: Callable[[str], str]
) -> Params:
  """Returns parameters shaped and typed like `abstract_params`, as numpy arrays, from tensors.

  Args:
    tensors: under torch's names, in torch's layout.
    abstract_params: nested dict of anything with `shape` and `dtype`, as of `jax.eval_shape`.
    name_of: parameter path, joined by '/', to tensor name.

  Raises:
    ValueError: a tensor is missing, unexpected or of another shape; all of them are named.
  """
  wanted = _flatten(abstract_params)
  names = {path: name_of(path) for path in wanted}
  missing = sorted(set(names.values()) - set(tensors))
  unexpected = sorted(set(tensors) - set(names.values()))
  misshapen = []
  flat = {}
  for path, abstract in wanted.items():
    if names[path] not in tensors:
      continue
    value = _from_torch_layout(path, np.asarray(tensors[names[path]]))
    if value.shape != tuple(abstract.shape):
      expected = _to_torch_layout(path, np.broadcast_to(np.float32(0), abstract.shape)).shape
      misshapen.append(f'{names[path]}: {tensors[names[path]].shape}, model has {expected}')
    else:
      flat[path] = np.ascontiguousarray(value.astype(abstract.dtype, copy=False))
  _raise_unless_all_fit(missing, unexpected, misshapen)
  return _unflatten(flat)


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads all tensors of a file.

  Raises:
    ValueError: there is no such file, or it is cut short or not a safetensors file.
  """
  try:
    return safetensors.numpy.load_file(path)
  except FileNotFoundError as error:
    raise ValueError(f'No file {os.fspath(path)!r} to read tensors from.') from error
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{os.fspath(path)!r} is not a whole safetensors file ({error}): copy or download it again.'
    ) from error


def _to_torch_layout(path: str, value: np.ndarray) -> np.ndarray:
  """Kernels (*window, in, out) become (out, in, *window); all else stays."""
  if path.rsplit('/', 1)[-1] != 'kernel':
    return value
  return value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))


def _from_torch_layout(path: str, value: np.ndarray) -> np.ndarray:
  if path.rsplit('/', 1)[-1] != 'kernel' or value.ndim < 2:
    return value
  return value.transpose(*range(2, value.ndim), 1, 0)


def _raise_unless_all_fit(missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
  complaints = [
    f'{len(names)} {kind}:'
    + ''.join(f'\n  {name}' for name in names[:MAX_NAMES_SHOWN])
    + _rest(names)
    for kind, names in (('missing', missing), ('unexpected', unexpected), ('misshapen', misshapen))
    if names
  ]
  if complaints:
    raise ValueError(
      'The tensors are not those of this model; check that config and file belong together.\n'
      + '\n'.join(complaints)
    )


def _rest(names: list[str]) -> str:
  return f'\n  ... and {len(names) - MAX_NAMES_SHOWN} more' if len(names) > MAX_NAMES_SHOWN else ''


def _flatten(params: Params) -> dict[str, Any]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  return {'/'.join(key.key for key in path): leaf for path, leaf in leaves}


def _unflatten(flat: dict[str, Any]) -> Params:
  tree = {}
  for path, value in flat.items():
    *modules, leaf = path.split('/')
    node = tree
    for module in modules:
      node = node.setdefault(module, {})
    node[leaf] = value
  return tree
