"""The folder of a diffusers pipeline, with the classes that compute what the model does."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import ml_collections
import safetensors.numpy
from etils import epath

from i2vgen_jax.pretrained import configs, pipelines, read, tensors, tokenizers
from i2vgen_jax.process import output_folder, paths

# transformers and diffusers look for these.
FILES = {
  'unet': 'diffusion_pytorch_model.safetensors',
  'vae': 'diffusion_pytorch_model.safetensors',
  'text_encoder': 'model.safetensors',
  'image_encoder': 'model.safetensors',
}


def export_diffusers(
  output: epath.PathLike,
  config: ml_collections.ConfigDict,
  read_params: Callable[[str], Any],
  dtype: str = 'float32',
  files: Mapping[str, bytes] | None = None,
) -> None:
  """Writes a complete folder of the pipeline that the model is, or nothing.

  Args:
    output: folder that does not exist yet.
    config: of the run: unet, vae, text_encoder, image_encoder, tokenizer, schedule, loss, sample.
    read_params: a key of FILES -> that network's parameters; called for one network after the
      other, so that only one need be in memory at a time.
    dtype: of the tensors.
    files: more files by name.

  Raises:
    ValueError: `output` exists, diffusers cannot express the model, or weights
      are not finite in `dtype`.
  """
  tokenizer_files, token_ids = _tokenizer(config)
  num_layers = pipelines.text_layers(config)
  contents = {
    'unet/config.json': pipelines.unet_config(config),
    'vae/config.json': configs.vae_config(config),
    'text_encoder/config.json': configs.text_config(config, token_ids, num_layers, dtype),
    'scheduler/scheduler_config.json': pipelines.scheduler_config(config),
    'model_index.json': pipelines.model_index(config),
  }
  networks = dict(FILES)
  if pipelines.is_text_alone(config):
    del networks['image_encoder']
  else:
    contents['image_encoder/config.json'] = configs.vision_config(config, dtype)
    contents['feature_extractor/preprocessor_config.json'] = configs.image_processor_config(config)
  with output_folder.written_whole(output) as folder:
    for name, data in (files or {}).items():
      (folder / name).write_bytes(data)
    for name, content in contents.items():
      _write(folder / name, json.dumps(content, indent=2) + '\n')
    for name, content in tokenizer_files.items():
      _write(folder / 'tokenizer' / name, content)
    for network, file in networks.items():
      name_of, _ = read.NETWORKS[network]
      named = tensors.to_torch(read_params(network), name_of, dtype=jnp.dtype(dtype))
      if network == 'text_encoder':
        left_out = f'text_model.encoder.layers.{num_layers}.'
        named = {key: value for key, value in named.items() if not key.startswith(left_out)}
      # 'format' tells transformers whose layout the tensors have; without it, it refuses the file.
      path = folder / network / file
      safetensors.numpy.save_file(named, path, metadata={'format': 'pt'})
      path.chmod(0o644)  # safetensors lets only the owner read.
      del named  # Before the next network is read.


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
