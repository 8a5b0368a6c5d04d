"""The first weights of a run from another run's: what is kept, what is dropped, what grows in."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import unet3d
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.stored import run_config, trees
from i2vgen_jax.training import objective, warm_start
from tests import tiny

TEXT = (dict(kind='text'),)
LAST = dict(kind='last_frame')
PAPER = (dict(kind='first_frame_latents'), dict(kind='global_image_tokens'))


def config_of(conditioners, start=''):
  config = tiny.get_config('none')
  config.unet.conditioners = conditioners
  config.start = str(start)
  return config


def opened(config):
  return session_lib.build(config).on(mesh_lib.make_mesh(config.mesh))


def random_params(session, seed):
  """Parameters none of which is zero, on the session's mesh."""
  draws = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: jax.device_put(
      draws.standard_normal(leaf.shape).astype(np.float32) / 4, leaf.sharding
    ),
    session.abstract_params(),
  )


def write_start(folder, conditioners):
  """A folder as `load` leaves it, but without frozen networks."""
  config = config_of(conditioners)
  folder.mkdir()
  run_config.write(folder, config)
  params = random_params(opened(config), seed=1)
  trees.save_tree(folder / 'params', params)
  return params


@pytest.fixture(scope='module')
def text_start(tmp_path_factory):
  folder = tmp_path_factory.mktemp('start') / 'text'
  return folder, write_start(folder, TEXT)


def started(config):
  """(session, parameters) as `train` has them before its first step."""
  config = warm_start.check(config)
  session = opened(config)
  params = random_params(session, seed=2)
  return session, params | warm_start.load(config, session.abstract_params(), session.mesh)


@functools.cache
def inputs_of(unet_inputs):
  draws = np.random.default_rng(3)
  fill = lambda leaf: draws.standard_normal(leaf.shape).astype(np.float32)  # noqa: E731
  noisy, timesteps, conditioning = unet_inputs()
  return fill(noisy), np.full(timesteps.shape, 700, np.int32), jax.tree.map(fill, conditioning)


def output(session, params, inputs, step=None):
  noisy, timesteps, conditioning = inputs
  conditioning = {name: conditioning[name] for name in session.signals}
  conditioning |= session.growth(len(noisy), step)
  return np.asarray(jax.jit(session.unet.apply)({'params': params}, noisy, timesteps, conditioning))


@pytest.mark.parametrize(
  'added', [common.CONDITIONERS[1:], PAPER, (LAST,)], ids=['release', 'paper', 'last']
)
def test_a_model_that_grows_first_computes_what_its_start_does_to_the_bit(
  text_start, added, caplog
):
  """By each route: tokens, channels, noise and embedding; all parameters are other than zero."""
  folder, start_params = text_start
  with caplog.at_level(logging.INFO, logger='absl'):
    session, params = started(config_of((*TEXT, *added), folder))
  assert f'conditioners added: {added[0]["kind"]}' in caplog.text
  inputs = inputs_of(functools.partial(session.unet_inputs, 3, 32, 32, 2))
  expected = output(opened(config_of(TEXT)), start_params, inputs)
  np.testing.assert_array_equal(output(session, params, inputs, step=0), expected)
  half, whole = (output(session, params, inputs, step=step) for step in (500, 1000))
  grows_by_share = added != (LAST,)
  assert (np.abs(half - expected).max() > 1e-3) == grows_by_share
  assert (np.abs(whole - half).max() > 1e-3) == grows_by_share
  plain = dataclasses.replace(session, unet=session.unet.clone(growing=()))
  np.testing.assert_array_equal(whole, output(plain, params, inputs))


def test_new_channels_of_the_first_convolution_are_zero_wherever_they_stand(tmp_path):
  with_image = (*TEXT, dict(kind='image_latents'))
  old = write_start(tmp_path / 'start', with_image)['conv_in']['kernel']
  _, params = started(config_of((*TEXT, LAST, *with_image[1:]), tmp_path / 'start'))
  kernel = np.asarray(params['conv_in']['kernel'])
  np.testing.assert_array_equal(kernel[:, :, :4], old[:, :, :4])
  assert not kernel[:, :, 4:8].any()
  np.testing.assert_array_equal(kernel[:, :, 8:], old[:, :, 4:])
  # And the other way round, what stays is found behind what goes.
  write_start(tmp_path / 'three', (*with_image, LAST))
  _, fewer = started(config_of((*TEXT, LAST), tmp_path / 'three'))
  stored = trees.load_tree(
    tmp_path / 'three' / 'params', opened(config_of((*with_image, LAST))).abstract_params(), ''
  )['conv_in']['kernel']
  wanted = np.concatenate([stored[:, :, :4], stored[:, :, 8:]], axis=2)
  np.testing.assert_array_equal(fewer['conv_in']['kernel'], wanted)


