"""The first weights of a run from another run's, also where the new model has fewer conditions.

A refinement stage starts from its base stage: what the base has and the refinement lacks, its image
conditioners, is dropped by name; the first convolution keeps the channels of the noisy latents.
"""

import re
from typing import Any

import jax
import ml_collections
from absl import logging
from etils import epath

from i2vgen_jax import checkpoint, lora
from i2vgen_jax import frozen as frozen_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.stored import run_config

FIRST_CONVOLUTION = 'conv_in/kernel'
# Fields that may differ between a config and the run that it starts from.
CHANGEABLE = re.compile(
  r'unet\.(dropout|remat|row_margin|free_u)|\w+\.(weights|frames_per_chunk|tile|tile_overlap)'
)


def check(config: ml_collections.ConfigDict) -> None:
  """Compares the config's model with that of the run or folder `config.start`.

  The config may leave conditioners out, and name an autoencoder of its own with its weights.

  Raises:
    ValueError: the models differ in anything else; every difference is listed.
  """
  blocks = ('unet', *(name for name in frozen_lib.MODULES if name in config))
  started = run_config.read(config.start)
  ours, theirs = (
    run_config.flatten({block: tree[block] for block in blocks if block in tree})
    for tree in (run_config.plain(config), run_config.plain(started))
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


def load(workdir: epath.PathLike, abstract_params: Any, mesh: jax.sharding.Mesh) -> Any:
  """The averaged weights of the newest checkpoint, as parameters of another model.

  Args:
    workdir: of the run to start from, or a folder of `load`.
    abstract_params: ShapeDtypeStructs with shardings, of the new run.
    mesh: of the new run.

  Raises:
    ValueError: there is no such run, or its model lacks a parameter of the new one.
  """
  config = run_config.read(workdir)
  with config.unlocked():
    config.start = ''  # The run has all of its own.
  started = session_lib.build(config, workdir, reads_captions=False).on(mesh)
  params, _ = checkpoint.load_params(workdir, started.abstract_params())
  if lora.is_used(config):
    params = jax.jit(lora.merge)(params, config.lora.alpha)
  # New adapters start from their own initialisation.
  wanted = {name: block for name, block in abstract_params.items() if name != lora.KEY}
  return restrict(params, wanted, workdir)


def restrict(params: Any, abstract_params: Any, source: epath.PathLike) -> Any:
  """The part of `params` that the abstract model has; logs what is dropped.

  Args:
    params: of a model that has more conditions.
    abstract_params: ShapeDtypeStructs with shardings, of the model that is wanted.
    source: names the weights in logs and errors.

  Raises:
    ValueError: a parameter is missing or of another shape; the first 20 are named.
  """
  found, wanted = sharding.by_path(params), sharding.by_path(abstract_params)
  problems, kept = [], []
  for name, leaf in wanted.items():
    value = found.get(name)
    if value is None:
      problems.append(f'missing {name}')
    elif value.shape == leaf.shape:
      kept.append(value.astype(leaf.dtype))
    elif name == FIRST_CONVOLUTION and value[:, :, : leaf.shape[2]].shape == leaf.shape:
      kept.append(_first_channels(value, leaf))
      logging.info(
        'Start from %s: of the %d input channels of %s the first %d are kept, the noisy latents.',
        source, value.shape[2], name, leaf.shape[2],
      )  # fmt: skip
    else:
      problems.append(f'{name}: {list(value.shape)}, needed is {list(leaf.shape)}')
  if problems:
    raise ValueError(
      f'{source} is no start for the model of this config:\n  ' + '\n  '.join(problems[:20])
    )
  dropped = sorted(set(found) - set(wanted))
  if dropped:
    logging.info(
      'Start from %s: %d tensors are dropped, the new model has no place for them:\n  %s',
      source, len(dropped), '\n  '.join(dropped),
    )  # fmt: skip
  return jax.tree.unflatten(jax.tree.structure(abstract_params), kept)


def _first_channels(kernel: jax.Array, leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """A convolution's kernel (height, width, in, out) for fewer inputs, placed as `leaf` says."""
  return jax.jit(lambda x: x[:, :, : leaf.shape[2]], out_shardings=leaf.sharding)(kernel)
