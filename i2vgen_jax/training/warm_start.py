"""The first weights of a run from another run's, also where the model has other conditions.

What the start has and the new model lacks is dropped: a refinement stage drops its base stage's
image conditioners. What the start lacks grows in: its parameters are as a new run's, and its share
in what the model computes rises from 0, or its weights in the first convolution start at zero, so
that the first output is the start's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging
from etils import epath

from i2vgen_jax import conditions
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import lora
from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.process import run_folder
from i2vgen_jax.stored import run_config, trained
from i2vgen_jax.training import wandb_run

FIRST_CONVOLUTION = 'conv_in/kernel'
NOISE = 'the noisy latents'
# Fields that may differ between a config and the run that it starts from.
CHANGEABLE = re.compile(
  r'unet\.(dropout|remat|row_margin|free_u|growing)'
  r'|\w+\.(weights|tokenizer|frames_per_chunk|tile|tile_overlap)'
)


def opened(
  config: ml_collections.ConfigDict, workdir: epath.PathLike
) -> tuple[ml_collections.ConfigDict, session_lib.Session]:
  """(the config with what its start decides, its session without weights); raises ValueError for
  what a config can be wrong in before there are devices."""
  has_state = run_folder.is_saved(workdir)
  if config.train.wandb:
    wandb_run.check(config.train.wandb)
  if config.start:
    config = check(config)
  elif config.lora.rank and not has_state:
    raise ValueError(
      f'lora.rank={config.lora.rank} trains adapters alone, and the weights that they adapt would '
      'be random: give --config.start=FOLDER, of `load` or of a run.'
    )
  session = session_lib.build(config, workdir if has_state else None)
  if not has_state:
    frozen_lib.check_files(config, session.networks)
  return config, session


def check(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Compares the config's model with that of the run or folder `config.start`.

  The config may leave conditioners out, add some, and name an autoencoder of its own with its
  weights.

  Returns:
    The config, whose unet.growing are the conditioners that the start lacks and that grow in.

  Raises:
    ValueError: the models differ in anything else; every difference is listed.
  """
  started = run_config.read(config.start)
  kept, added, dropped = compare(started, config)
  shared = {'unet', 'vae'} | {
    network for cls in conditions.signal_classes(kept) for network in cls.networks
  }
  ours, theirs = (
    run_config.flatten({block: tree[block] for block in shared if block in tree})
    for tree in (run_config.plain(config), run_config.plain(started))
  )
  kinds = [line.kind for line in kept]
  for fields in (ours, theirs):
    lines = fields['unet.conditioners']
    fields['unet.conditioners'] = [line for line in lines if line['kind'] in kinds]
  own_vae = config.vae.weights not in ('', started.vae.weights)
  differences = [
    f'{name}: {theirs.get(name, "(absent)")} -> {ours.get(name, "(absent)")}'
    for name in sorted(set(ours) | set(theirs))
    if ours.get(name) != theirs.get(name)
    and not (CHANGEABLE.fullmatch(name) or own_vae and name.startswith('vae.'))
  ]
  if differences:
    raise ValueError(
      f'start={config.start} is of another model than this config: {"; ".join(differences)}.'
    )
  growing = growing_of(config, kept, added)
  if added or dropped:
    names = lambda lines: ', '.join(line.kind for line in lines) or 'none'  # noqa: E731
    logging.info(
      'Start from %s: conditioners added: %s; dropped: %s. %s',
      config.start, names(added), names(dropped),
      f'What is added grows in over {config.train.growth_steps} steps.' if growing
      else 'The first output is not the start\'s.' if dropped or not kept else '',
    )  # fmt: skip
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.unet.growing = growing
  return config


def compare(
  started: ml_collections.ConfigDict, config: ml_collections.ConfigDict
) -> tuple[list[conditions.Line], list[conditions.Line], list[conditions.Line]]:
  """The lines of the config's conditioners that the start has, those that it lacks, and the
  start's that the config lacks."""
  ours, theirs = (conditions.read(each.unet.conditioners) for each in (config, started))
  our_kinds, their_kinds = ({line.kind for line in lines} for lines in (ours, theirs))
  return (
    [line for line in ours if line.kind in their_kinds],
    [line for line in ours if line.kind not in their_kinds],
    [line for line in theirs if line.kind not in our_kinds],
  )