def test_what_stays_is_the_starts_and_what_is_new_is_the_runs_own(text_start):
  folder, start_params = text_start
  session, params = started(config_of(common.CONDITIONERS, folder))
  old, new = sharding.by_path(start_params), sharding.by_path(params)
  for name, value in old.items():
    if name != warm_start.FIRST_CONVOLUTION:
      np.testing.assert_array_equal(new[name], value)
  assert {name.partition('/')[0] for name in set(new) - set(old)} == {
    'image_latent_tokens', 'image_tokens', 'image_latents', 'fps',
  }  # fmt: skip
  assert session.unet.growing == ('image_latent_tokens', 'image_tokens', 'fps')


def test_without_context_to_grow_beside_and_without_steps_all_is_new_at_once(tmp_path):
  write_start(tmp_path / 'paper', PAPER)
  assert warm_start.check(config_of(TEXT, tmp_path / 'paper')).unet.growing == ()
  config = config_of((*PAPER, *TEXT), tmp_path / 'paper')
  assert warm_start.check(config).unet.growing == ('text',)
  config.train.growth_steps = 0
  assert warm_start.check(config).unet.growing == ()


def test_a_start_that_still_grows_is_refused_with_what_to_do(text_start, tmp_path, monkeypatch):
  folder, _ = text_start
  config = warm_start.check(config_of(common.CONDITIONERS, folder))
  run_config.write(tmp_path, config)
  session = opened(config)
  grown = warm_start.check(config_of(common.CONDITIONERS, tmp_path))
  assert grown.unet.growing == ()
  for step, refused in ((999, True), (1000, False)):
    found = random_params(session, 4), step
    monkeypatch.setattr(warm_start.trained, 'load_params', lambda *_, found=found: found)
    load = functools.partial(warm_start.load, grown, session.abstract_params(), session.mesh)
    if refused:
      with pytest.raises(ValueError, match='is at step 999, and its conditioners .* train it on'):
        load()
    else:
      jax.tree.map(np.testing.assert_array_equal, load(), found[0])


def test_adapters_alone_do_not_train_new_conditioners(text_start):
  config = config_of(common.CONDITIONERS, text_start[0])
  config.lora.rank = 2
  with pytest.raises(ValueError, match='which adapters alone do not train. Set lora.rank=0'):
    started(config)


def test_a_kind_with_other_fields_is_another_model(text_start, tmp_path):
  lines = (*TEXT, dict(kind='image_tokens', num_tokens=4))
  write_start(tmp_path / 'start', lines)
  other = (*TEXT, dict(kind='image_tokens', num_tokens=8))
  with pytest.raises(ValueError, match='of another model.*unet.conditioners: .*num_tokens'):
    warm_start.check(config_of(other, tmp_path / 'start'))


def test_the_first_loss_of_a_run_that_grows_is_that_of_its_start(text_start):
  """Of training and of the held-out clips: with the same draws of noise, timesteps and dropout.

  XLA may sum two programs' losses in another order: to two units in the last place.
  """
  draws = np.random.default_rng(5)
  batch = dict(
    video=draws.integers(0, 256, (8, 2, 32, 32, 3), np.uint8),
    token_ids=draws.integers(1, 800, (8, 16), np.int32),
    clip_image=draws.integers(0, 256, (8, 32, 32, 3), np.uint8),
    fps=np.full(8, 8, np.float32),
    position=np.arange(8, dtype=np.int32),
  )
  seed = objective.data_seed(1)

  def losses(session, params, step):
    frozen = session.load_frozen().frozen
    session = dataclasses.replace(session, frozen=frozen)
    rates = session.dropout_rates()
    train = jax.jit(objective.make_loss(session, rates))
    held_out = jax.jit(objective.make_eval_loss(session, (0, 1000)))
    inputs = params, frozen, batch, seed, step
    return np.append(held_out(*inputs), train(*inputs)[0])

  folder, start_params = text_start
  expected = losses(opened(config_of(TEXT)), start_params, 0)
  session, params = started(config_of(common.CONDITIONERS, folder))
  np.testing.assert_allclose(losses(session, params, 0), expected, rtol=2.5e-7)
  assert np.abs(losses(session, params, 9) - expected).min() > 0


def test_the_share_is_part_of_what_is_trained(text_start):
  """Half-way, the gradient reaches new conditioners; at first, nothing that is new moves."""
  session, params = started(config_of(common.CONDITIONERS, text_start[0]))
  inputs = inputs_of(functools.partial(session.unet_inputs, 3, 32, 32, 2))

  @jax.jit
  def gradient(params, step):
    noisy, timesteps, conditioning = inputs
    conditioning = dict(conditioning) | session.growth(2, step)
    loss = lambda p: jnp.square(session.unet.apply({'params': p}, noisy, timesteps, conditioning))  # noqa: E731
    return jax.grad(lambda p: loss(p).mean())(params)['image_tokens']

  size = lambda step: sum(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient(params, step)))  # noqa: E731
  assert size(0) == 0 < size(500)
  assert unet3d.GROWTH not in params
