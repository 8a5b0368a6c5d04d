"""Parameter trees to named tensors in torch's layout, and back; every name accounted for.

Two steps lead from a parameter to a tensor of a file. `name_of(path)` (unet_names, vae_names,
clip_names) gives its name in diffusers or transformers; the layout follows from the parameter's own
name and rank. A `Format` then says in which `Slot` of another format's file that tensor lies.
Nothing here needs torch.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from data_pipelines import progress
from i2vgen_jax.parallel import sharding

Params = Any  # A nested dict of arrays, as `module.init(...)['params']`.

# What Flax calls a parameter -> what torch calls it. 'bias' and raw parameters keep their names.
LEAF_NAMES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}

MAX_NAMES_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Slot:
  """Where a tensor of diffusers' or transformers' layout lies in a file, and how it differs there.

  Attributes:
    name: its name in the file.
    part: (i, n): the i-th of n equal blocks of rows of the file's tensor.
    trailing_ones: dims of size one that the file's tensor has at its end, as a convolution of one
      pixel in place of a matrix has.
    transposed: the file's matrix is (in, out).
    gains: factor from the file's values to ours by input channel; powers of two, so that there and
      back is exact.
    num_inputs: the file has this many input channels only; ours beyond are zero. For reading.
  """

  name: str
  part: tuple[int, int] = (0, 1)
  trailing_ones: int = 0
  transposed: bool = False
  gains: tuple[float, ...] = ()
  num_inputs: int | None = None

  def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in the file of a tensor that has `shape` in diffusers."""
    if self.num_inputs is not None:
      shape = (shape[0], self.num_inputs, *shape[2:])
    if self.transposed:
      shape = shape[::-1]
    return (shape[0] * self.part[1], *shape[1:], *(1,) * self.trailing_ones)

  def read(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The file's tensor in diffusers' layout, where it has `shape`."""
    value = np.split(value, self.part[1])[self.part[0]]
    value = value.reshape(value.shape[: value.ndim - self.trailing_ones])
    value = value.T if self.transposed else value
    if self.num_inputs is not None:
      missing_inputs = shape[1] - self.num_inputs
      value = np.pad(value, [(0, 0), (0, missing_inputs), *[(0, 0)] * (len(shape) - 2)])
    return value * self._gains(value) if self.gains else value

  def write(self, value: np.ndarray) -> np.ndarray:
    """The file's tensor, or this slot's part of it, from diffusers'."""
    value = value / self._gains(value) if self.gains else value
    value = value.T if self.transposed else value
    return value.reshape(value.shape + (1,) * self.trailing_ones)

  def _gains(self, value: np.ndarray) -> np.ndarray:
    return np.reshape(np.asarray(self.gains, value.dtype), (-1, *(1,) * (value.ndim - 2)))


@dataclasses.dataclass(frozen=True)
class Format:
  """A layout that files of a network come in.

  Attributes:
    name: for messages.
    slot_of: diffusers' or transformers' name to a Slot, or None for a tensor that such files lack.
    ignored: pattern of names that such files also have -> why they are not needed.
  """

  name: str
  slot_of: Callable[[str], Slot | None] = Slot
  ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def mismatch(
    self, names: Collection[str], stored: Collection[str]
  ) -> tuple[list[str], list[str], int]:
    """(missing, unexpected, number found): the file's names against those of a model."""
    slots = [self.slot_of(name) for name in names]
    wanted = {slot.name for slot in slots if slot is not None}
    unexpected = [
      name for name in stored if name not in wanted and not any_match(self.ignored, name)
    ]
    missing = wanted - set(stored)
    return sorted(missing), sorted(unexpected), len(wanted) - len(missing)


def torch_name(path: str) -> str:
  """Turns 'encoder/down_blocks_0/resnets_1/conv1/kernel' into torch's dotted name.

  `name_i` is entry i of a list: 'encoder.down_blocks.0.resnets.1.conv1.weight'.
  """
  *modules, leaf = path.split('/')
  modules = [re.sub(r'_(\d+)$', r'.\1', module) for module in modules]
  return '.'.join([*modules, LEAF_NAMES.get(leaf, leaf)])


def to_torch(
  params: Params,
  name_of: Callable[[str], str],
  slot_of: Callable[[str], Slot | None] = Slot,
  dtype: Any = None,
) -> dict[str, np.ndarray]:
  """Returns the parameters as contiguous numpy arrays under a format's names and in its layout.

  Args:
    params: nested dict of arrays.
    name_of: parameter path, joined by '/', to tensor name.
    slot_of: that of the Format to write; diffusers' and transformers' own if not given.
    dtype: type to convert to; the parameters' own if not given.

  Raises:
    ValueError: two parameters get one place, or values are not finite in `dtype`.
  """
  parts = collections.defaultdict(dict)
  found = sharding.by_path(params)
  for path, value in progress.over(found.items(), len(found), 'tensor', 'converting'):
    slot = cast(Slot, slot_of(name_of(path)))  # None is of formats that are only read.
    i, num_parts = slot.part
    if i in parts[slot.name]:
      raise ValueError(f'Two parameters are called {slot.name!r}, one of them {path!r}.')
    value = slot.write(_to_torch_layout(path, np.asarray(value)))
    parts[slot.name][i] = np.ascontiguousarray(_cast(value, dtype))
  tensors = {}
  for name, values in parts.items():
    ordered = [values[i] for i in sorted(values)]
    tensors[name] = np.concatenate(ordered) if len(ordered) > 1 else ordered[0]
  if dtype is not None:
    _raise_unless_finite(tensors, dtype)
  return tensors


def fit(
  tensors: Mapping[str, Any],
  abstract_params: Params,
  name_of: Callable[[str], str],
  formats: tuple[Format, ...] = (Format('diffusers'),),
) -> tuple[Format, dict[str, Slot | None], dict[str, tuple[int, ...]]]:
  """(the format found, the slot of each parameter, its shape in torch); reads no tensor.

  Args:
    tensors: as of `from_formats`, like all others.
    abstract_params: nested dict of ShapeDtypeStructs.
    name_of: parameter path to tensor name.
    formats: the layouts to try.

  Raises:
    ValueError: as `from_formats`.
  """
  wanted = sharding.by_path(abstract_params)
  names = {path: name_of(path) for path in wanted}
  found = choose_format(formats, list(names.values()), tensors)
  slots = {path: found.slot_of(name) for path, name in names.items()}
  shapes = {path: _torch_shape(path, abstract.shape) for path, abstract in wanted.items()}
  missing, unexpected, _ = found.mismatch(names.values(), tensors)
  misshapen = [
    f'{slot.name}: {tuple(tensors[slot.name].shape)}, model has {slot.shape(shapes[path])}'
    for path, slot in slots.items()
    if slot is not None
    and slot.name in tensors
    and tuple(tensors[slot.name].shape) != slot.shape(shapes[path])
  ]
  _raise_unless_all_fit(found, missing, unexpected, misshapen)
  return found, slots, shapes


def from_formats(
  tensors: Mapping[str, Any],
  abstract_params: Params,
  name_of: Callable[[str], str],
  formats: tuple[Format, ...] = (Format('diffusers'),),
  initial: Callable[[], Params] | None = None,
) -> tuple[Params, Format]:
  """Returns parameters shaped, typed and placed like `abstract_params`, and the format found.

  One tensor at a time is read and put to its shards, so that the host holds no second copy.

  Args:
    tensors: tensors of a file by name: anything with `shape` that np.asarray reads.
    abstract_params: nested dict of ShapeDtypeStructs; without a sharding it becomes a numpy array.
    name_of: parameter path, joined by '/', to tensor name.
    formats: the layouts to try; the best fit is taken. By default diffusers' or transformers' own.
    initial: makes the parameters that a format has no tensors for.

  Raises:
    ValueError: no format fits at all, or a tensor is missing, unexpected or of another shape; all
      of them are named.
  """
  found, slots, shapes = fit(tensors, abstract_params, name_of, formats)
  wanted, flat = sharding.by_path(abstract_params), {}
  if any(slot is None for slot in slots.values()):
    if initial is None:
      raise ValueError(f'{found.name} has no tensor for every parameter of this model.')
    flat = sharding.by_path(initial())
  shown = progress.over(wanted.items(), len(wanted), 'tensor', f'reading {found.name}')
  for path, abstract in shown:
    slot = slots[path]
    if slot is not None:
      value = np.asarray(tensors[slot.name]).astype(abstract.dtype, copy=False)
      value = _from_torch_layout(path, slot.read(value, shapes[path]))
      flat[path] = _place(np.ascontiguousarray(value), abstract)
  leaves = [flat[path] for path in wanted]
  return jax.tree.unflatten(jax.tree.structure(abstract_params), leaves), found


def choose_format(
  formats: Sequence[Format], names: Collection[str], stored: Collection[str]
) -> Format:
  """The format with the fewest missing and unexpected names.

  Args:
    formats: the layouts to try.
    names: diffusers' or transformers' names of the model's tensors.
    stored: names in the file.

  Raises:
    ValueError: no format knows any of the names.
  """
  scores = []
  for candidate in formats:
    missing, unexpected, num_found = candidate.mismatch(names, stored)
    if num_found:
      scores.append((len(missing) + len(unexpected), len(scores), candidate))
  if not scores:
    shown = ', '.join(list(stored)[:3])
    raise ValueError(
      f'Tensors named {shown}, ... are of none of the known formats: '
      f'{"; ".join(candidate.name for candidate in formats)}.'
    )
  return min(scores)[-1]


def any_match(patterns: Iterable[str], name: str) -> bool:
  """Whether a name matches one of the patterns from its start."""
  return any(re.match(pattern, name) for pattern in patterns)


def _to_torch_layout(path: str, value: np.ndarray) -> np.ndarray:
  """Kernels (*window, in, out) become (out, in, *window); all else stays."""
  if path.rsplit('/', 1)[-1] != 'kernel':
    return value
  return value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))


