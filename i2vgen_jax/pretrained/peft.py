"""LoRA adapters under PEFT's and diffusers' names, without either.

`PeftModel.from_pretrained(pipeline.unet, folder)` reads adapter_model.safetensors beside
adapter_config.json, `pipeline.unet.load_attn_procs(folder)` pytorch_lora_weights.safetensors.
"""

import json
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy

from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import tensors, unet_names
from i2vgen_jax.process import output_folder


def export_peft(output: str | pathlib.Path, config: Any, adapters: tensors.Params) -> None:
  """Writes the adapters for diffusers' I2VGenXLUNet, or nothing.

  Args:
    output: folder that does not exist yet.
    config: the config of the run; `lora` gives rank and alpha.
    adapters: the run's block of them: for each adapted layer 'down', float32 (*window, I, R), and
      'up' (R, O). Empty if the run has none.

  Raises:
    ValueError: `output` exists, or the run has no adapters.
  """
  if not adapters:
    raise ValueError('--format=peft writes LoRA adapters, and this run has none: lora.rank is 0.')
  named, for_diffusers, modules = {}, {}, []
  flat = sharding.by_path(adapters)
  for path, down_IR in flat.items():
    layer, _, part = path.rpartition('/')
    if part == 'down':
      module = unet_names.name_of(f'{layer}/kernel').removesuffix('.weight')
      modules.append(module)
      up_RO = np.asarray(flat[f'{layer}/up'])
      window = (1,) * (down_IR.ndim - 2)
      for side, kernel in (('A', down_IR), ('B', up_RO.reshape(*window, *up_RO.shape))):
        value = tensors.to_torch({'kernel': kernel}, tensors.torch_name, dtype=np.float32)['weight']
        named[f'base_model.model.{module}.lora_{side}.weight'] = value
        # diffusers reads no alpha here.
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
