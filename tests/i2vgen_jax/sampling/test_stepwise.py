"""One network call at a time gives what one program gives, tells of each call, and can stop."""

import contextlib
import dataclasses

import jax
import numpy as np
import PIL.Image
import pytest

from i2vgen_jax.conditions import base
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.sampling import generate as generate_lib
from i2vgen_jax.sampling import stages as stages_lib
from i2vgen_jax.sampling import stepwise as stepwise_lib
from tests import commands, tiny
from tests.i2vgen_jax.sampling.test_generate import drawn

IMAGE = PIL.Image.new('RGB', (32, 32), 'gray')
VIDEO = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
SEED = 4


def stage_of(levels=0, **overrides):
  """A stage of the tiny model with random weights on one device, from noise or from a video."""
  config = tiny.get_config('unused')
  config.refine.update(levels=levels, height=16, width=16)
  session, params, frozen = drawn(config)
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
  params, frozen = jax.device_put((params, frozen), mesh_lib.replicated(mesh))  # As `load`.
  session = dataclasses.replace(session, frozen=frozen).on(mesh)
  settings = generate_lib.settings(config, **overrides)
  generate = generate_lib.make_generate(session, seed=SEED, **settings)
  own = stepwise_lib.Stepwise(session)
  bucket = session.sample_bucket()
  return stages_lib.Stage(session, params, bucket, settings, generate, 'bad', stepwise=own)


def by_one_program(stage, video_FHWC):
  bucket = stage.bucket
  request = base.Request([IMAGE], ['a circle'], bucket.height, bucket.width, bucket.fps)
  video = None if video_FHWC is None else video_FHWC[None]
  return np.asarray(stage(stage.session.of_request(request), stage.noise(SEED, 1), video)[0])


@pytest.fixture(scope='module')
def stage():
  return stage_of(num_steps=4, sampler='dpmpp_2m_sde', guidance_rescale=0.5, guidance_scale=3.0)


@contextlib.contextmanager
def lowered():
  """Names of the programs that are made meanwhile."""
  found = []

  def listen(event, secs, fun_name='', **more):
    if event == commands.LOWERED:
      found.append(fun_name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def test_a_video_is_that_of_the_one_program_to_the_bit(stage):
  told = []
  with lowered() as programs:
    made = stage.run(IMAGE, 'a circle', SEED, watch=lambda *call: told.append(call))
  assert programs.count('jit(_one_call)') == 1
  np.testing.assert_array_equal(made, by_one_program(stage, None))
  assert made.std() > 1
  assert [call[:2] for call in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
  first, *_, last = (np.asarray(x0) for _, _, x0 in told)
  assert first.shape == last.shape == stage.noise(SEED, 1).shape and (first != last).any()


@pytest.mark.slow
@pytest.mark.parametrize('inversion_steps', [0, 3])
def test_a_refined_video_is_that_of_the_one_program_to_the_bit(inversion_steps):
  stage = stage_of(600, num_steps=3, inversion_steps=inversion_steps)
  told = []
  made = stage.run(IMAGE, 'a circle', SEED, VIDEO, watch=lambda *call: told.append(call[:2]))
  np.testing.assert_array_equal(made, by_one_program(stage, VIDEO))
  calls = 3 + inversion_steps
  assert told == [(n, calls) for n in range(1, calls + 1)]


def test_other_settings_and_words_compile_nothing(stage):
  run = lambda stage, words, seed: stage.run(IMAGE, words, seed, watch=lambda *call: None)  # noqa: E731
  run(stage, 'a circle', SEED)
  settings = stage.settings | dict(num_steps=6, guidance_scale=7.5, spacing='trailing')
  other = dataclasses.replace(stage, settings=settings, negative_prompt='worse')
  with lowered() as programs:
    made = run(other, 'a blue square', 9)
  assert (made != run(stage, 'a circle', SEED)).any()
  assert not programs


def test_an_error_of_who_watches_stops_the_next_call(stage):
  told = []

  def stop(done, total, x0):
    told.append(done)
    if done == 2:
      raise InterruptedError

  with pytest.raises(InterruptedError):
    stage.run(IMAGE, 'a circle', SEED, watch=stop)
  assert told == [1, 2]
