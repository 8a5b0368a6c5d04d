"""LoRA (Hu et al. 2021, arXiv:2106.09685): a U-Net whose kernels W become W + alpha / rank * A B.

One block of a config, `lora`: a rank above 0 puts A ('down', random) and B ('up', zeros) beside
every kernel that `match` fits, freezes all else, and starts as the model was. Of a convolution A
has the window, and B is of one pixel. A run keeps both; `export` merges them, or writes them alone
for PEFT and diffusers.

Dimension key: I inputs (after the window's dims, of a convolution), R rank, O outputs.
"""

import dataclasses
import math
import re
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

KEY = 'lora'  # Of the adapters, beside the U-Net's own blocks.


def is_used(config):
  """Whether the run trains adapters; runs from before there were any have no such block."""
  return KEY in config and config.lora.rank > 0


@dataclasses.dataclass(frozen=True)
class AdaptedUNet:
  """Stands for a UNet3D wherever `init` and `apply` are called; its parameters hold 'lora' too."""

  unet: Any
  rank: int
  alpha: float
  match: str

  def init(self, key, *inputs):
    """{'params': the U-Net's, and under 'lora' the adapters'}; raises ValueError if none fits."""
    params = self.unet.init(key, *inputs)['params']
    adapters = {}
    for i, (path, kernel_IO) in enumerate(_flatten(params).items()):
      if not path.endswith('/kernel') or not re.search(self.match, path):
        continue
      *inputs, outputs = kernel_IO.shape
      # PEFT's: torch's initialisation.
      bound = math.prod(inputs) ** -0.5
      down_IR = jax.random.uniform(
        jax.random.fold_in(key, i), (*inputs, self.rank), minval=-bound, maxval=bound
      )
      layer = path.removesuffix('/kernel')
      adapters |= {f'{layer}/down': down_IR, f'{layer}/up': jnp.zeros((self.rank, outputs))}
    if not adapters:
      raise ValueError(f'lora.match={self.match!r} fits no kernel of this U-Net.')
    return {'params': params | {KEY: _unflatten(adapters)}}

  def apply(self, variables, *inputs, **arguments):
    """What the U-Net of the merged parameters says."""
    params = merge(variables['params'], self.alpha)
    return self.unet.apply({'params': params}, *inputs, **arguments)


def adapt(unet, config):
  """The U-Net of a config, with adapters if it asks for them."""
  return AdaptedUNet(unet, **config.lora) if is_used(config) else unet


def bare(unet):
  """The UNet3D itself."""
  return unet.unet if isinstance(unet, AdaptedUNet) else unet


def groups(config):
  """optimizer.groups of a config: with adapters, all but them are frozen."""
  given = tuple(dict(group) for group in config.optimizer.groups)
  return (*given, dict(match=f'^(?!{KEY}/)', freeze=True)) if is_used(config) else given


def merge(params, alpha):
  """The U-Net's own parameters with the adapters, if there are any, worked in."""
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
  return _unflatten(flat)


def _flatten(tree):
  return flax.traverse_util.flatten_dict(tree, sep='/')


def _unflatten(flat):
  return flax.traverse_util.unflatten_dict(flat, sep='/')
