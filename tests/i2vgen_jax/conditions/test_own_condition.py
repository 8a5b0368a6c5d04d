"""A condition of a user's own, declared here and nowhere else, goes the whole way: training, cache,
resume, sampling and ablation; and so do T5 text and the last frame, a file each.
"""

import dataclasses

import av
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from jax.interpreters import partial_eval

from data_pipelines.stream import cache as cache_lib
from data_pipelines.stream import fields
from i2vgen_jax import ablate, conditions, precompute, sample, train
from i2vgen_jax import session as session_lib
from i2vgen_jax.conditions import base
from i2vgen_jax.models import layers
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.sampling import generate, held_out, stages
from i2vgen_jax.stored import checkpoint
from i2vgen_jax.training import data, objective
from tests import runs, tiny

BRIGHTNESS = 'tests.i2vgen_jax.conditions.test_own_condition:Brightness'


class Mean(base.Signal):
  """How bright the first frame is, in [0, 1]: (B,)."""

  name = 'mean'
  dropout = 0.5
  cached = 'first'

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


class Brightness(base.Conditioner):
  """A number, (B,), in the timestep embedding."""

  signals = (Mean,)
  route = 'embedding'
  ablated = 'brightness'

  @nn.compact
  def __call__(self, mean_B, num_frames, dropout_keys_B):
    return layers.Dense(self.embedding_width, name='linear')(mean_B[:, None])


LINES = {
  'own': dict(kind=BRIGHTNESS),
  'last frame': dict(kind='last_frame'),
  'T5': dict(kind='t5_text'),
  'motion': dict(kind='motion'),
}


def configure(corpus, t5_tokenizer, *cases):
  config = tiny.get_config(corpus, num_steps=4)
  config.checkpoint.every = 2
  config.unet.conditioners = (*config.unet.conditioners, *(LINES[case] for case in cases))
  if 'T5' in cases:
    config.t5 = tiny.t5(t5_tokenizer)
  return config


# What a cache keeps of each, and the flag by which `sample` is given it.
CASES = {'own': 'mean', 'last frame': '', 'T5': 't5_text', 'motion': ''}
GIVEN = {'own': '--condition=mean=0.3', 'last frame': '--last_image={}'}


def test_conditions_of_one_file_each_are_cached_and_fit_training_and_sampling(
  demo_corpus, t5_tokenizer, tmp_path
):
  """The cache by its numbers; the step and the sampler traced, for compiling takes minutes."""
  config = configure(demo_corpus, t5_tokenizer, *CASES)
  config.data.cache = str(tmp_path / 'cache')
  precompute.precompute(config, config.data.cache, fps=16.0, max_frames=16, dtype='float32')
  shapes = cache_lib.read_manifest(config.data.cache)['shapes']['32x32']
  # The last frame is drawn from the latents that are there, motion comes with the index.
  assert set(shapes) >= {'latent_mean'} | set(CASES.values()) - {''}
  session, batch = assert_the_cache_gives_what_the_pixels_do(config)

  key = jax.random.key(0)
  params = jax.eval_shape(session.unet.init, key, *session.smallest_unet_inputs())['params']
  loss = objective.make_loss(session, session.dropout_rates())
  seed = jax.random.key_data(key)
  gradient = jax.grad(loss, has_aux=True)
  gradients, _ = jax.eval_shape(gradient, params, session.frozen, batch, seed, 0)
  assert_all_reaches_the_prediction(session, params)

  held = held_out.clips(session, session.sample_bucket(), 2)
  inputs = generate.Inputs(session.of_batch(held), session.negative(''))
  noise = generate.start_noise(session, 0, 2, (4, 32, 32))
  sample_it = generate.make_generate(session, **generate.settings(config))
  _, videos = jax.eval_shape(sample_it, params, session.frozen, inputs, noise)
  assert videos.shape == (2, 4, 32, 32, 3)

  for line in session.unet.conditioners[-len(CASES) :]:
    assert gradients[line.name].keys() == params[line.name].keys()
    assert ablate.variants_of(session)[f'no {line.conditioner.ablated}'] == line.kind
    rest = session_lib.build(ablate.without(config, line.kind))
    assert set(session.signals) - set(rest.signals) == {line.conditioner.signals[0].name}


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_a_condition_of_one_file_goes_the_whole_way(case, demo_corpus, t5_tokenizer, tmp_path):
  config = configure(demo_corpus, t5_tokenizer, case)
  config.data.cache = str(tmp_path / 'cache')
  precompute.precompute(config, config.data.cache, fps=16.0, max_frames=32)

  # Trained; stopped half-way, and resumed: the same as in one go.
  workdir = tmp_path / 'run'
  config.train.stop_at = 2
  assert train.train(config, workdir) == 0
  config.train.stop_at = 0
  assert train.train(config, workdir) == 0
  assert checkpoint.latest_step(workdir / 'checkpoints') == 4
  assert train.train(config, tmp_path / 'whole') == 0
  assert runs.losses(tmp_path / 'whole') == runs.losses(workdir)

  # Sampled and ablated, of what the workdir holds alone.
  if case in GIVEN:
    assert_the_command_samples_with_its_flag(case, workdir, tmp_path)
  stage = stages.load(workdir)
  batch = held_out.clips(stage.session, stage.bucket, 2)
  line = stage.session.unet.conditioners[-1]
  variants = ablate.variants_of(stage.session)
  variant = ablate.take_out(stage, variants[f'no {line.conditioner.ablated}'], 0, workdir)
  assert set(stage.params) - set(variant.params) == {line.name}
  with_it, without = (held_out.sample(other, batch, 0) for other in (stage, variant))
  assert with_it.shape == without.shape == (2, 4, 32, 32, 3) and (with_it != without).any()


