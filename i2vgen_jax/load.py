"""Turns released weights into a folder that train, sample and export start from.

  python -m i2vgen_jax.load --config=configs/i2v.py --pipeline=DIFFUSERS_FOLDER --output=DIR
  python -m i2vgen_jax.load --config=configs/i2v.py --unet=i2vgen_xl_00854500.pth \
      --vae=v2-1_512-ema-pruned.safetensors --text_encoder=OPEN_CLIP --image_encoder=OPEN_CLIP \
      --tokenizer=FOLDER --output=DIR

Each network's format is found by the names of its tensors: see docs/weights.md. Then
`sample --workdir=DIR`, `export --workdir=DIR` and `train --config=... --config.start=DIR` take it
from there.
"""

from absl import flags

from i2vgen_jax.process import cli, config_flag, tables

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  config_flag.define()
  flags.DEFINE_string('output', None, 'Folder to write; must not exist.')
  flags.DEFINE_string('pipeline', None, 'Folder of a diffusers pipeline with all parts.')
  for name in tables.names('i2vgen_jax/pretrained/read.py', 'NETWORKS'):
    flags.DEFINE_string(name, None, f'File or folder with the weights of the {name}.')
  flags.DEFINE_string('tokenizer', None, "Folder with CLIP's vocab.json and merges.txt.")
  flags.DEFINE_string('t5_tokenizer', None, "Folder with T5's tokenizer.json or spiece.model.")
  flags.mark_flags_as_required(['config', 'output'])
  cli.run(__file__)

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from etils import epath

from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import xla_profiles
from i2vgen_jax.pretrained import files, frozen, read
from i2vgen_jax.pretrained import sources as sources_lib
from i2vgen_jax.process import output_folder, paths
from i2vgen_jax.stored import run_config, trees

PARTS = (*read.NETWORKS, 'tokenizer', 't5_tokenizer')


def main() -> None:
  """Finds the sources and loads them."""
  given = flags.FLAGS
  sources: dict[str, Any] = {part: given[part].value for part in PARTS if given[part].value}
  if given.pipeline:
    if 'unet' not in sources:
      sources_lib.check_sizes(given.pipeline, given.config, '--config')
      sources_lib.check_scheduler(given.pipeline, given.config)
    sources = find_parts(given.pipeline) | sources
  load(given.config, sources, given.output)
  print(f'Wrote {given.output}: give it to train as --config.start, to others as --workdir.')


def find_parts(pipeline: epath.PathLike) -> dict[str, str]:
  """Part -> its folder in the folder of a diffusers pipeline.

  Raises:
    ValueError: the folder holds no pipeline.
  """
  folder = epath.Path(pipeline)
  if not (folder / 'model_index.json').exists():
    raise ValueError(
      f'pipeline={str(pipeline)!r} has no model_index.json: it is no folder of a diffusers '
      'pipeline.'
      f'{paths.hub_hint(str(pipeline))}'
    )
  return {part: str(folder / part) for part in PARTS if (folder / part).is_dir()}


def load(
  config: ml_collections.ConfigDict, sources: Mapping[str, str], output: epath.PathLike
) -> None:
  """Writes config.json, tokenizer/, params/ and frozen/ into the new folder `output`, or nothing.

  Args:
    config: of the model; its own `tokenizer` and `weights` are read where `sources` has none.
    sources: paths by part: unet, tokenizer, t5_tokenizer, and blocks of the config such as vae.
    output: folder that does not exist yet.

  Raises:
    ValueError: `output` exists, a part is missing, or weights do not fit the config.
  """
  output_folder.check(output)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for part, path in sources.items():
      block = part.removesuffix('_tokenizer')
      if part == 'tokenizer':
        config.tokenizer = path
      elif part != 'unet':
        if block not in config:
          raise ValueError(f'--{part}: the config has no block {block}, so its model reads none.')
        config[block]['weights' if block == part else 'tokenizer'] = path
  if 'unet' not in sources:
    raise ValueError('No U-Net to load: give --unet=FILE_OR_FOLDER, or --pipeline with one.')
  session = session_lib.build(config).on(mesh_lib.make_mesh(config.mesh))
  frozen.check_files(config, session.networks)
  files.check_files('--unet', sources['unet'])
  with output_folder.written_whole(output) as folder:
    run_config.write(folder, config)
    for signal in session.signals.values():
      signal.keep_files(folder)
    frozen.load(config, session.networks, session.mesh, folder)
    trees.save_tree(folder / 'params', read_unet(session, sources['unet']))


def read_unet(session: session_lib.Session, path: str) -> Any:
  """The U-Net's parameters on the mesh; what the file's format lacks is drawn as for a new run.

  Raises:
    ValueError: the file is missing, of an unknown format, or of another model.
  """
  config, abstract = session.config, session.abstract_params()

  def initial():
    init = xla_profiles.jit_once(
      lambda key: session.unet.init(key, *session.smallest_unet_zeros())['params'],
      out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
    )
    return init(jax.random.key(config.seed))

  return read.read_params('unet', paths.find(path), config, session.unet, abstract, initial)