def _from_torch_layout(path: str, value: np.ndarray) -> np.ndarray:
  if path.rsplit('/', 1)[-1] != 'kernel' or value.ndim < 2:
    return value
  return value.transpose(*range(2, value.ndim), 1, 0)


def _torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  return _to_torch_layout(path, np.broadcast_to(np.float32(0), shape)).shape


def _place(value: np.ndarray, abstract: Any) -> jax.Array | np.ndarray:
  placed = getattr(abstract, 'sharding', None)
  if placed is None:
    return value
  return jax.make_array_from_callback(value.shape, placed, lambda index: value[index])


def _cast(value: np.ndarray, dtype: Any) -> np.ndarray:
  with np.errstate(over='ignore'):  # `_raise_unless_finite` names infinities.
    return value if dtype is None else value.astype(dtype, copy=False)


def _raise_unless_finite(tensors: Mapping[str, np.ndarray], dtype: Any) -> None:
  bad = sorted(name for name, value in tensors.items() if not np.isfinite(value).all())
  if bad:
    raise ValueError(
      f'{len(bad)} tensors are not finite as {np.dtype(dtype).name}: bfloat16 and float32 hold '
      f'larger values than float16.{_listed(bad)}'
    )


def _raise_unless_all_fit(
  found: Format, missing: list[str], unexpected: list[str], misshapen: list[str]
) -> None:
  complaints = [
    f'{len(names)} {kind}:{_listed(names)}'
    for kind, names in (('missing', missing), ('unexpected', unexpected), ('misshapen', misshapen))
    if names
  ]
  if complaints:
    raise ValueError(
      'The tensors are not those of this model; check that config and file belong together. '
      f'Closest format: {found.name}.\n' + '\n'.join(complaints)
    )


def _listed(names: list[str]) -> str:
  lines = names[:MAX_NAMES_SHOWN]
  if len(names) > MAX_NAMES_SHOWN:
    lines = [*lines, f'... and {len(names) - MAX_NAMES_SHOWN} more']
  return ''.join(f'\n  {line}' for line in lines)