def assert_the_cache_gives_what_the_pixels_do(config):
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1})
  session = session_lib.build(config).on(mesh).load_frozen()
  cached = data.make_stream(session).batch_at(0)
  plain = config.copy_and_resolve_references()
  plain.data.update(cache='', sandbox=False)
  pixels = data.make_stream(dataclasses.replace(session, config=plain)).batch_at(0)
  keys_B = jax.random.split(jax.random.key(0), len(cached['position']))
  encode = jax.jit(session.encode)
  ours, expected = (encode(session.frozen, batch, keys_B, keys_B)[1] for batch in (cached, pixels))
  for name, value in expected.items():
    np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
  return session, pixels


def assert_all_reaches_the_prediction(session, params):
  """Every parameter and every signal, by what tracing leaves when dead code is taken out."""
  inputs = params, *session.smallest_unet_inputs()
  apply = lambda params, *others: session.unet.apply({'params': params}, *others)  # noqa: E731
  _, is_used = partial_eval.dce_jaxpr(jax.make_jaxpr(apply)(*inputs).jaxpr, [True])
  unused = [name for name, used in zip(sharding.by_path(inputs), is_used, strict=True) if not used]
  assert not unused, unused


def assert_the_command_samples_with_its_flag(case, workdir, folder):
  """And without it says that it is missing."""
  picture = folder / 'picture.png'
  PIL.Image.new('RGB', (48, 40), 'navy').save(picture)
  command = ('i2vgen_jax.sample', f'--workdir={workdir}', f'--image={picture}', '--prompt=a circle')
  flag = GIVEN[case].format(picture)
  done = runs.module(*command, f'--output={folder / "o.mp4"}', flag)
  assert done.returncode == 0, done.stderr[-2000:]
  with av.open(str(folder / 'o.mp4')) as video:
    assert sum(1 for _ in video.decode(video=0)) == 4
  refused = runs.module(*command, f'--output={folder / "none.mp4"}')
  assert refused.returncode == 2 and flag.partition('=')[0] in refused.stderr


def test_the_last_frame_is_the_clip_s_last_by_draws_of_its_own(demo_corpus, t5_tokenizer):
  """Of pixels and of a cache; the first frame's draws are those of the release."""
  config = configure(demo_corpus, t5_tokenizer, 'last frame')
  signals = session_lib.build(config).signals
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (2, 4, 8, 8, 3), np.uint8)
  moments = dict(
    latent_mean=rng.standard_normal((2, 4, 1, 1, 4)),
    latent_logvar=np.zeros((2, 4, 1, 1, 4)),
  )
  keys_B = jax.random.split(jax.random.key(0), 2)
  for name, frame in (('image_latents', 0), ('last_frame_latents', -1)):
    [(_, pixels)] = signals[name].of_batch({'video': video}).items()
    np.testing.assert_array_equal(pixels, video[:, frame])
    expected = moments['latent_mean'][:, frame] * config.vae.scaling_factor
    np.testing.assert_allclose(signals[name].from_cache(moments), expected, rtol=1e-6)
    own_keys_B = signals[name].own_keys(keys_B)
    assert (jax.random.key_data(own_keys_B) == jax.random.key_data(keys_B)).all() == (frame == 0)
    assert signals[name].own_keys(None) is None


