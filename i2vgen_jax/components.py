"""From a config to the things it names: U-Net, encoders, schedule, tokenizer, and the frozen
weights.

Everything that can be wrong in a config is found here, before anything compiles.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from absl import logging
from etils import epath

from i2vgen_jax import checkpoint
from i2vgen_jax.diffusion import parameterization, schedule
from i2vgen_jax.encoders import Encoders
from i2vgen_jax.models import unet3d
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import clip_names, tensors, vae_names

_ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = {
  'vae': vae_names.name_of,
  'text_encoder': clip_names.text_name_of,
  'image_encoder': clip_names.vision_name_of,
}
# Frozen networks are drawn from this key when a config says weights='random': the same in every
# run.
RANDOM_SEED = 0


@dataclasses.dataclass(frozen=True)
class Components:
  """What train, sample, evaluate and export are made of."""

  unet: unet3d.UNet3D
  encoders: Encoders
  schedule: schedule.NoiseSchedule
  tokenize: Callable[[list[str]], np.ndarray]  # captions -> int32 (B, L).

  def unet_inputs(self, frames, height, width, batch_size=1):
    """ShapeDtypeStructs of (noisy_latents_BFHWC, timesteps_B, conditioning) for a video size in
    pixels."""
    text, image = self.encoders.text_encoder, self.encoders.image_encoder
    factor, channels = self.encoders.downsampling, self.encoders.vae.latent_channels
    latents = (height // factor, width // factor, channels)
    shape = lambda *dims: jax.ShapeDtypeStruct((batch_size, *dims), jnp.float32)  # noqa: E731
    conditioning = {
      'text': shape(text.max_length, text.hidden_size),
      'image_embedding': shape(image.projection_dim),
      'image_latents': shape(*latents),
      'fps': shape(),
    }
    timesteps_B = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return shape(frames, *latents), timesteps_B, conditioning

  def smallest_unet_inputs(self):
    """ShapeDtypeStructs that suffice to initialise the U-Net: parameters do not depend on the
    video's size."""
    side = 8 * self.encoders.downsampling
    return self.unet_inputs(frames=2, height=side, width=side)

  def abstract_params(self, mesh, min_elements):
    """The U-Net's parameters as ShapeDtypeStructs with shardings; raises ValueError if the model
    cannot be."""
    inputs = self.smallest_unet_inputs()
    key = jax.eval_shape(lambda: jax.random.key(0))
    abstract = jax.eval_shape(self.unet.init, key, *inputs)['params']
    shardings = sharding.shard_tree(abstract, mesh, min_elements)
    return with_shardings(abstract, shardings)


def build(config):
  """Components of a config.

  Raises:
    ValueError: tokenizer and text encoder disagree, an unknown schedule, prediction type or
    conditioner.
  """
  noise_schedule = schedule.NoiseSchedule.create(**config.schedule)
  parameterization.check_prediction_type(config.loss.prediction_type, noise_schedule)
  model = dict(config.unet)
  model['conditioners'] = tuple(dict(line) for line in model['conditioners'])
  for name in ('block_channels', 'attention_levels'):
    model[name] = tuple(model[name])
  unet = unet3d.UNet3D(**model, dtype=jnp.dtype(config.dtype))
  encoders = Encoders.from_config(config)
  if encoders.text_encoder.hidden_size != unet.context_dim:
    raise ValueError(
      f'unet.context_dim={unet.context_dim} must equal text_encoder.model.hidden_size='
      f'{encoders.text_encoder.hidden_size}: the caption is the context.'
    )
  if encoders.vae.latent_channels != unet.out_channels:
    raise ValueError(
      f'unet.out_channels={unet.out_channels} must equal vae.model.latent_channels='
      f'{encoders.vae.latent_channels}: the U-Net predicts latents.'
    )
  tokenize = make_tokenize(config.tokenizer, encoders.text_encoder)
  return Components(unet, encoders, noise_schedule, tokenize)


def find(path):
  """A path of a config: as given, or from the repository's root when it is relative and not
  found."""
  given = epath.Path(path)
  return given if given.is_absolute() or given.exists() else epath.Path(_ROOT / path)


