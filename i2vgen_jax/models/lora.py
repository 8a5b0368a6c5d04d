"""LoRA (Hu et al. 2021, arXiv:2106.09685): a U-Net whose kernels W become W + alpha / rank * A B.

One block of a config, `lora`: a rank above 0 puts A ('down', random) and B ('up', zeros) beside
every kernel that `match` fits, freezes all else, and starts as the model was. For a convolution, A
has its window and B is 1x1. The frozen kernels may be bfloat16, to which a bfloat16 network rounds
them at each use anyway. A run keeps both; `export` merges them, or writes them alone for PEFT and
diffusers.

Dimension key: I inputs (after the window's dims, of a convolution), R rank, O outputs.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import traverse_util

KEY = 'lora'  # The adapters' place beside the U-Net's own blocks.


def is_used(config: ml_collections.ConfigDict) -> bool:
  """True if the run trains adapters."""
  return config.lora.rank > 0


def averages_all(config: ml_collections.ConfigDict) -> bool:
  """False if the average is of the adapters alone."""
  return not (is_used(config) and jnp.dtype(config.lora.frozen_dtype) != jnp.float32)


def held(params: Mapping[str, Any], dtype: Any) -> Any:
  """Parameters as they are held where they are not trained: kernels in `dtype`, vectors as they
  are."""
  return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim > 1 else leaf, params)


@dataclasses.dataclass(frozen=True)
class AdaptedUNet:
  """Stands for a UNet3D wherever `init` and `apply` are called; its parameters hold 'lora' too."""

  unet: Any
  rank: int
  alpha: float
  match: str
  frozen_dtype: str = 'float32'

  def init(self, key: jax.Array, *inputs: Any) -> dict[str, Any]:
    """{'params': the U-Net's, and under 'lora' the adapters'}.

    Raises:
      ValueError: `match` fits no kernel.
    """
    params = self.unet.init(key, *inputs)['params']
    adapters = {}
    for i, (path, kernel_IO) in enumerate(_flatten(params).items()):
      if not path.endswith('/kernel') or not re.search(self.match, path):
        continue
      *sizes, outputs = kernel_IO.shape
      # PEFT's: torch's initialisation.
      bound = math.prod(sizes) ** -0.5
      down_IR = jax.random.uniform(
        jax.random.fold_in(key, i), (*sizes, self.rank), minval=-bound, maxval=bound
      )
      layer = path.removesuffix('/kernel')
      adapters |= {f'{layer}/down': down_IR, f'{layer}/up': jnp.zeros((self.rank, outputs))}
    if not adapters:
      raise ValueError(f'lora.match={self.match!r} fits no kernel of this U-Net.')
    adapters = traverse_util.unflatten_dict(adapters, sep='/')
    return {'params': held(params, self.frozen_dtype) | {KEY: adapters}}

  def apply(self, variables: Mapping[str, Any], *inputs: Any, **arguments: Any) -> Any:
    """What the U-Net returns with the merged parameters.

    Args:
      variables: {'params': as of `init`}.
      *inputs: of UNet3D.
      **arguments: of flax's `apply`.
    """
    params = held(merge(variables['params'], self.alpha), self.frozen_dtype)
    return self.unet.apply({'params': params}, *inputs, **arguments)


def adapt(unet: Any, config: ml_collections.ConfigDict) -> Any:
  """The U-Net of a config, with adapters if it asks for them."""
  return AdaptedUNet(unet, **config.lora) if is_used(config) else unet


def bare(unet: Any) -> Any:
  """The UNet3D itself."""
  return unet.unet if isinstance(unet, AdaptedUNet) else unet


def groups(config: ml_collections.ConfigDict) -> tuple[dict[str, Any], ...]:
  """optimizer.groups of a config; if it has adapters, a last group freezes all other parameters."""
  given = tuple(dict(group) for group in config.optimizer.groups)
  return (*given, dict(match=f'^(?!{KEY}/)', freeze=True)) if is_used(config) else given


def merge(params: Mapping[str, Any], alpha: float) -> Any:
  """The U-Net's own parameters with the adapters, if there are any, added to its kernels."""
  if KEY not in params:
    return params
  flat = _flatten({name: block for name, block in params.items() if name != KEY})
  adapters = _flatten(params[KEY])
  for path, down_IR in adapters.items():
    layer, _, part = path.rpartition('/')
    if part == 'down':
      up_RO = adapters[f'{layer}/up']
      delta_IO = jnp.dot(down_IR, up_RO, precision=jax.lax.Precision.HIGHEST)
      kernel_IO = flat[f'{layer}/kernel']
      flat[f'{layer}/kernel'] = kernel_IO + alpha / down_IR.shape[-1] * delta_IO
  return traverse_util.unflatten_dict(flat, sep='/')


def num_adapted(params: Mapping[str, Any]) -> int:
  """How many numbers the kernels have that adapters are added to."""
  adapters = _flatten(params.get(KEY, {}))
  return sum(
    math.prod(leaf.shape[:-1]) * adapters[f'{path.removesuffix("/down")}/up'].shape[-1]
    for path, leaf in adapters.items()
    if path.endswith('/down')
  )


def _flatten(tree: Any) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, sep='/')
