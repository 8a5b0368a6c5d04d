"""From a config to the things it names: U-Net, encoders, schedule, tokenizer, and the frozen
weights.

Everything that can be wrong in a config is found here, before anything compiles.
"""

import dataclasses
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from absl import logging
from etils import epath

from i2vgen_jax import checkpoint, lora
from i2vgen_jax.diffusion import loss, parameterization, schedule
from i2vgen_jax.encoders import Encoders
from i2vgen_jax.models import unet3d
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import read
from i2vgen_jax.process import hosts

_ROOT = pathlib.Path(__file__).resolve().parent.parent
FROZEN = ('vae', 'text_encoder', 'image_encoder')
TOKENIZER_FILES = (
  'vocab.json',
  'merges.txt',
  'tokenizer_config.json',
  'special_tokens_map.json',
)
# What a config may change of the model that it starts from.
CHANGEABLE = re.compile(
  r'unet\.(dropout|remat|row_margin|free_u)|\w+\.(weights|frames_per_chunk|tile|tile_overlap)'
)
# Frozen networks are drawn from this key when a config says weights='random': the same in every
# run.
RANDOM_SEED = 0


@dataclasses.dataclass(frozen=True)
class Components:
  """What train, sample, evaluate and export are made of."""

  unet: unet3d.UNet3D | lora.AdaptedUNet
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

  def smallest_unet_zeros(self):
    """Arrays of `smallest_unet_inputs`."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.smallest_unet_inputs())

  def abstract_params(self, mesh, min_elements):
    """The U-Net's parameters as ShapeDtypeStructs with shardings; raises ValueError if the model
    cannot be."""
    inputs = self.smallest_unet_inputs()
    key = jax.eval_shape(lambda: jax.random.key(0))
    abstract = jax.eval_shape(self.unet.init, key, *inputs)['params']
    shardings = sharding.shard_tree(abstract, mesh, min_elements)
    return with_shardings(abstract, shardings)


def build(config, workdir=None, with_tokenizer=True):
  """Components of a config; a tokenizer in the workdir comes before the config's.

  Without a tokenizer, `tokenize` is None: what is only planned reads no captions.

  Raises:
    ValueError: tokenizer and text encoder disagree, an unknown schedule, prediction type or
    conditioner, or a `start` of another model.
  """
  if config.start:
    check_start(config)
  noise_schedule = schedule.NoiseSchedule.create(**config.schedule)
  parameterization.check_prediction_type(config.loss.prediction_type, noise_schedule)
  loss.check_options(config.loss.timestep_range, config.loss.min_snr_gamma, noise_schedule)
  if config.refine.levels and not (config.refine.height > 0 and config.refine.width > 0):
    raise ValueError(
      f'refine.height={config.refine.height}, refine.width={config.refine.width}: give the size of '
      'the videos that are refined.'
    )
  if config.refine.levels > config.loss.timestep_range[1]:
    raise ValueError(
      f'refine.levels={config.refine.levels} must lie within the noise levels that are trained: '
      f'loss.timestep_range={tuple(config.loss.timestep_range)}.'
    )
  model = dict(config.unet)
  model['conditioners'] = tuple(dict(line) for line in model['conditioners'])
  for name in ('block_channels', 'attention_levels'):
    model[name] = tuple(model[name])
  if 'free_u' in model:  # Runs from before there was one have none.
    model['free_u'] = tuple(tuple(gains) for gains in model['free_u'])
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
  tokenize = None
  if with_tokenizer:
    folder = tokenizer_folder(config, workdir)
    tokenize = make_tokenize(folder, config.pad_token, encoders.text_encoder)
  return Components(lora.adapt(unet, config), encoders, noise_schedule, tokenize)


def check_start(config):
  """Raises ValueError if the model of the run or folder `config.start` is not the config's; the
  config may leave conditioners out, and have an autoencoder of its own, with weights."""
  blocks = ('unet', *FROZEN)
  started = checkpoint.read_config(config.start)
  ours, theirs = (
    checkpoint.flatten_config({block: tree[block] for block in blocks})
    for tree in (json.loads(config.to_json()), json.loads(started.to_json()))
  )
  kept = ours['unet.conditioners']
  theirs['unet.conditioners'] = [line for line in theirs['unet.conditioners'] if line in kept]
  own_vae = config.vae.weights not in ('', started.vae.weights)
  differences = [
    f'{name}: {theirs.get(name, "(absent)")} -> {ours.get(name, "(absent)")}'
    for name in sorted(set(ours) | set(theirs))
    if ours.get(name) != theirs.get(name)
    and not (CHANGEABLE.fullmatch(name) or own_vae and name.startswith('vae.'))
  ]
  if differences:
    raise ValueError(
      f'start={config.start} is of another model than this config:\n  ' + '\n  '.join(differences)
    )


def find(path):
  """A path of a config: as given, or from the repository's root when it is relative and not
  found."""
  given = epath.Path(path)
  return given if given.is_absolute() or given.exists() else epath.Path(_ROOT / path)


def tokenizer_folder(config, workdir=None):
  """Where a run's tokenizer lies: its own copy, else the config's, else that of its start."""
  if workdir and (epath.Path(workdir) / 'tokenizer').exists():
    return os.fspath(epath.Path(workdir) / 'tokenizer')
  if config.start and not config.tokenizer:
    return os.fspath(epath.Path(config.start) / 'tokenizer')
  return config.tokenizer


def keep_tokenizer(config, workdir):
  """Copies the tokenizer's files into the workdir, so that the run needs no other folder."""
  source, copy = find(tokenizer_folder(config, workdir)), epath.Path(workdir) / 'tokenizer'
  copy.mkdir(parents=True, exist_ok=True)
  for name in TOKENIZER_FILES:
    if (source / name).exists() and not (copy / name).exists():
      (copy / name).write_text((source / name).read_text())


