"""Writes the weights of a run, or of a folder of `load`, for PyTorch.

  python -m i2vgen_jax.export --workdir=DIR --format=diffusers --output=OUT
  python -m i2vgen_jax.export --workdir=DIR --format=vgen --output=i2vgen_xl_00010000.pth

As 'diffusers', OUT is what `diffusers.I2VGenXLPipeline.from_pretrained` reads (diffusers 0.35 with
transformers 4): U-Net, VAE, CLIP towers, tokenizer, image processor and scheduler; neither torch
nor diffusers is needed to write it. As 'vgen', it is the U-Net alone, {state_dict, step}, which
VGen's loader takes with strict=True, as UNetSD_I2VGen or, of text alone, UNetSD_SR600; this needs
torch. Both with LoRA adapters merged, which 'peft' writes alone, for PEFT and for diffusers. A
U-Net that the other code cannot express is refused.
"""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections
import safetensors.numpy
from absl import flags
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax import checkpoint, frozen, lora
from i2vgen_jax import session as session_lib
from i2vgen_jax.pretrained import configs, peft, read, tensors, tokenizers, unet_names
from i2vgen_jax.process import cli, output_folder, paths

# transformers and diffusers look for these.
FILES = {
  'unet': 'diffusion_pytorch_model.safetensors',
  'vae': 'diffusion_pytorch_model.safetensors',
  'text_encoder': 'model.safetensors',
  'image_encoder': 'model.safetensors',
}
DTYPES = ('float32', 'float16', 'bfloat16')


def main() -> None:
  """Loads the run's weights and writes them."""
  given = flags.FLAGS
  output_folder.check(given.output)  # Before minutes of loading.
  session = session_lib.open_run(given.workdir)
  config = session.config

  def read_unet():
    params, step = checkpoint.load_params(given.workdir, session.abstract_params(), given.weights)
    return (lora.merge(params, config.lora.alpha) if lora.is_used(config) else params), step

  read_frozen = functools.cache(
    lambda: frozen.load(config, session.networks, session.mesh, given.workdir)
  )

  def read_params(network):
    return read_unet()[0] if network == 'unet' else read_frozen()[network]

  if given.format == 'peft':
    params, _ = checkpoint.load_params(given.workdir, session.abstract_params(), given.weights)
    peft.export_peft(given.output, config, params.get(lora.KEY, {}))
    print(f'Wrote {given.output}: pipeline.unet.load_attn_procs({given.output!r})')
  elif given.format == 'vgen':
    export_vgen(given.output, config, *read_unet(), given.dtype)
    print(f"Wrote {given.output}: VGen's test_model.")
  else:
    export_diffusers(given.output, config, read_params, given.dtype)
    print(f'Wrote {given.output}: diffusers.I2VGenXLPipeline.from_pretrained({given.output!r})')


def export_diffusers(
  output: epath.PathLike,
  config: ml_collections.ConfigDict,
  read_params: Callable[[str], Any],
  dtype: str = 'float32',
) -> None:
  """Writes a complete I2VGenXLPipeline folder, or nothing.

  Args:
    output: folder that does not exist yet.
    config: of the run: unet, vae, text_encoder, image_encoder, tokenizer, schedule, loss, sample.
    read_params: a key of FILES -> that network's parameters; called for one network after the
      other, so that only one need be in memory at a time.
    dtype: one of DTYPES.

  Raises:
    ValueError: `output` exists, diffusers cannot express the model, or weights
      are not finite in `dtype`.
  """
  tokenizer_files, token_ids = _tokenizer(config)
  contents = {
    'unet/config.json': configs.unet_config(config),
    'vae/config.json': configs.vae_config(config),
    'text_encoder/config.json': configs.text_config(config, token_ids, dtype),
    'image_encoder/config.json': configs.vision_config(config, dtype),
    'feature_extractor/preprocessor_config.json': configs.image_processor_config(config),
    'scheduler/scheduler_config.json': configs.scheduler_config(config),
    'model_index.json': configs.model_index(),
  }
  with output_folder.written_whole(output) as folder:
    for name, content in contents.items():
      _write(folder / name, json.dumps(content, indent=2) + '\n')
    for name, content in tokenizer_files.items():
      _write(folder / 'tokenizer' / name, content)
    for network, file in FILES.items():
      name_of, _ = read.NETWORKS[network]
      named = tensors.to_torch(read_params(network), name_of, dtype=jnp.dtype(dtype))
      # 'format' tells transformers whose layout the tensors have; without it, it refuses the file.
      path = folder / network / file
      safetensors.numpy.save_file(named, path, metadata={'format': 'pt'})
      path.chmod(0o644)  # safetensors lets only the owner read.
      del named  # Before the next network is read.


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
    dtype: one of DTYPES.

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


def _tokenizer(config: ml_collections.ConfigDict) -> tuple[dict[str, str], dict[str, int]]:
  """(file name -> content, ids of the special tokens) of the run's tokenizer.

  Written by hand: the files that transformers 5 saves are not those that version 4 reads.
  """
  folder = paths.find(config.tokenizer)
  tokenizer = tokenizers.load_clip(config.tokenizer, config.pad_token)
  roles = ('bos_token', 'eos_token', 'pad_token', 'unk_token')
  special_tokens = {role: str(getattr(tokenizer, role)) for role in roles}
  settings = dict(
    tokenizer_class='CLIPTokenizer',
    # The pipeline pads to this length, which the text encoder must take.
    model_max_length=min(tokenizer.model_max_length, config.text_encoder.model.max_length),
    do_lower_case=True,
    add_prefix_space=False,
    errors='replace',
    **special_tokens,
  )
  files = {name: (folder / name).read_text('utf-8') for name in ('vocab.json', 'merges.txt')}
  files['tokenizer_config.json'] = json.dumps(settings, indent=2) + '\n'
  files['special_tokens_map.json'] = json.dumps(special_tokens, indent=2) + '\n'
  roles = ('bos_token_id', 'eos_token_id', 'pad_token_id')
  return files, {role: getattr(tokenizer, role) for role in roles}


def _write(path: pathlib.Path, content: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(content, encoding='utf-8')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Workdir of the run to export.')
  flags.DEFINE_enum('format', 'diffusers', ['diffusers', 'vgen', 'peft'], 'Layout of the output.')
  flags.DEFINE_string('output', None, 'Folder to write, or file for vgen; must not exist.')
  flags.DEFINE_enum(
    'weights', 'ema', ['ema', 'raw'], 'Averaged weights, or those of the last step.'
  )
  flags.DEFINE_enum('dtype', 'float32', DTYPES, 'Type of the tensors.')
  flags.mark_flags_as_required(['workdir', 'output'])
  cli.run(main)