def load_tokenizer(path):
  """transformers' CLIPTokenizer from a folder; never from the network.

  Raises:
    ValueError: no tokenizer there.
  """
  folder = find(path)
  if not (folder / 'vocab.json').exists():
    raise ValueError(
      f'tokenizer={path!r} is no folder with vocab.json and merges.txt. '
      'Point --config.tokenizer to the '
      'tokenizer/ folder of a CLIP or I2VGen-XL checkpoint.'
    )
  return transformers.CLIPTokenizer.from_pretrained(os.fspath(folder), local_files_only=True)


def make_tokenize(path, text_encoder):
  """captions -> int32 (B, max_length), truncated and padded.

  Raises:
    ValueError: vocabulary or length is not the text encoder's.
  """
  tokenizer = load_tokenizer(path)
  if len(tokenizer) != text_encoder.vocab_size:
    raise ValueError(
      f'tokenizer {path!r} knows {len(tokenizer)} tokens but text_encoder.model.vocab_size='
      f'{text_encoder.vocab_size}: they do not belong together.'
    )
  length = min(tokenizer.model_max_length, text_encoder.max_length)

  def tokenize(captions):
    ids = tokenizer(list(captions), padding='max_length', truncation=True, max_length=length)
    return np.asarray(ids['input_ids'], np.int32)

  return tokenize


def jit_once(function, **arguments):
  """jax.jit for what runs once: on CPU, optimising takes longer than it saves."""
  options = {'cpu': {'xla_backend_optimization_level': 0}}.get(jax.default_backend())
  return jax.jit(function, compiler_options=options, **arguments)


def load_frozen(config, components, mesh, workdir=None):
  """Parameters of VAE and CLIP towers on the mesh, and the text of a dropped caption.

  A run's own copy in workdir/frozen comes first, so that a resumed or sampled run uses the weights
  it was trained with; else each network's `weights`: a safetensors file in diffusers /
  transformers names, or 'random'.

  Raises:
    ValueError: no weights given, or a file that is not this network's.
  """
  encoders = components.encoders
  abstract = jax.eval_shape(encoders.init, jax.eval_shape(lambda: jax.random.key(0)))
  shardings = sharding.shard_tree(abstract, mesh, config.sharding.min_elements)
  copy = epath.Path(workdir) / 'frozen' if workdir else None
  if copy is not None and copy.exists():
    frozen = checkpoint.load_tree(copy, with_shardings(abstract, shardings))
  else:
    frozen = {}
    random = None
    for name in NAMES:
      weights = config[name].weights
      if not weights:
        raise ValueError(
          f"{name}.weights is not set: give --config.{name}.weights=FILE.safetensors, or 'random'."
        )
      if weights == 'random':
        if random is None:
          random = jit_once(encoders.init, out_shardings=shardings)(jax.random.key(RANDOM_SEED))
        frozen[name] = random[name]
      else:
        loaded = tensors.from_torch(
          tensors.read_safetensors(find(weights)), abstract[name], NAMES[name]
        )
        frozen[name] = jax.device_put(loaded, shardings[name])
      logging.info('%s weights: %s', name, weights)
    if copy is not None:
      checkpoint.save_tree(copy, frozen)
  frozen['null_text'] = jit_once(encoders.encode_text, out_shardings=mesh_lib.replicated(mesh))(
    frozen, components.tokenize([config.negative_prompt])
  )
  return frozen


def load_run(workdir, weights='ema', step=None, devices=None):
  """A trained run, ready to sample from or to export, with all its weights.

  Args:
    workdir: of the run.
    weights: 'ema' or 'raw'.
    step: default the newest checkpoint.
    devices: default all; the batch is split over them, weights are whole on each.

  Returns:
    (config, components, mesh, params, frozen).

  Raises:
    ValueError: no run, no checkpoint, or another model.
  """
  config = checkpoint.read_config(workdir)
  components = build(config)
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1}, devices)
  params, _ = checkpoint.load_params(
    workdir, components.abstract_params(mesh, config.sharding.min_elements), weights, step
  )
  return config, components, mesh, params, load_frozen(config, components, mesh, workdir)


def with_shardings(abstract, shardings):
  """ShapeDtypeStructs that say where they lie."""
  return jax.tree.map(
    lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
    abstract,
    shardings,
  )