def growing_of(
  config: ml_collections.ConfigDict,
  kept: Iterable[conditions.Line],
  added: Iterable[conditions.Line],
) -> tuple[str, ...]:
  """The kinds whose share rises from 0: those added, but for channels, which start at zero.

  None without growth_steps, or where no context tokens are kept for the others to grow beside.
  """
  beside = any(line.conditioner.route == 'context' for line in kept)
  if not (beside and config.train.growth_steps):
    return ()
  return tuple(line.kind for line in added if line.conditioner.route != 'concat')


def load(config: ml_collections.ConfigDict, abstract_params: Any, mesh: jax.sharding.Mesh) -> Any:
  """The averaged weights of the newest checkpoint, as parameters of another model.

  Args:
    config: of the new run; config.start is the run to start from, or a folder of `load`.
    abstract_params: ShapeDtypeStructs with shardings, of the new run.
    mesh: of the new run.

  Returns:
    By block, what the start has of them; adapters and added conditioners stay as they are.

  Raises:
    ValueError: there is no such run, its own conditions still grow, its model lacks a parameter of
      the new one, or adapters alone are trained of a model that grows.
  """
  started_config = run_config.read(config.start)
  with started_config.unlocked():
    started_config.start = ''  # The run has all of its own.
  started = session_lib.build(started_config, config.start, reads_captions=False).on(mesh)
  params, step = trained.load_params(config.start, started.abstract_params())
  run_config.check_grown(started_config, step, f'start={config.start}')
  if lora.is_used(started_config):
    params = jax.jit(lora.merge)(params, started_config.lora.alpha)
  _, added, _ = compare(started_config, config)
  new = {line.name for line in added} & set(abstract_params)
  if new and lora.KEY in abstract_params:
    raise ValueError(
      f'start={config.start} lacks the conditioners {sorted(new)}, which adapters alone do not '
      'train. Set lora.rank=0, or leave them out of unet.conditioners.'
    )
  wanted = {name: block for name, block in abstract_params.items() if name not in {lora.KEY} | new}
  inputs = [input_names(each.unet.conditioners) for each in (started_config, config)]
  return restrict(params, wanted, config.start, *inputs)


def input_names(lines: Iterable[Mapping[str, Any]]) -> list[str]:
  """What the input channels of the first convolution are, in equal parts."""
  concat = [line.kind for line in conditions.read(lines) if line.conditioner.route == 'concat']
  return [NOISE, *concat]


def restrict(
  params: Any,
  abstract_params: Any,
  source: epath.PathLike,
  inputs: Sequence[str] = (NOISE,),
  wanted_inputs: Sequence[str] = (NOISE,),
) -> Any:
  """The part of `params` that the abstract model has; logs what is dropped.

  Args:
    params: of a model that may have more conditions.
    abstract_params: ShapeDtypeStructs with shardings, of the model that is wanted.
    source: names the weights in logs and errors.
    inputs: of the first convolution, as input_names returns them.
    wanted_inputs: likewise, of the model that is wanted; those that `inputs` lack start at zero.

  Raises:
    ValueError: a parameter is missing or of another shape; the first 20 are named.
  """
  found, wanted = sharding.by_path(params), sharding.by_path(abstract_params)
  problems, kept = [], []
  for name, leaf in wanted.items():
    value = found.get(name)
    if name == FIRST_CONVOLUTION and value is not None and list(inputs) != list(wanted_inputs):
      value = _by_input(value, inputs, wanted_inputs, leaf.sharding)
      logging.info(
        'Start from %s: the inputs of %s were %s, and are %s; new ones start at zero.',
        source, name, ', '.join(inputs), ', '.join(wanted_inputs),
      )  # fmt: skip
    if value is None:
      problems.append(f'missing {name}')
    elif value.shape == leaf.shape:
      kept.append(value.astype(leaf.dtype))
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


def _by_input(
  kernel: jax.Array, inputs: Sequence[str], wanted: Sequence[str], placed: jax.sharding.Sharding
) -> jax.Array:
  """A convolution's kernel (height, width, in, out) for other inputs; zero for new ones."""

  def rearrange(kernel):
    parts = dict(zip(inputs, jnp.split(kernel, len(inputs), axis=2), strict=True))
    new = jnp.zeros_like(parts[NOISE])
    return jnp.concatenate([parts.get(name, new) for name in wanted], axis=2)

  return jax.jit(rearrange, out_shardings=placed)(kernel)
