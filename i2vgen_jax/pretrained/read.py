"""A network's parameters from whatever file or folder the user has."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import logging
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax.pretrained import (
  clip_names,
  files,
  sources,
  t5_names,
  tensors,
  unet_names,
  vae_names,
)

# Network -> (parameter path to tensor name, module to Formats).
NETWORKS = {
  'unet': (unet_names.name_of, unet_names.formats),
  'vae': (vae_names.name_of, vae_names.formats),
  'text_encoder': (clip_names.text_name_of, clip_names.text_formats),
  'image_encoder': (clip_names.vision_name_of, clip_names.vision_formats),
  't5': (t5_names.name_of, t5_names.formats),
}


def read_params(
  network: str,
  path: str | os.PathLike[str],
  config: ml_collections.ConfigDict,
  module: Any,
  abstract_params: tensors.Params,
  initial: Callable[[], tensors.Params] | None = None,
) -> tensors.Params:
  """Parameters on the shardings of `abstract_params`, read tensor by tensor; logs the format.

  Args:
    network: key of NETWORKS.
    path: file or folder; one in a bucket is first copied to the folder for temporary files.
    config: the config of the run, to compare with a config.json beside the weights.
    module: the Flax module.
    abstract_params: ShapeDtypeStructs.
    initial: () -> parameters that a format lacks, such as temporal layers in Stable Diffusion.

  Raises:
    ValueError: unreadable, or not this model's: every tensor that does not fit is named.
  """
  name_of, formats = NETWORKS[network]
  with files.fetched(path) as local:
    stored = _open(network, local, config, module)
    try:
      params, found = tensors.from_formats(
        stored, abstract_params, name_of, formats(module), initial
      )
    except ValueError as error:
      raise ValueError(f'{network} from {path}: {error}') from error
  logging.info('%s: %d tensors of %s, format %s.', network, len(stored), path, found.name)
  return params


def check_params(
  network: str,
  path: str | os.PathLike[str],
  config: ml_collections.ConfigDict,
  module: Any,
  abstract_params: tensors.Params,
) -> str:
  """The format of the files that `read_params` would read; names and shapes alone are looked at.

  What is in a bucket is not fetched: of that, only whether it is there.

  Args:
    network: as of `read_params`, like all others.
    path: file or folder.
    config: the config of the run.
    module: the Flax module.
    abstract_params: ShapeDtypeStructs.

  Raises:
    ValueError: as `read_params`.
  """
  if not storage.is_local(path):
    files.list_files(epath.Path(path))
    return 'there'
  name_of, formats = NETWORKS[network]
  stored = _open(network, pathlib.Path(path), config, module)
  try:
    return tensors.fit(stored, abstract_params, name_of, formats(module))[0].name
  except ValueError as error:
    raise ValueError(f'{network} from {path}: {error}') from error


def _open(
  network: str, local: pathlib.Path, config: ml_collections.ConfigDict, module: Any
) -> dict[str, files.StoredTensor]:
  sources.check_source(network, local if local.is_dir() else local.parent, config, module)
  return files.open_checkpoint(local)
