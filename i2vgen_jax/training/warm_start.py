"""The first weights of a run from another run's, also where the new model has fewer conditions.

A refinement stage starts from its base stage: what the base has and the refinement lacks, its image
conditioners, is dropped by name; of the first convolution the channels of the noisy latents stay.
"""

import jax
from absl import logging

from i2vgen_jax import checkpoint, lora
from i2vgen_jax import components as components_lib
from i2vgen_jax.parallel import sharding

FIRST_CONVOLUTION = 'conv_in/kernel'


def load(workdir, abstract_params, mesh, min_elements):
  """The averaged weights of the newest checkpoint, as parameters of another model.

  Args:
    workdir: of the run to start from, or a folder of `load`.
    abstract_params: ShapeDtypeStructs with shardings, of the new run.
    mesh: of the new run.
    min_elements: config.sharding.min_elements.

  Raises:
    ValueError: no such run, or its model has not all that the new one needs.
  """
  config = checkpoint.read_config(workdir)
  with config.unlocked():
    config.start = ''  # The run has all of its own.
  started = components_lib.build(config, workdir)
  params, _ = checkpoint.load_params(workdir, started.abstract_params(mesh, min_elements))
  if lora.is_used(config):
    params = jax.jit(lora.merge)(params, config.lora.alpha)
  # New adapters start as they are made.
  wanted = {name: block for name, block in abstract_params.items() if name != lora.KEY}
  return restrict(params, wanted, workdir)


def restrict(params, abstract_params, source):
  """The part of `params` that the abstract model has; logs what is dropped.

  Raises:
    ValueError: a parameter is missing or of another shape; all are named.
  """
  flatten = jax.tree_util.tree_flatten_with_path
  found = {sharding.path_name(path): leaf for path, leaf in flatten(params)[0]}
  wanted, treedef = flatten(abstract_params)
  wanted = {sharding.path_name(path): leaf for path, leaf in wanted}
  problems, kept = [], []
  for name, leaf in wanted.items():
    value = found.get(name)
    if value is None:
      problems.append(f'missing {name}')
    elif value.shape == leaf.shape:
      kept.append(value)
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
  return jax.tree.unflatten(treedef, kept)


def _first_channels(kernel, leaf):
  """A convolution's kernel (height, width, in, out) for fewer inputs, placed as `leaf` says."""
  return jax.jit(lambda x: x[:, :, : leaf.shape[2]], out_shardings=leaf.sharding)(kernel)
