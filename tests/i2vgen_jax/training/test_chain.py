"""The stages of docs/recipe.md one after the other, each from the last, shrunk: the loss on clips
that are held out falls in each.

The first trains two links on latents that are made up, on one device; the others are whole runs.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from etils import epath

from configs import i2v, refine, t2v
from data_pipelines.corpus import json_lines
from i2vgen_jax import load, train
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.pretrained import tensors, unet_names
from i2vgen_jax.stored import run_config, trained, trees
from i2vgen_jax.training import objective, warm_start
from tests import tiny

STEPS = 48


def shipped(module, corpus, start=''):
  """The stage's config, shrunk, at a rate at which so few steps show."""
  config = tiny.shrunk(module.get_config(), corpus, STEPS)
  config.data.index = ''
  config.start = str(start)
  config.optimizer.peak_learning_rate = 4e-3
  config.optimizer.schedule = 'constant'
  config.train.update(
    eval_every=STEPS // 4, num_eval_examples=16, growth_steps=STEPS // 4, log_every=STEPS // 4
  )
  config.train.update(ema_decay=0.9, ema_warmup=True)
  config.checkpoint.every = STEPS
  return config


def held_out_losses(config, workdir):
  """Trains, and returns the losses after each quarter of the steps."""
  assert train.train(config, workdir) == 0
  rows = json_lines.read(epath.Path(workdir) / 'metrics.jsonl')
  losses = [row['eval_loss'] for row in rows if 'eval_loss' in row]
  assert len(losses) == 4
  return losses


def made_up(session, seed):
  """A batch of 8: latents that stay as their first frame is, and that as `conditioning` too."""
  draws = np.random.default_rng(seed)
  latents, _, conditioning = session.unet_inputs(2, 32, 32, 8)
  first = 1 + draws.standard_normal((8, 1, *latents.shape[2:]), np.float32) / 4
  found = {name: np.zeros(leaf.shape, np.float32) for name, leaf in conditioning.items()}
  if 'image_latents' in found:
    found['image_latents'] = first[:, 0]
  return dict(latents=np.repeat(first, 2, axis=1), conditioning=found, position=np.arange(8))


def after_steps(session, params, num_steps=24):
  """(parameters after so many steps of Adam, held-out losses before and after)."""
  encoded_loss = objective.make_encoded_loss(session.unet, session.schedule, **session.config.loss)
  seed, rule = objective.data_seed(0), optax.adam(3e-3)

  def loss_of(params, encoded, step, time):
    grown = encoded['conditioning'] | session.growth(8, step)
    return encoded_loss(params, encoded | dict(conditioning=grown), seed, time)[0]

  @jax.jit
  def update(params, state, encoded, step):
    loss, gradients = jax.value_and_grad(loss_of)(params, encoded, step, step)
    updates, state = rule.update(gradients, state)
    return optax.apply_updates(params, updates), state, loss

  held_out = jax.jit(loss_of)
  measure = lambda step: float(held_out(params, made_up(session, 10_000), step, 99))  # noqa: E731
  before, state = measure(0), rule.init(params)
  for step in range(num_steps):
    params, state, _ = update(params, state, made_up(session, step), jnp.int32(step))
  return params, before, measure(num_steps)


@pytest.mark.slow
def test_each_of_two_links_starts_where_the_last_ended_and_learns(tmp_path):
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
  last = None
  for module in (t2v, i2v):
    config = shipped(module, 'none', start=tmp_path / 't2v' if last else '')
    config.train.growth_steps = 8
    if last:
      config = warm_start.check(config)
    session = session_lib.build(config).on(mesh)
    params = jax.jit(session.unet.init)(jax.random.key(0), *session.smallest_unet_zeros())['params']
    if last:
      params |= warm_start.load(config, session.abstract_params(), mesh)
    params, before, after = after_steps(session, params)
    assert after < before
    assert last in (None, before)  # To the bit.
    last = after
    folder = tmp_path / module.__name__.rpartition('.')[2]
    folder.mkdir()
    run_config.write(folder, config)
    trees.save_tree(folder / 'params', params)


@pytest.mark.slow
def test_the_text_to_video_stage_grows_into_the_base_stage(demo_corpus, tmp_path, caplog):
  first = held_out_losses(shipped(t2v, demo_corpus), tmp_path / 't2v')
  config = shipped(i2v, demo_corpus, tmp_path / 't2v')
  with caplog.at_level(logging.INFO, logger='absl'):
    second = held_out_losses(config, tmp_path / 'i2v')
  assert 'conditioners added: image_latent_tokens, image_tokens, image_latents, fps;' in caplog.text
  assert first[-1] < first[0] and second[-1] < second[0]
  assert second[-1] < first[-1]  # It knows the first frame.


def image_model(config, folder):
  """Trains the config on images alone, and writes its spatial layers as Stable Diffusion's."""
  config.data.buckets = {'images': config.data.buckets.images}
  config.sample.bucket = 'images'
  config.train.eval_every = 0
  assert train.train(config, folder / 'images') == 0
  session = session_lib.open_run(folder / 'images')
  params, _ = trained.load_params(folder / 'images', session.abstract_params())
  named = tensors.to_torch(params, unet_names.name_of)
  slot_of = unet_names.stable_diffusion().slot_of
  path = folder / 'diffusion_pytorch_model.safetensors'
  safetensors.numpy.save_file({name: x for name, x in named.items() if slot_of(name)}, path)
  return path


@pytest.mark.slow
def test_the_chain_from_an_image_model_to_the_refinement(demo_corpus, tmp_path):
  unet = image_model(shipped(t2v, demo_corpus), tmp_path)
  load.load(shipped(t2v, demo_corpus), {'unet': str(unet)}, tmp_path / 'sd')
  start = tmp_path / 'sd'
  for module in (t2v, i2v, refine):
    config = shipped(module, demo_corpus, start)
    start = tmp_path / module.__name__.rpartition('.')[2]
    losses = held_out_losses(config, start)
    assert losses[-1] < losses[0], module.__name__