def load_tokenizer(path, pad_token):
  """transformers' CLIPTokenizer from a folder, padding with `pad_token`; never from the network.

  Raises:
    ValueError: no tokenizer there, or it does not know `pad_token`.
  """
  folder = find(path)
  if not (folder / 'vocab.json').exists():
    raise ValueError(
      f'tokenizer={path!r} is no folder with vocab.json and merges.txt. '
      'Point --config.tokenizer to the '
      'tokenizer/ folder of a CLIP or I2VGen-XL checkpoint.'
    )
  with tempfile.TemporaryDirectory() as local:  # transformers reads no buckets.
    for name in TOKENIZER_FILES:
      if (folder / name).exists():
        (pathlib.Path(local) / name).write_text((folder / name).read_text(), encoding='utf-8')
    tokenizer = transformers.CLIPTokenizer.from_pretrained(local, local_files_only=True)
  if pad_token not in tokenizer.get_vocab():
    raise ValueError(f'pad_token={pad_token!r} is no token of tokenizer {path!r}.')
  tokenizer.pad_token = pad_token
  return tokenizer


def make_tokenize(path, pad_token, text_encoder):
  """captions -> int32 (B, max_length), truncated and padded.

  Raises:
    ValueError: vocabulary or length is not the text encoder's.
  """
  tokenizer = load_tokenizer(path, pad_token)
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
  """`frozen_params`, and the text of a dropped caption."""
  frozen = frozen_params(config, components, mesh, workdir)
  encode_text = jit_once(components.encoders.encode_text, out_shardings=mesh_lib.replicated(mesh))
  null_text = encode_text(frozen, components.tokenize([config.negative_prompt]))
  return frozen | {'null_text': null_text}


def frozen_params(config, components, mesh, workdir=None):
  """Parameters of VAE and CLIP towers on the mesh.

  A run's own copy in workdir/frozen comes first, so that a resumed or sampled run uses the weights
  it was trained with; then a network's `weights`: a file or folder of a known format
  (pretrained/), or 'random'; then the copy of the run that it starts from.

  Raises:
    ValueError: no weights given, or a file that is not this network's.
  """
  encoders = components.encoders
  abstract = jax.eval_shape(encoders.init, jax.eval_shape(lambda: jax.random.key(0)))
  shardings = sharding.shard_tree(abstract, mesh, config.sharding.min_elements)
  placed = with_shardings(abstract, shardings)
  copy = epath.Path(workdir) / 'frozen' if workdir else None
  written = copy is not None and copy.exists()
  hosts.meet('all have looked for frozen weights, none has written them')
  if written:
    return checkpoint.load_tree(copy, placed)
  frozen = {}
  random = started = None
  for name in FROZEN:
    weights = config[name].weights
    if weights == 'random':
      if random is None:
        random = jit_once(encoders.init, out_shardings=shardings)(jax.random.key(RANDOM_SEED))
      frozen[name] = random[name]
    elif weights:
      module = getattr(encoders, name)
      frozen[name] = read.read_params(name, find(weights), config, module, placed[name])
    elif config.start:
      if started is None:
        started = checkpoint.load_tree(epath.Path(config.start) / 'frozen', placed)
      frozen[name] = started[name]
    else:
      raise ValueError(
        f'{name}.weights is not set: give --config.{name}.weights=FILE_OR_FOLDER, or '
        "'random', or start from a folder that has them: --config.start=DIR."
      )
    logging.info('%s weights: %s', name, weights or config.start)
  if copy is not None:
    checkpoint.save_tree(copy, frozen)
  return frozen


def load_run(workdir, weights='ema', step=None, devices=None):
  """A trained run or a folder of `load`, ready to sample from, with all its weights.

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
  config, components, mesh = open_run(workdir, devices)
  params, _ = load_unet(config, components, mesh, workdir, weights, step)
  return config, components, mesh, params, load_frozen(config, components, mesh, workdir)


def open_run(workdir, devices=None):
  """(config, components, mesh) of `load_run`."""
  config = checkpoint.read_config(workdir)
  with config.unlocked():
    config.start = ''  # The run has all of its own.
    config.tokenizer = tokenizer_folder(config, workdir)
  return config, build(config), mesh_lib.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1}, devices)


def load_unet(config, components, mesh, workdir, weights='ema', step=None):
  """(parameters of the U-Net, their step) of an opened run."""
  abstract = components.abstract_params(mesh, config.sharding.min_elements)
  return checkpoint.load_params(workdir, abstract, weights, step)


def with_shardings(abstract, shardings):
  """ShapeDtypeStructs that say where they lie."""
  return jax.tree.map(
    lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
    abstract,
    shardings,
  )
