"""LoRA (Hu et al. 2021, arXiv:2106.09685): a U-Net whose kernels W become W + alpha / rank * A B.

One block of a config, `lora`: a rank above 0 puts A ('down', random) and B ('up', zeros) beside
every kernel that `match` fits, freezes all else, and starts as the model was. Of a convolution A
has the window, and B is of one pixel. A run keeps both; `export` merges them, or writes them alone
for PEFT and diffusers.

Dimension key: I inputs (after the window's dims, of a convolution), R rank, O outputs.
"""

import dataclasses
import json
import math
import re
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from i2vgen_jax.pretrained import tensors, unet_names
from i2vgen_jax.process import output_folder

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


def export_peft(output, config, params):
  """Writes the adapters for diffusers' I2VGenXLUNet, or nothing: as PEFT reads them,
  `PeftModel.from_pretrained(pipeline.unet, output)`, and as diffusers does,
  `pipeline.unet.load_attn_procs(output)`.

  Raises:
    ValueError: `output` exists, or the run has no adapters.
  """
  if not is_used(config):
    raise ValueError('--format=peft writes LoRA adapters, and this run has none: lora.rank is 0.')
  named, for_diffusers, modules = {}, {}, []
  adapters = _flatten(params[KEY])
  for path, down_IR in adapters.items():
    layer, _, part = path.rpartition('/')
    if part == 'down':
      module = unet_names.name_of(f'{layer}/kernel').removesuffix('.weight')
      modules.append(module)
      up_RO = np.asarray(adapters[f'{layer}/up'])
      window = (1,) * (down_IR.ndim - 2)
      for side, kernel in (('A', down_IR), ('B', up_RO.reshape(*window, *up_RO.shape))):
        value = tensors.to_torch({'kernel': kernel}, tensors.torch_name, dtype=np.float32)['weight']
        named[f'base_model.model.{module}.lora_{side}.weight'] = value
        # It is told no alpha.
        scale = config.lora.alpha / config.lora.rank if side == 'B' else 1.0
        for_diffusers[f'unet.{module}.lora_{side}.weight'] = np.float32(scale) * value
  settings = dict(
    peft_type='LORA',
    r=config.lora.rank,
    lora_alpha=config.lora.alpha,
    target_modules=modules,
    lora_dropout=0.0,
    bias='none',
    fan_in_fan_out=False,
    inference_mode=True,
    task_type=None,
    base_model_name_or_path=None,
  )
  with output_folder.written_whole(output) as folder:
    files = {'adapter_model': named, 'pytorch_lora_weights': for_diffusers}
    for name, content in files.items():
      path = folder / f'{name}.safetensors'
      safetensors.numpy.save_file(content, path, metadata={'format': 'pt'})
      path.chmod(0o644)  # safetensors lets only the owner read.
    (folder / 'adapter_config.json').write_text(json.dumps(settings, indent=2) + '\n')


def _flatten(tree):
  return flax.traverse_util.flatten_dict(tree, sep='/')


def _unflatten(flat):
  return flax.traverse_util.unflatten_dict(flat, sep='/')