def test_t5_s_tokens_are_zero_where_a_caption_is_padded(demo_corpus, t5_tokenizer):
  session = session_lib.build(configure(demo_corpus, t5_tokenizer, 'T5'))
  signal = session.signals['t5_text']
  inputs = {'t5_token_ids': signal.tokenize(['a red circle', ''])}
  frozen = {'t5': signal.module.init(jax.random.key(0), inputs['t5_token_ids'])['params']}
  is_zero_BL = (np.asarray(signal.encode(frozen, inputs)) == 0).all(-1)
  np.testing.assert_array_equal(is_zero_BL, inputs['t5_token_ids'] == 0)
  assert is_zero_BL.any() and not is_zero_BL.all(-1).any()


def test_a_flag_of_a_condition_that_the_model_lacks_is_refused(demo_corpus, t5_tokenizer):
  own, last = (
    session_lib.build(configure(demo_corpus, t5_tokenizer, case)).signals
    for case in ('own', 'last frame')
  )
  sample.check_conditions({'last_image': 'a.png'}, last)
  sample.check_conditions({'mean': '0.3'}, own)  # --condition=NAME=VALUE: any name.
  with pytest.raises(ValueError, match='last_image=.* is given, but this model'):
    sample.check_conditions({'mean': '0.3', 'last_image': 'a.png'}, own)


def test_t5_may_be_the_only_text(t5_tokenizer, demo_corpus):
  """Then CLIP's text tower and its tokenizer are not asked for."""
  config = configure(demo_corpus, t5_tokenizer, 'T5')
  lines = config.unet.conditioners
  config.unet.conditioners = (lines[-1], *lines[1:-1])
  config.tokenizer = config.text_encoder.weights = ''
  session = session_lib.build(config)
  assert 'text' not in session.signals and 'text_encoder' not in session.networks
  inputs = session.smallest_unet_inputs()
  params = jax.eval_shape(session.unet.init, jax.random.key(0), *inputs)['params']
  assert params['t5_text']['projection']['kernel'].shape == (16, config.unet.context_dim)
  del config.t5
  with pytest.raises(ValueError, match=r"read the networks \['t5'\]"):
    session_lib.build(config)


def test_rates_of_dropout_may_differ_by_bucket(demo_corpus, t5_tokenizer):
  config = configure(demo_corpus, t5_tokenizer, 'last frame')
  config.condition_dropout.buckets = dict(videos=dict(image_latents=1.0, last_frame_latents=0.5))
  session = session_lib.build(config)
  elsewhere, videos = session.dropout_rates(), session.dropout_rates('videos')
  assert (elsewhere['image_latents'], videos['image_latents']) == (0.0, 1.0)
  assert (elsewhere['last_frame_latents'], videos['last_frame_latents']) == (0.1, 0.5)  # Its own.
  assert videos['text'] == elsewhere['text'] == 0.1
  for rates, message in (
    (dict(film=dict(text=1.0)), r"names \['film'\]"),
    (dict(videos=dict(txt=1.0)), "names 'txt'"),
    (dict(videos=dict(text=1.5)), r'text=1.5 must lie in \[0, 1\]'),
  ):
    config.condition_dropout.buckets = rates
    with pytest.raises(ValueError, match=message):
      session_lib.build(config)


def test_motion_is_a_number_or_unknown():
  _, line = conditions.read((dict(kind='text'), dict(kind='motion')))
  [signal] = (cls(None, None, {}) for cls in line.conditioner.signals)
  request = base.Request([], ['a', 'b'], 32, 32, 8.0)
  encode = lambda **more: signal.encode(  # noqa: E731
    {}, signal.of_request(dataclasses.replace(request, more=more))
  )
  np.testing.assert_array_equal(encode(), np.zeros((2, 2)))
  np.testing.assert_array_equal(encode(motion='0'), [[0, 1]] * 2)
  np.testing.assert_allclose(encode(motion='0.25'), [[0.25, 1]] * 2)
  # Dropped, it is unknown.
  np.testing.assert_array_equal(jnp.broadcast_to(signal.null({}), (2, 2)), encode())
  for text in ('fast', '-0.1', 'nan', 'inf'):
    with pytest.raises(ValueError, match=f'--motion={text} must be a number of 0 or more'):
      encode(motion=text)
  module = line.conditioner(8, 16, 0.0, jnp.float32)
  params = module.init(jax.random.key(0), encode(), 4, None)['params']
  assert not module.apply({'params': params}, encode(motion='0.25'), 4, None).any()
  params['linear_2']['kernel'] = jnp.ones((16, 16))
  unknown, none, some = (
    module.apply({'params': params}, values, 4, None)[0]
    for values in (encode(), encode(motion='0'), encode(motion='0.25'))
  )
  assert not unknown.any() and none.any() and not jnp.allclose(none, some)
