"""Small networks on CLIP's vector: layers of weights and biases, from a safetensors file.

LAION's aesthetic predictor (sac+logos+ava1-l14-linearMSE) has five linear layers with nothing
between them: one affine map, and the names `layers.N.weight`, `layers.N.bias`. Whatever the names,
layers are taken in the order of the number in them. The file's metadata may say more:
`activation` between layers (none, relu) and `output` (none, sigmoid, softmax: the last class).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors
from etils import epath

Function = Callable[[np.ndarray], np.ndarray]

ACTIVATIONS = {'none': lambda x: x, 'relu': lambda x: np.maximum(x, 0)}
OUTPUTS = {
  'none': lambda x: x[:, -1],
  'sigmoid': lambda x: 1 / (1 + np.exp(-x[:, -1])),
  'softmax': lambda x: 1 / np.exp(x - x[:, -1:]).sum(axis=-1),
}


class Head:
  """Unit vectors (B, D) to numbers (B,)."""

  def __init__(self, path: str, dim: int):
    self._made_of = path, dim
    if not epath.Path(path).exists():
      raise ValueError(f'head {path} does not exist: check the path.')
    try:
      with safetensors.safe_open(path, 'np') as file:
        metadata = file.metadata() or {}
        found = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}
    except safetensors.SafetensorError as error:
      raise ValueError(f'head {path} is no whole safetensors file: {error}.') from error
    self._activation = _choice(path, metadata, 'activation', ACTIVATIONS)
    self._output = _choice(path, metadata, 'output', OUTPUTS)
    self._layers = [
      (found[name], found[name[: -len('weight')] + 'bias'])
      for name in sorted(found, key=_number)
      if name.endswith('weight') and name[: -len('weight')] + 'bias' in found
    ]
    shapes = [weight.shape for weight, _ in self._layers]
    if 2 * len(shapes) != len(found) or not shapes:
      raise ValueError(f'head {path} should hold pairs of weight and bias, not {sorted(found)}.')
    sizes = [dim, *(rows for rows, _ in shapes)]
    if any(columns != size for (_, columns), size in zip(shapes, sizes, strict=False)):
      raise ValueError(f'head {path} has layers {shapes} (out, in), but CLIP gives {dim} numbers.')

  def __reduce__(self) -> tuple[Any, ...]:
    return type(self), self._made_of  # Where it goes, the file is.

  def __call__(self, vectors_BD: np.ndarray) -> np.ndarray:
    """float64 (B,)."""
    for index, (weight, bias) in enumerate(self._layers):
      vectors_BD = vectors_BD @ weight.T + bias
      if index < len(self._layers) - 1:
        vectors_BD = self._activation(vectors_BD)
    return self._output(vectors_BD)


def _number(name: str) -> list[int]:
  return [int(number) for number in re.findall(r'\d+', name)]


def _choice(
  path: str, metadata: Mapping[str, str], name: str, choices: Mapping[str, Function]
) -> Function:
  value = metadata.get(name, 'none')
  if value not in choices:
    raise ValueError(f'head {path} has {name}={value!r}; it should be one of {tuple(choices)}.')
  return choices[value]
