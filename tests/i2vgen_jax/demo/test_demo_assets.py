"""What the repository ships for the demo: a tokenizer and an autoencoder."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from data_pipelines import demo_corpus
from data_pipelines.demo_corpus import captions
from i2vgen_jax.demo import make_tokenizer, train_vae
from i2vgen_jax.models import vae
from i2vgen_jax.pretrained import files, tensors, vae_names

DEMO = pathlib.Path(make_tokenizer.__file__).parent


TOKENIZERS = {'shapes': DEMO / 'tokenizer', 'scenes': DEMO / 'scenes' / 'tokenizer'}


def tokenizer_of(kind):
  return transformers.CLIPTokenizer.from_pretrained(TOKENIZERS[kind], local_files_only=True)


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizer_of('shapes')


@pytest.mark.parametrize('kind', TOKENIZERS)
def test_the_script_reproduces_the_committed_tokenizer(kind):
  files = make_tokenizer.files(kind)
  assert {path.name for path in TOKENIZERS[kind].iterdir()} == set(files)
  for name, content in files.items():
    assert (TOKENIZERS[kind] / name).read_text('utf-8') == content


@pytest.mark.parametrize('kind', TOKENIZERS)
def test_every_word_of_the_demo_is_one_token(kind):
  tokenizer = tokenizer_of(kind)
  shown = [*demo_corpus.SHAPES, *demo_corpus.COLORS, *demo_corpus.DIRECTIONS]
  if kind == 'scenes':
    shown = captions.vocabulary()
  for word in (*shown, *make_tokenizer.WORDS):
    assert len(tokenizer(word)['input_ids']) == 3, word


def test_captions_differ_in_the_words_that_differ(tokenizer):
  left = tokenizer('a red circle moves left')['input_ids']
  right = tokenizer('a red circle moves right')['input_ids']
  assert [a == b for a, b in zip(left, right, strict=True)] == [True] * 5 + [False, True]


@pytest.mark.parametrize('text', ['zürich', '日本', 'naïve café', '🙂', 'x' * 5])
def test_any_text_can_be_written(tokenizer, text):
  ids = tokenizer(text)['input_ids']
  assert tokenizer.unk_token_id not in ids[1:-1]
  assert tokenizer.decode(ids, skip_special_tokens=True).replace(' ', '') == text.replace(' ', '')


def test_special_tokens_are_those_of_clip(tokenizer):
  """The end token has the highest id, which CLIP's pooling needs, and pads, as in the release."""
  ids = tokenizer('a', padding='max_length', truncation=True)['input_ids']
  last = len(tokenizer) - 1
  assert ids == [last - 1, tokenizer.convert_tokens_to_ids('a</w>')] + [last] * 14
  assert tokenizer.model_max_length == 16


@pytest.fixture(scope='module')
def autoencoder():
  """(model, parameters, scaling factor) as committed."""
  fields = json.loads((DEMO / 'vae.json').read_text())
  scaling_factor = fields.pop('scaling_factor')
  model = vae.AutoencoderKL(**fields)
  abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))['params']
  state = files.open_checkpoint(DEMO / 'vae.safetensors')
  return model, tensors.from_formats(state, abstract, vae_names.name_of)[0], scaling_factor


def test_demo_autoencoder_restores_frames_it_was_not_trained_on(autoencoder):
  model, params, scaling_factor = autoencoder
  frames = train_vae.render_frames('shapes', 12345, num_videos=2, num_images=32)
  report = train_vae.measure(model, params, frames)
  assert report['psnr'] > 30
  np.testing.assert_allclose(report['latent_std'] * scaling_factor, 1, atol=0.25)
  np.testing.assert_allclose(report['latent_mean'] * scaling_factor, 0, atol=0.25)
  # A draw from the posterior is nearly its mean: conditioning images lose nothing.
  assert np.all(report['posterior_std'] < 0.15 * report['latent_std'])


def test_normalizing_latents_changes_no_reconstruction_and_no_relative_noise(autoencoder):
  model, params, _ = autoencoder
  images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
  mean_C, std_C = np.array([1, -2, 0.5, 0], np.float32), np.array([2, 0.5, 1, 3], np.float32)
  normalized = train_vae.normalize(params, mean_C, std_C)

  @jax.jit
  def encode_decode(params):
    mean, logvar = model.apply({'params': params}, images, method='encode')
    return mean, logvar, model.apply({'params': params}, mean, method='decode')

  mean, logvar, restored = encode_decode(params)
  new_mean, new_logvar, new_restored = encode_decode(normalized)
  np.testing.assert_allclose(new_mean, (mean - mean_C) / std_C, rtol=0, atol=1e-4)
  np.testing.assert_allclose(new_logvar, logvar - 2 * np.log(std_C), rtol=0, atol=1e-4)
  np.testing.assert_allclose(new_restored, restored, rtol=0, atol=1e-4)
