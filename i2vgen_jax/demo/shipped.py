"""Models that are shipped with the code: 'builtin:demo' stands for a workdir.

  python -m i2vgen_jax.demo.shipped --workdir=scenes/run --output=i2vgen_jax/demo/scenes

writes a run's averaged weights as float16 safetensors, beside the autoencoder and the tokenizer
that are there. `folder` makes of them what `load` makes of any weights, once per user. Every
command takes such a name where it takes a workdir (process/cli.py).
"""

from absl import flags

from i2vgen_jax.process import cli

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  flags.DEFINE_string('workdir', None, 'Workdir of the run to ship.')
  flags.DEFINE_string('output', None, 'Folder to write the networks to.')
  flags.mark_flags_as_required(['workdir', 'output'])
  cli.run(__file__)

import hashlib
import os
import pathlib

import jax.numpy as jnp
import safetensors.numpy
from absl import logging

from i2vgen_jax import load
from i2vgen_jax import session as session_lib
from i2vgen_jax.pretrained import frozen, read, tensors
from i2vgen_jax.process import config_flag, paths
from i2vgen_jax.stored import trained

# Name -> (config, folder with its networks and tokenizer).
MODELS = {'demo': ('configs/scenes.py', 'i2vgen_jax/demo/scenes')}
NETWORKS = ('unet', 'text_encoder', 'image_encoder')


def folder(workdir: str) -> str:
  """The folder of `load` for 'builtin:NAME', which is made at its first use.

  Raises:
    ValueError: no such model is shipped, or the user's cache cannot be written to.
  """
  name = workdir.removeprefix(cli.SHIPPED)
  if name not in MODELS:
    known = ', '.join(f'{cli.SHIPPED}{model}' for model in MODELS)
    raise ValueError(f'{workdir} is unknown; known: {known}.')
  config, source = MODELS[name][0], paths.ROOT / MODELS[name][1]
  made = cache() / _digest(source) / name  # Pages and cards show the last part.
  if made.exists():
    return str(made)
  logging.info('Unpacking %s into %s, once.', workdir, made)
  parts = {part: str(source / f'{part}.safetensors') for part in (*NETWORKS, 'vae')}
  try:
    load.load(config_flag.load(config), parts | dict(tokenizer=str(source / 'tokenizer')), made)
  except (PermissionError, NotADirectoryError) as error:
    raise ValueError(
      f'{made} is not writable: {error}. Set XDG_CACHE_HOME to a folder that is.'
    ) from error
  except (OSError, ValueError):
    if not made.exists():  # Else another process was faster.
      raise
  return str(made)


def cache() -> pathlib.Path:
  """Where this user's caches are: $XDG_CACHE_HOME/i2vgen_jax, or ~/.cache/i2vgen_jax."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'i2vgen_jax'


def main() -> None:
  """Writes the networks."""
  workdir, output = flags.FLAGS.workdir, pathlib.Path(flags.FLAGS.output)
  session = session_lib.open_run(workdir)
  params, step = trained.load_params(workdir, session.abstract_params())
  held = frozen.load(session.config, session.networks, session.mesh, workdir)
  for network in NETWORKS:
    name_of, _ = read.NETWORKS[network]
    tree = params if network == 'unet' else held[network]
    path = output / f'{network}.safetensors'
    safetensors.numpy.save_file(tensors.to_torch(tree, name_of, dtype=jnp.dtype('float16')), path)
    path.chmod(0o644)  # safetensors lets only the owner read.
    print(f'{path}: {path.stat().st_size / 1e6:.2f} MB, step {step}')


def _digest(source: pathlib.Path) -> str:
  found = hashlib.sha256()
  for path in sorted(path for path in source.rglob('*') if path.is_file()):
    found.update(path.relative_to(source).as_posix().encode() + path.read_bytes())
  return found.hexdigest()[:12]
