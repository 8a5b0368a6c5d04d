"""Compares the configs of a folder of diffusers or transformers with ours.

The shapes of a folder's tensors tell most of what model they are of; here is checked what no shape
shows.
"""

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
from absl import logging
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax.pretrained import configs, t5_names

IMAGE_UNET = 'UNet2DConditionModel'  # Stable Diffusion's.

# diffusers' converter of January 2024 wrote it into the release's vae/config.json by mistake; VGen
# trained with 0.18215, as Stable Diffusion did.
MISTAKEN_SCALING_FACTOR = 0.18125


def check_source(
  network: str, folder: pathlib.Path, config: ml_collections.ConfigDict, module: Any
) -> None:
  """Compares a folder's config.json, if it has one, with ours in what no tensor's shape shows.

  Args:
    network: 'unet', 'vae', 'text_encoder', 'image_encoder' or 't5'.
    folder: a folder of diffusers or transformers.
    config: our config.
    module: the Flax module, which says what T5 is in place of the config.

  Raises:
    ValueError: a field differs; all are named.
  """
  path = folder / 'config.json'
  if not path.exists():
    return
  theirs = json.loads(path.read_text())
  nested = {'text_encoder': 'text_config', 'image_encoder': 'vision_config'}.get(network)
  theirs = theirs.get(nested) or theirs  # Both towers in one folder have a config in a config.
  if network == 't5':
    ours = t5_names.unseen_fields(module)
  else:
    ours = _unseen_fields(network, theirs, config)
  differences = [
    f'{name}: {theirs[name]}, the config makes {value}'
    for name, value in ours.items()
    if name in theirs and theirs[name] != value
  ]
  if differences:
    raise ValueError(f'{path} is of another model:\n  ' + '\n  '.join(differences))
  if network == 'vae':
    _check_scaling_factor(path, theirs.get('scaling_factor'), config.vae.scaling_factor)


def _unseen_fields(
  network: str, theirs: Mapping[str, Any], config: ml_collections.ConfigDict
) -> dict[str, Any]:
  model = config.unet if network == 'unet' else config[network].model
  if network == 'vae':
    return dict(norm_num_groups=model.norm_groups)
  if network != 'unet':
    return dict(num_attention_heads=model.num_heads, hidden_act=model.activation)
  head_dim = model.head_dim
  if theirs.get('_class_name') == 'UNet2DConditionModel':
    # This class keeps the number of heads there, one for all levels or one for each.
    head_dim = [channels // model.head_dim for channels in model.block_channels]
    head_dim = head_dim if isinstance(theirs.get('attention_head_dim'), list) else head_dim[0]
  return dict(norm_num_groups=model.norm_groups, attention_head_dim=head_dim)


def _check_scaling_factor(path: pathlib.Path, theirs: float | None, ours: float) -> None:
  if theirs is None or theirs == ours:
    return
  advice = f'--config.vae.scaling_factor={theirs} takes the one of the file'
  if theirs == MISTAKEN_SCALING_FACTOR:
    logging.warning(
      '%s: scaling_factor %s is a known slip; kept %s. %s.', path, theirs, ours, advice
    )
    return
  raise ValueError(f'{path}: scaling_factor is {theirs}, the config has {ours}: {advice}.')


# A field of a folder's config.json -> ours, of what tells one model from another.
SIZES = {
  ('unet', 'block_out_channels'): 'unet.block_channels',
  ('text_encoder', 'vocab_size'): 'text_encoder.model.vocab_size',
  ('text_encoder', 'hidden_size'): 'text_encoder.model.hidden_size',
  ('image_encoder', 'hidden_size'): 'image_encoder.model.hidden_size',
}


def check_sizes(pipeline: epath.PathLike, config: ml_collections.ConfigDict, flag: str) -> None:
  """Checks that a pipeline's folder is of the config's model, by what its config.json files say.

  Args:
    pipeline: a folder of diffusers.
    config: of the model.
    flag: that gave the config, with its value.

  Raises:
    ValueError: a size differs.
  """
  for (part, field), name in SIZES.items():
    path, block = epath.Path(pipeline) / part / 'config.json', name.partition('.')[0]
    if block not in config or not path.exists():
      continue
    theirs = storage.read_json(path).get(field)
    ours = functools.reduce(lambda found, key: found[key], name.split('.'), config)
    if theirs is not None and theirs != (list(ours) if isinstance(ours, tuple) else ours):
      option = flag.partition('=')[0]
      raise ValueError(
        f'{path} says {field}={theirs}, and {flag} makes {name}={ours}, which is another model: '
        f'give the config of these weights as {option}, such as {option}=configs/demo.py for those '
        'of the demo.'
      )


def check_scheduler(pipeline: epath.PathLike, config: ml_collections.ConfigDict) -> None:
  """Compares the scheduler of a pipeline's folder, if it has one, with what the config says.

  An image model may differ: a video model that starts from it is trained to predict anew. Then a
  warning is logged.

  Raises:
    ValueError: a video model was trained to predict something else, or on another noise schedule;
      the message has the flags that say so.
  """
  folder = epath.Path(pipeline)
  path, unet = folder / 'scheduler' / 'scheduler_config.json', folder / 'unet' / 'config.json'
  if not path.exists():
    return
  found = _trained_on(path)
  differences = {
    field: value
    for field, value in found.items()
    if config[field.partition('.')[0]][field.partition('.')[2]] != value
  }
  if not differences:
    return
  flags = ' '.join(f'--config.{field}={value}' for field, value in differences.items())
  is_image_model = unet.exists() and json.loads(unet.read_text()).get('_class_name') == IMAGE_UNET
  if not is_image_model:
    unknown = [field for field, value in differences.items() if value is None]
    advice = f'there is no {unknown[0]} for that' if unknown else f'add {flags}'
    raise ValueError(
      f'{path} is of weights that were trained otherwise than the config says: {advice}.'
    )
  logging.warning('%s: the image model was trained with %s; the config trains anew.', path, flags)


def _trained_on(path: epath.Path) -> dict[str, Any]:
  """Fields of a config, by what a scheduler's config says; None is what we have no name for."""
  theirs = json.loads(path.read_text())
  kind = None
  for ours, betas in configs.BETA_SCHEDULES.items():
    # The betas of 'squaredcos_cap_v2' follow from nothing else.
    fields = betas if ours == 'scaled_linear' else dict(beta_schedule=betas['beta_schedule'])
    if all(theirs.get(field) == value for field, value in fields.items()):
      kind = ours
  types = {theirs_: ours for ours, theirs_ in configs.PREDICTION_TYPES.items()}
  return {
    'loss.prediction_type': types.get(theirs.get('prediction_type', 'epsilon')),
    'schedule.kind': kind,
    'schedule.zero_terminal_snr': bool(theirs.get('rescale_betas_zero_snr', False)),
    'schedule.num_timesteps': theirs.get('num_train_timesteps', 1000),
  }
