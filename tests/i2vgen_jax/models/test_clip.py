"""CLIP towers against transformers' on random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax.models import clip
from i2vgen_jax.pretrained import clip_names, tensors

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

RTOL = 1e-5  # float32 rounding over a few layers: 6e-7 seen.

TEXT = dict(
  vocab_size=50, hidden_size=24, intermediate_size=40, num_layers=3, num_heads=4, max_length=16
)
VISION = dict(
  hidden_size=24,
  intermediate_size=40,
  num_layers=3,
  num_heads=4,
  patch_size=8,
  image_size=32,
  projection_dim=20,
)


def shake(model):
  """Moves norms and biases off their neutral start, so that each is tested."""
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model.eval()


def text_pair(activation):
  torch.manual_seed(0)
  theirs = shake(
    transformers.CLIPTextModel(
      transformers.CLIPTextConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=16,
        hidden_act=activation,
      )
    )
  )
  ours = clip.CLIPText(activation=activation, **TEXT)
  abstract = jax.eval_shape(ours.init, jax.random.key(0), np.zeros((1, 16), np.int32))['params']
  state = {name: value.numpy() for name, value in theirs.state_dict().items()}
  return theirs, ours, tensors.from_formats(state, abstract, clip_names.text_name_of)[0]


def vision_pair(activation):
  torch.manual_seed(0)
  theirs = shake(
    transformers.CLIPVisionModelWithProjection(
      transformers.CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        patch_size=8,
        image_size=32,
        projection_dim=20,
        hidden_act=activation,
      )
    )
  )
  ours = clip.CLIPVision(activation=activation, **VISION)
  abstract = jax.eval_shape(ours.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
  state = {name: value.numpy() for name, value in theirs.state_dict().items()}
  return theirs, ours, tensors.from_formats(state, abstract, clip_names.vision_name_of)[0]


def relative_error(ours, theirs):
  return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize('activation', sorted(clip.ACTIVATIONS))
def test_text_states_equal_those_of_transformers(activation):
  """Both the last layer's and, as diffusers' clip_skip=1, the penultimate layer's, normalised."""
  theirs, ours, params = text_pair(activation)
  token_ids = np.random.default_rng(0).integers(0, 50, (3, 16))
  with torch.no_grad():
    output = theirs(torch.from_numpy(token_ids), output_hidden_states=True)
    penultimate = theirs.text_model.final_layer_norm(output.hidden_states[-2]).numpy()
  assert relative_error(ours.apply({'params': params}, token_ids), penultimate) < RTOL
  last = ours.apply({'params': params}, token_ids, skip_layers=0)
  assert relative_error(last, output.last_hidden_state.numpy()) < RTOL


def test_a_token_changes_no_state_before_it():
  _, ours, params = text_pair('gelu')
  token_ids = np.random.default_rng(0).integers(0, 50, (1, 16))
  edited = token_ids.copy()
  edited[0, 9] = (edited[0, 9] + 1) % 50
  before, after = (ours.apply({'params': params}, ids) for ids in (token_ids, edited))
  np.testing.assert_array_equal(before[:, :9], after[:, :9])
  assert np.all(np.abs(before - after)[0, 9:].max(-1) > 1e-4)


@pytest.mark.parametrize('activation', sorted(clip.ACTIVATIONS))
def test_image_embeddings_equal_those_of_transformers(activation):
  theirs, ours, params = vision_pair(activation)
  pixels = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
  with torch.no_grad():
    expected = theirs(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).image_embeds.numpy()
  assert relative_error(ours.apply({'params': params}, pixels), expected) < RTOL


def test_input_that_does_not_fit_the_tower_is_refused():
  def build(module, inputs):
    jax.eval_shape(module.init, jax.random.key(0), inputs)

  with pytest.raises(ValueError, match='17 tokens do not fit max_length=16'):
    build(clip.CLIPText(**TEXT), np.zeros((1, 17), np.int32))
  with pytest.raises(ValueError, match='resize them to image_size=32'):
    build(clip.CLIPVision(**VISION), np.zeros((1, 40, 32, 3), np.float32))
  with pytest.raises(ValueError, match="activation='relu' is none of"):
    build(clip.CLIPText(activation='relu', **TEXT), np.zeros((1, 8), np.int32))
