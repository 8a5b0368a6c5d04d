"""The U-Net as a checkpoint of VGen: {state_dict, step}."""

from typing import Any

import jax.numpy as jnp
import ml_collections
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import lora
from i2vgen_jax.pretrained import configs, tensors, unet_names
from i2vgen_jax.process import output_folder


def export_vgen(
  output: epath.PathLike,
  config: ml_collections.ConfigDict,
  unet_params: Any,
  step: int,
  dtype: str = 'float32',
) -> None:
  """Writes the U-Net as VGen's checkpoint {state_dict, step}, or nothing.

  Args:
    output: file that does not exist yet. VGen samples from any name; to go on training, it
      takes the step from the end of the name, as in i2vgen_xl_00854500.pth.
    config: of the run.
    unet_params: parameters of the U-Net.
    step: updates done.
    dtype: of the tensors.

  Raises:
    ValueError: `output` exists, VGen cannot express the model, weights are not finite in `dtype`,
      or torch is missing.
  """
  output_folder.check(output)
  configs.check_vgen(config)
  try:
    import torch
  except ImportError as error:
    raise ValueError('--format=vgen writes a file of torch: pip install torch.') from error
  # torch does not know numpy's bfloat16: it is given float32, and converts that itself.
  slots = unet_names.vgen(lora.bare(session_lib.build(config).unet)).slot_of
  named = tensors.to_torch(unet_params, unet_names.name_of, slots, jnp.dtype(dtype))
  state_dict = {
    name: torch.from_numpy(value.astype('float32', copy=False)).to(getattr(torch, dtype))
    for name, value in named.items()
  }
  with storage.written(epath.Path(output)) as part:
    torch.save({'state_dict': state_dict, 'step': step}, part)
