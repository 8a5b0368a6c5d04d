"""LoRA adapters under PEFT's and diffusers' names, without either.

`PeftModel.from_pretrained(pipeline.unet, folder)` reads adapter_model.safetensors beside
adapter_config.json. diffusers reads pytorch_lora_weights.safetensors: by `load_attn_procs(folder)`
until 0.40, and by `load_lora_adapter(folder, prefix='unet', ...)` where a model has that.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import tensors, unet_names
from i2vgen_jax.process import output_folder


def export_peft(
  output: str | pathlib.Path,
  config: Any,
  adapters: tensors.Params,
  files: Mapping[str, bytes] | None = None,
) -> None:
  """Writes the adapters for diffusers' I2VGenXLUNet, or nothing.

  Args:
    output: folder that does not exist yet.
    config: the config of the run; `lora` gives rank and alpha.
    adapters: the run's block of them: for each adapted layer 'down', float32 (*window, I, R), and
      'up' (R, O). Empty if the run has none.
    files: more files by name.

  Raises:
    ValueError: `output` exists, or the run has no adapters.
  """
  if not adapters:
    raise ValueError('--format=peft writes LoRA adapters, and this run has none: lora.rank is 0.')
  named, for_diffusers, modules = {}, {}, []
  for name, value in matrices(adapters, unet_names.name_of).items():
    module, _, side = name.removesuffix('.weight').rpartition('.lora_')
    named[f'base_model.model.{name}'] = value
    # diffusers reads no alpha here.
    scale = config.lora.alpha / config.lora.rank if side == 'B' else 1.0
    for_diffusers[f'unet.{name}'] = np.float32(scale) * value
    if side == 'A':
      modules.append(module)
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
    for name, data in (files or {}).items():
      (folder / name).write_bytes(data)
    for name, content in dict(adapter_model=named, pytorch_lora_weights=for_diffusers).items():
      path = folder / f'{name}.safetensors'
      safetensors.numpy.save_file(content, path, metadata={'format': 'pt'})
      path.chmod(0o644)  # safetensors lets only the owner read.
    (folder / 'adapter_config.json').write_text(json.dumps(settings, indent=2) + '\n')


def matrices(adapters: tensors.Params, name_of: Callable[[str], str]) -> dict[str, np.ndarray]:
  """'<layer>.lora_A.weight' and '<layer>.lora_B.weight' of each adapted layer, in torch's layout.

  Args:
    adapters: as `export_peft` takes them.
    name_of: parameter path to tensor name.
  """
  named, flat = {}, sharding.by_path(adapters)
  for path, down_IR in flat.items():
    layer, _, part = path.rpartition('/')
    if part == 'down':
      module = name_of(f'{layer}/kernel').removesuffix('.weight')
      up_RO = np.asarray(flat[f'{layer}/up'])
      window = (1,) * (down_IR.ndim - 2)
      for side, kernel in (('A', down_IR), ('B', up_RO.reshape(*window, *up_RO.shape))):
        value = tensors.to_torch({'kernel': kernel}, tensors.torch_name, dtype=np.float32)['weight']
        named[f'{module}.lora_{side}.weight'] = value
  return named
