"""Checkpoint files as names of tensors that are read one by one.

Safetensors come first and need nothing. torch's own files (.bin, .pth, .pt, .ckpt) are pickles:
they go through `torch.load(weights_only=True)` alone, which runs no code, and torch is imported
only then.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import numpy as np
import safetensors
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax.process import paths

# Files in a folder of diffusers, transformers or open_clip, most wanted first.
STEMS = ('diffusion_pytorch_model', 'model', 'open_clip_model')
TORCH_STEMS = ('diffusion_pytorch_model', 'pytorch_model', 'open_clip_pytorch_model')
VARIANTS = ('', '.fp16')
TORCH_SUFFIXES = ('.bin', '.pth', '.pt', '.ckpt')
# VGen's trainer keeps tensor i of the averaged weights on rank i modulo the number of ranks, and
# writes a file per rank [tools/train/train_t2v_enterance.py].
EMA_SHARD = re.compile(r'(ema_\d+_rank)(\d+)\.pth$')
SHARD = re.compile(r'\w[\w.+-]{0,200}')  # Its name, in an index.
# What a safetensors file may hold: others would need their scales, or are no weights.
TYPES = re.compile(r'BF16|F16|F32|F64|[IU]\d+|BOOL')
# Memory-mapped pages count as memory in use until the map is closed.
MAX_MAPPED_BYTES = 2**28
Folder = TypeVar('Folder', pathlib.Path, epath.Path)  # On a disk, or in a bucket.


@dataclasses.dataclass(frozen=True)
class StoredTensor:
  """A tensor in a file: np.asarray reads it."""

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return self.read()


def open_checkpoint(path: str | os.PathLike[str]) -> dict[str, StoredTensor]:
  """Name -> StoredTensor of a file, of its shards, or of a folder with one network.

  Args:
    path: a file; a '.index.json' of shards; one of VGen's EMA shards, which stands for all; or a
      folder of diffusers, transformers or open_clip, in full precision if it has that.

  Raises:
    ValueError: nothing there to read, cut short, of no known kind, or a tensor is there twice.
  """
  tensors = {}
  for file in list_files(pathlib.Path(path)):
    opened = _open_torch(file) if file.suffix in TORCH_SUFFIXES else _open_safetensors(file)
    twice = sorted(set(tensors) & set(opened))
    if twice:
      raise ValueError(f'{file} repeats {twice[0]} of another shard: they are not of one set.')
    tensors |= opened
  return tensors


@contextlib.contextmanager
def fetched(path: str | os.PathLike[str]) -> Generator[pathlib.Path, None, None]:
  """What `open_checkpoint` takes, as a local file or folder; from a bucket it is copied.

  Raises:
    ValueError: as `list_files`.
  """
  given = epath.Path(path)
  if storage.is_local(path):
    yield pathlib.Path(path)
    return
  files = list_files(given)
  folder = given if given.is_dir() else given.parent
  # A config and an index of shards lie beside them.
  with storage.fetched(files[0], *files, *folder.glob('*.json')) as local:
    yield local.parent if given.is_dir() else local.parent / given.name


def list_files(path: Folder) -> list[Folder]:
  """The files that hold one network; raises ValueError if there are none or some are missing."""
  if path.is_dir():
    path = _find_in_folder(path)
  if not path.exists():
    raise ValueError(f'No file {str(path)!r} to read tensors from.')
  if path.name.endswith('.json'):
    return _list_indexed(path)
  if match := EMA_SHARD.search(path.name):
    return _list_ema_shards(path, match[1])
  if path.suffix not in ('.safetensors', *TORCH_SUFFIXES):
    raise ValueError(f'{str(path)!r} is neither .safetensors nor {", ".join(TORCH_SUFFIXES)}.')
  return [path]


def check_files(flag: str, path: str) -> None:
  """Raises ValueError, with the flag or field, if there are no files to read a network from."""
  try:
    list_files(paths.find(path))
  except ValueError as error:
    raise ValueError(f'{flag}={path}: {error}{paths.hub_hint(path)}') from error


def _find_in_folder(folder: Folder) -> Folder:
  for stems, suffix in ((STEMS, 'safetensors'), (TORCH_STEMS, 'bin')):
    for variant in VARIANTS:
      for stem in stems:
        for name in (f'{stem}{variant}.{suffix}', f'{stem}.{suffix}.index{variant}.json'):
          if (folder / name).exists():
            return folder / name
  raise ValueError(
    f'{str(folder)!r} has no weights: looked for {", ".join(STEMS)} (.safetensors) and '
    f'{", ".join(TORCH_STEMS)} (.bin), whole or in shards, also as .fp16. Name a file instead.'
  )


def _list_indexed(index: Folder) -> list[Folder]:
  try:
    found = json.loads(index.read_text())['weight_map'].values()
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise ValueError(f'{str(index)!r} is not a whole index of shards: copy it again.') from error
  odd = [name for name in found if not isinstance(name, str) or not SHARD.fullmatch(name)]
  if odd:
    raise ValueError(f'{str(index)!r} names {odd[0]!r}: shards are files beside the index.')
  names = sorted(set(found))
  absent = [name for name in names if not (index.parent / name).exists()]
  if absent:
    raise ValueError(f'{str(index)!r} names shards that are not there: {", ".join(absent)}.')
  return [index.parent / name for name in names]


def _list_ema_shards(path: Folder, prefix: str) -> list[Folder]:
  shards = sorted(path.parent.glob(f'{prefix}*.pth'))
  # pyrefly: ignore[unsupported-operation] - the glob is that of the pattern.
  ranks = {int(EMA_SHARD.search(shard.name)[2]) for shard in shards}
  absent = sorted(set(range(max(ranks) + 1)) - ranks)
  if absent:
    raise ValueError(f'{str(path)!r}: the shards of ranks {absent} are not beside it.')
  return shards


def _open_safetensors(path: pathlib.Path) -> dict[str, StoredTensor]:
  with _explained(path):
    file = safetensors.safe_open(path, 'np', backend='pread')
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping.

  def read(name: str) -> np.ndarray:
    if not TYPES.fullmatch(kind := slices[name].get_dtype()):
      raise ValueError(f'{str(path)!r}: {name} is of {kind}; save it in float16 or float32.')
    return file.get_tensor(name)

  return {
    name: StoredTensor(tuple(found.get_shape()), functools.partial(read, name))
    for name, found in slices.items()
  }


def _open_torch(path: pathlib.Path) -> dict[str, StoredTensor]:
  loaded = _MappedTorchFile(path)
  return {
    name: StoredTensor(tuple(tensor.shape), lambda name=name: loaded.read(name))
    for name, tensor in loaded.tensors.items()
  }


class _MappedTorchFile:
  """The tensors of a torch file, mapped to memory and mapped anew once much of it was read."""

  def __init__(self, path: pathlib.Path) -> None:
    self._path = path
    self._bytes_read = 0
    self.tensors = _load_torch(path)

  def read(self, name: str) -> np.ndarray:
    """One tensor as numpy."""
    if self._bytes_read > MAX_MAPPED_BYTES:
      self.tensors, self._bytes_read = _load_torch(self._path), 0
    tensor = self.tensors[name].detach()
    self._bytes_read += tensor.nbytes
    if not tensor.dtype.is_floating_point:
      return tensor.numpy()
    # numpy has no bfloat16, and every value of it is one of float32.
    return np.array(tensor.float().numpy())


def _load_torch(path: pathlib.Path) -> dict[str, Any]:
  try:
    import torch
  except ImportError as error:
    raise ValueError(
      f'{str(path)!r} is a file of torch, which is not installed: pip install torch, or convert '
      'the file to .safetensors.'
    ) from error
  with _explained(path):
    # Files from before torch 1.6 are no zip archives and cannot be mapped: they are read whole.
    mapped = zipfile.is_zipfile(path)
    content = torch.load(path, map_location='cpu', weights_only=True, mmap=mapped)
  if isinstance(content, dict) and isinstance(content.get('state_dict'), dict):
    content = content['state_dict']
  if not isinstance(content, dict) or not all(
    isinstance(name, str) and torch.is_tensor(value) for name, value in content.items()
  ):
    raise ValueError(f'{str(path)!r} holds no state_dict of tensors.')
  for name, tensor in content.items():
    _check_torch(path, name, tensor)
  return content


def _check_torch(path: pathlib.Path, name: str, tensor: Any) -> None:
  """Raises ValueError unless the tensor is plain numbers that lie in the file."""
  kind = str(tensor.dtype)
  plain = str(tensor.layout) == 'torch.strided' and tensor.device.type == 'cpu'
  odd = tensor.is_nested or tensor.is_quantized or 'complex' in kind or 'float8' in kind
  if odd or not plain:
    raise ValueError(f'{str(path)!r}: {name} is of {kind}; save it dense, in float16 or float32.')
  # One number, expanded, claims any amount of memory.
  if tensor.nbytes > path.stat().st_size:
    raise ValueError(
      f'{str(path)!r}: {name}{list(tensor.shape)} is larger than the whole file: an expanded '
      'tensor? Save it as tensor.contiguous().'
    )


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Generator[None, None, None]:
  """Turns the libraries' errors on broken files into one ValueError with the file's name."""
  try:
    yield
  except (safetensors.SafetensorError, RuntimeError, EOFError) as error:
    what = 'safetensors file' if isinstance(error, safetensors.SafetensorError) else 'file'
    raise ValueError(
      f'{str(path)!r} is not a whole {what} ({error}): copy or download it again.'
    ) from error
  except Exception as error:
    # Compare by name, since nothing here may import the class's module.
    if type(error).__name__ != 'UnpicklingError':
      raise
    raise ValueError(
      f'{str(path)!r} holds more than tensors, or is no file of torch, and is not opened: that '
      'could run code. Look for the same weights as .safetensors.'
    ) from error
