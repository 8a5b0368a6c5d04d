"""A condition of a user's own, declared here and nowhere else, goes the whole way: training, cache,
resume, sampling and ablation; and so do T5 text and the last frame, a file each.
"""

import json

import av
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from configs import common
from data_pipelines.stream import cache as cache_lib
from data_pipelines.stream import fields
from i2vgen_jax import ablate, checkpoint, precompute, train
from i2vgen_jax.conditions import base
from i2vgen_jax.models import layers
from i2vgen_jax.sampling import held_out, stages
from tests import runs, tiny

BRIGHTNESS = 'tests.test_own_condition:Brightness'


class Mean(base.Signal):
  """How bright the first frame is, in [0, 1]: (B,)."""

  name = 'mean'
  dropout = 0.5

  def fields(self):
    return (fields.Video(),)

  def shape(self, height, width):
    return ()

  def encode(self, frozen, inputs, keys_B=None):
    return inputs['first'].astype(jnp.float32).mean((1, 2, 3)) / 255

  def of_batch(self, batch):
    return {'first': batch['video'][:, 0]}

  def of_request(self, request):
    if 'mean' not in request.more:
      raise ValueError('give --condition=mean=NUMBER.')
    level = np.full((1, 2, 2, 3), 255 * float(request.more['mean']), np.float32)
    return {'first': np.repeat(level, len(request.captions), 0)}

  def unconditional(self, frozen, negative, value):
    return jnp.zeros_like(value)

  def kept(self, height, width):
    return (cache_lib.Kept(self.name, (), frames='first'),)

  def keep(self, frozen, batch):
    return {self.name: self.encode(frozen, self.of_batch(batch))}

  def from_cache(self, batch, keys_B=None):
    return batch[self.name].astype(jnp.float32)


class Brightness(base.Conditioner):
  """A number, (B,), in the timestep embedding."""

  signals = (Mean,)
  route = 'embedding'
  ablated = 'brightness'

  @nn.compact
  def __call__(self, mean_B, num_frames, dropout_keys_B):
    return layers.Dense(self.embedding_width, name='linear')(mean_B[:, None])


def tiny_t5(config):
  """A T5 of 16 channels with random weights, and the demo's captions as its vocabulary."""
  config.t5 = common.t5('small')
  config.t5.weights = 'random'
  config.t5.model.update(
    vocab_size=64, hidden_size=16, intermediate_size=32, head_dim=8, num_layers=1, num_heads=2,
    max_length=12,
  )  # fmt: skip


def configure(corpus, case, tokenizer):
  config = tiny.get_config(corpus, num_steps=4, images=True)
  config.data.buckets.videos.weight = 1.0
  config.checkpoint.every = 2
  lines = list(config.unet.conditioners)
  if case == 'own':
    config.unet.conditioners = (*lines, dict(kind=BRIGHTNESS))
  elif case == 'last frame':
    config.unet.conditioners = (*lines, dict(kind='last_frame'))
    config.condition_dropout.buckets = dict(images=dict(last_frame_latents=1.0))
  elif case == 'T5 beside CLIP':
    config.unet.conditioners = (*lines, dict(kind='t5_text'))
  else:
    config.unet.conditioners = (dict(kind='t5_text'), *lines[1:])
  if 'T5' in case:
    tiny_t5(config)
    config.t5.tokenizer = str(tokenizer)
  return config


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  """A folder with T5's tokenizer of the demo's words: trained here, by the tokenizers library."""
  import tokenizers

  folder = tmp_path_factory.mktemp('t5')
  made = tokenizers.Tokenizer(tokenizers.models.Unigram())
  made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  trainer = tokenizers.trainers.UnigramTrainer(
    vocab_size=60, special_tokens=['<pad>', '</s>', '<unk>'], unk_token='<unk>'
  )
  made.train_from_iterator(['a red circle moves left', 'a blue square moves right'] * 9, trainer)
  made.post_processor = tokenizers.processors.TemplateProcessing(
    single='$A </s>', special_tokens=[('</s>', 1)]
  )
  made.save(str(folder / 'tokenizer.json'))
  settings = dict(tokenizer_class='T5TokenizerFast', extra_ids=0)
  (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
  return folder


CASES = {
  'own': 'mean',
  'last frame': 'last_frame_latents',
  'T5 beside CLIP': 't5_text',
  'T5': 't5_text',
}


@pytest.mark.parametrize('case', CASES)
def test_a_condition_of_one_file_goes_the_whole_way(case, demo_corpus, tokenizer, tmp_path):
  config = configure(demo_corpus, case, tokenizer)
  config.data.cache = str(tmp_path / 'cache')
  precompute.precompute(config, config.data.cache, fps=16.0, max_frames=32)
  shapes = cache_lib.read_manifest(config.data.cache)['shapes']['32x32']
  # The last frame is drawn from the latents that are there.
  assert set(shapes) >= {'latent_mean'} | ({CASES[case]} - {''})

  # Trained from the cache; stopped half-way, and resumed.
  config.train.stop_at = 2
  assert train.train(config, tmp_path / 'run') == 0
  config.train.stop_at = 0
  assert train.train(config, tmp_path / 'run') == 0
  assert checkpoint.latest_step(tmp_path / 'run' / 'checkpoints') == 4
  whole = tmp_path / 'whole'
  assert train.train(config, whole) == 0
  assert runs.losses(whole) == runs.losses(tmp_path / 'run')

  # From pixels, the same losses to the cache's rounding.
  config.data.cache = ''
  assert train.train(config, tmp_path / 'pixels') == 0
  from_pixels, cached = runs.losses(tmp_path / 'pixels'), runs.losses(whole)
  assert from_pixels == pytest.approx(cached, rel=2e-2)

  # Sampled by command, and ablated.
  picture = tmp_path / 'picture.png'
  PIL.Image.new('RGB', (48, 40), 'navy').save(picture)
  given = {'own': ['--condition=mean=0.3'], 'last frame': [f'--last_image={picture}']}
  done = runs.module(
    'i2vgen_jax.sample', f'--workdir={whole}', f'--image={picture}', '--prompt=a red circle',
    f'--output={tmp_path / "o.mp4"}', *given.get(case, []),
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  with av.open(str(tmp_path / 'o.mp4')) as video:
    assert sum(1 for _ in video.decode(video=0)) == 4
  if case in given:
    refused = runs.module(
      'i2vgen_jax.sample', f'--workdir={whole}', f'--image={picture}', '--prompt=a red circle',
      f'--output={tmp_path / "none.mp4"}',
    )  # fmt: skip
    assert refused.returncode == 2 and given[case][0].split('=')[0] in refused.stderr
  if case != 'T5':  # Whose line is the only text: CLIP's picture would be the whole context.
    stage = stages.load(whole)
    variants = ablate.variants_of(stage.session)
    word = stage.session.unet.conditioners[-1].conditioner.ablated
    variant = ablate.take_out(stage, variants[f'no {word}'], 0, whole)
    name = stage.session.unet.conditioners[-1].name
    assert set(stage.params) - set(variant.params) == {name}
    batch = held_out.clips(variant.session, variant.bucket, 2)
    assert held_out.sample(variant, batch, 0).shape == (2, 4, 32, 32, 3)
