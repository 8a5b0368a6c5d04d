"""CLIP's two towers as transformers' CLIPModel has them: pictures and captions to unit vectors.

Weights, config and tokenizer come from one folder in transformers' format, such as that of
clip-vit-large-patch14, which the aesthetic and NSFW heads of LAION were trained on.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax.models import clip
from i2vgen_jax.pretrained import clip_names, files, tensors


class ClipScorer:
  """Embeds pictures and captions; batches are spread over this host's devices.

  The devices are taken when the first batch comes. Pickled, it is the folder's name: another host
  has the same folder, and loads the weights itself.

  Attributes:
    image_size: side of the pictures.
    dim: length of the vectors.
    weights: the file that they came from.
  """

  def __init__(self, folder: str) -> None:
    path, self._folder = epath.Path(folder), folder
    if not storage.is_local(folder):
      raise ValueError(f'{folder}: transformers reads no buckets. Copy the folder to a disk.')
    self.weights = path / 'model.safetensors'
    for name in ('config.json', 'model.safetensors', 'vocab.json', 'merges.txt'):
      if not (path / name).exists():
        raise ValueError(
          f'{folder} has no {name}; a folder of transformers with config.json, model.safetensors, '
          'vocab.json and merges.txt is needed, such as that of clip-vit-large-patch14.'
        )
    config = transformers.CLIPConfig.from_pretrained(os.fspath(path), local_files_only=True)
    self._tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(
      os.fspath(path), local_files_only=True
    )
    self.dim = config.projection_dim
    self.image_size = config.vision_config.image_size
    self._length = config.text_config.max_position_embeddings
    self._vision: Any = clip.CLIPVision(
      patch_size=config.vision_config.patch_size,
      image_size=self.image_size,
      projection_dim=self.dim,
      **_sizes(config.vision_config),
    )
    self._text: Any = clip.CLIPText(
      vocab_size=config.text_config.vocab_size,
      max_length=self._length,
      **_sizes(config.text_config),
    )
    self._stored = files.open_checkpoint(self.weights)
    if 'text_projection.weight' not in self._stored:
      raise ValueError('model.safetensors has no text_projection.weight: it is no CLIPModel.')
    self._embed_images = jax.jit(self._images)
    self._embed_texts = jax.jit(self._texts)

  def __reduce__(self) -> tuple[Any, ...]:
    return type(self), (self._folder,)

  def images(self, pixels_BHWC: np.ndarray) -> np.ndarray:
    """Unit vectors, float32 (B, dim), of uint8 RGB pictures of image_size."""
    return np.asarray(self._embed_images(self._params, self._place(pixels_BHWC)))

  def texts(self, captions: Sequence[str]) -> np.ndarray:
    """Unit vectors, float32 (B, dim); long captions are cut."""
    ids_BL = self._tokenizer(
      list(captions), padding='max_length', truncation=True, max_length=self._length
    )['input_ids']
    ids_BL = np.asarray(ids_BL, np.int32)
    # The first end token is where the caption is read off; padding repeats it.
    ends_B = (ids_BL == self._tokenizer.eos_token_id).argmax(axis=1)
    return np.asarray(self._embed_texts(self._params, *map(self._place, (ids_BL, ends_B))))

  @functools.cached_property
  def _over_batch(self) -> jax.NamedSharding:
    return jax.NamedSharding(jax.sharding.Mesh(jax.local_devices(), 'data'), jax.P('data'))

  @functools.cached_property
  def _params(self) -> Any:
    weights = self._stored
    pixels = np.zeros((1, self.image_size, self.image_size, 3), np.float32)
    ids = np.zeros((1, self._length), np.int32)
    key = jax.random.key(0)
    params = {
      'vision': tensors.from_formats(
        weights,
        jax.eval_shape(self._vision.init, key, pixels)['params'],
        clip_names.vision_name_of,
        clip_names.vision_formats(self._vision),
      )[0],
      'text': tensors.from_formats(
        weights,
        jax.eval_shape(self._text.init, key, ids)['params'],
        clip_names.text_name_of,
        clip_names.text_formats(self._text),
      )[0],
      'projection_DE': np.asarray(weights['text_projection.weight']).astype(np.float32).T,
    }
    return jax.device_put(params, jax.NamedSharding(self._over_batch.mesh, jax.P()))

  def _place(self, values: np.ndarray) -> jax.Array | np.ndarray:
    """Puts values on all devices if these divide the batch, else on one."""
    whole = len(values) % self._over_batch.mesh.size == 0
    return jax.device_put(values, self._over_batch) if whole else values

  def _images(self, params: Any, pixels_BHWC: jax.Array) -> jax.Array:
    normalised_BHWC = clip.normalize(pixels_BHWC)
    return _unit(self._vision.apply({'params': params['vision']}, normalised_BHWC))

  def _texts(self, params: Any, ids_BL: jax.Array, ends_B: jax.Array) -> jax.Array:
    states_BLD = self._text.apply({'params': params['text']}, ids_BL, skip_layers=0)
    ended_BD = jnp.take_along_axis(states_BLD, ends_B[:, None, None], axis=1)[:, 0]
    return _unit(ended_BD @ params['projection_DE'])


def _sizes(config: Any) -> dict[str, Any]:
  return dict(
    hidden_size=config.hidden_size,
    intermediate_size=config.intermediate_size,
    num_layers=config.num_hidden_layers,
    num_heads=config.num_attention_heads,
    activation=config.hidden_act,
  )


def _unit(vectors_BD: jax.Array) -> jax.Array:
  return vectors_BD / jnp.linalg.norm(vectors_BD, axis=-1, keepdims=True)
