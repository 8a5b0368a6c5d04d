"""The frozen networks of a config: their modules, and where their parameters come from."""

import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath

from i2vgen_jax.models import clip, t5, vae
from i2vgen_jax.parallel import sharding, xla_profiles
from i2vgen_jax.pretrained import files, read
from i2vgen_jax.process import hosts, paths
from i2vgen_jax.stored import trees

# Classes by the block of a config that holds their `weights` and `model`.
MODULES = {
  'vae': vae.AutoencoderKL,
  'text_encoder': clip.CLIPText,
  'image_encoder': clip.CLIPVision,
  't5': t5.T5Encoder,
}
# Networks with weights='random' are drawn from this key: the same in every run.
RANDOM_SEED = 0
# Each of these has its part of the key; a later network draws by its name.
_FIRST = ('vae', 'text_encoder', 'image_encoder')


def modules(config: Any) -> dict[str, Any]:
  """Flax modules of the networks that the config has a block of, by block."""
  dtype = jnp.dtype(config.dtype)
  return {
    name: cls(**config[name].model, dtype=dtype) for name, cls in MODULES.items() if name in config
  }


def wanted(config: Any, read_by_signals: set[str]) -> tuple[str, ...]:
  """The networks that a run holds: its VAE, those that its signals read, and those that the config
  gives weights of, so that an export is complete."""
  return tuple(
    name
    for name in MODULES
    if name in config and (name == 'vae' or name in read_by_signals or config[name].weights)
  )


def init(networks: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
  """Random parameters of the networks by name; jit- and eval_shape-able."""
  keys = dict(zip(_FIRST, jax.random.split(key, len(_FIRST)), strict=True))
  return {
    name: module.init(
      keys[name] if name in keys else jax.random.fold_in(key, zlib.crc32(name.encode())),
      _example(module),
    )['params']
    for name, module in networks.items()
  }


def abstract(networks: Mapping[str, Any]) -> dict[str, Any]:
  """ShapeDtypeStructs of the networks' parameters."""
  return jax.eval_shape(lambda: init(networks, jax.random.key(0)))


def _example(module: Any) -> jax.Array:
  """The smallest input of a network."""
  if isinstance(module, vae.AutoencoderKL):
    pixels = 2 ** len(module.block_channels)
    return jnp.zeros((1, pixels, pixels, 3))
  if hasattr(module, 'image_size'):
    return jnp.zeros((1, module.image_size, module.image_size, 3))
  return jnp.zeros((1, module.max_length), jnp.int32)


def load(
  config: Any,
  networks: Mapping[str, Any],
  mesh: jax.sharding.Mesh,
  workdir: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Parameters by network, on the mesh.

  A run's own copy in workdir/frozen comes first, so that a resumed or sampled run uses the weights
  it was trained with; then a network's `weights`: a file or folder of a known format
  (pretrained/), or 'random'; then the copy of the run that it starts from.

  Args:
    config: of the run.
    networks: modules by name.
    mesh: of the run.
    workdir: of the run, which gets a copy; None keeps none.

  Raises:
    ValueError: the config gives no weights, or a file does not fit its network.
  """
  shapes = abstract(networks)
  shardings = sharding.shard_tree(shapes, mesh, config.sharding.min_elements)
  placed = sharding.with_shardings(shapes, shardings)
  copy = epath.Path(workdir) / 'frozen' if workdir else None
  written = copy is not None and copy.exists()
  hosts.meet('all have looked for frozen weights, none has written them')
  if written:
    fix = (
      f'Remove {copy}, and start `train` once more, with the weights that the run was started with.'
    )
    return trees.load_tree(copy, placed, fix, partly=True)
  frozen = {}
  draw = xla_profiles.jit_once(lambda key: init(networks, key), out_shardings=shardings)
  drawn = functools.cache(lambda: draw(jax.random.key(RANDOM_SEED)))
  started = functools.cache(
    lambda folder: trees.load_tree(
      folder,
      placed,
      f'Give the weights themselves, such as --config.vae.weights, or mend {config.start}.',
      partly=True,
    )
  )
  for name, module in networks.items():
    weights = config[name].weights
    if weights == 'random':
      frozen[name] = drawn()[name]
    elif weights:
      # A format may lack what nothing reads: the last layer of a text tower.
      zeros = functools.partial(_zeros, placed[name])
      source = paths.find(weights)
      frozen[name] = read.read_params(name, source, config, module, placed[name], zeros)
    else:
      folder = _of_start(config, name)
      frozen[name] = started(folder)[name]
    logging.info('%s weights: %s', name, weights or config.start)
  if copy is not None:
    trees.save_tree(copy, frozen)
  return frozen


def check_files(config: Any, networks: Mapping[str, Any]) -> None:
  """Raises ValueError for weights that the config names and that are not there."""
  for name in networks:
    if config[name].weights not in ('', 'random'):
      files.check_files(f'{name}.weights', config[name].weights)


def check_fit(config: Any, networks: Mapping[str, Any], workdir: epath.PathLike) -> dict[str, str]:
  """Network -> where `load` would take its weights from; names and shapes alone are read.

  Args:
    config: as of `load`, like all others.
    networks: modules by name.
    workdir: of the run.

  Raises:
    ValueError: the config gives no weights, or a file does not fit its network.
  """
  shapes, found = abstract(networks), {}
  copy = epath.Path(workdir) / 'frozen'
  for name, module in networks.items():
    weights = config[name].weights
    if copy.exists():
      found[name] = _check_stored(copy, name, shapes[name])
    elif weights == 'random':
      found[name] = 'random'
    elif weights:
      form = read.check_params(name, paths.find(weights), config, module, shapes[name])
      found[name] = f'{weights} ({form})'
    else:
      found[name] = _check_stored(_of_start(config, name), name, shapes[name])
  return found


def _check_stored(folder: epath.Path, name: str, shapes: Any) -> str:
  trees.check_tree(trees.stored(folder).tree.get(name, {}), shapes, f'{folder}, {name},')
  return str(folder)


def _of_start(config: Any, name: str) -> epath.Path:
  """The folder of the start's frozen weights; raises ValueError without a start."""
  if not config.start:
    raise ValueError(
      f'{name}.weights is not set: give --config.{name}.weights=FILE_OR_FOLDER, or '
      "'random', or start from a folder that has them: --config.start=DIR."
    )
  return epath.Path(config.start) / 'frozen'


def _zeros(abstract_params: Any) -> Any:
  return jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), abstract_params
  )
