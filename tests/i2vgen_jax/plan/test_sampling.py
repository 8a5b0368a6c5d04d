"""What sampling holds: weights in half of the memory, and the most that is alive at a time."""

import jax
import jax.numpy as jnp
import PIL.Image

from configs import base as base_config
from i2vgen_jax import session as session_lib
from i2vgen_jax.conditions import base
from i2vgen_jax.diffusion import guidance
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.plan import chips, sampling
from tests import tiny

DEVICE = chips.DEVICES['v5e']
MESH = chips.abstract_mesh(dict.fromkeys(mesh_lib.AXES, 1), DEVICE)
X = jax.ShapeDtypeStruct((10, 10), jnp.float32)  # 400 bytes.


def test_an_array_counts_from_its_making_to_its_last_reading():
  chain = lambda x: jnp.sin(jnp.cos(jnp.tan(x)))  # noqa: E731  # Two at a time.
  assert sampling.most_alive(MESH, chain, X) == 800

  def kept(x):
    first = jnp.tan(x)
    return jnp.sin(jnp.cos(first)) + first

  assert sampling.most_alive(MESH, kept, X) == 1200
  assert sampling.most_alive(MESH, lambda x: jax.jit(kept)(jnp.tan(x)), X) == 1600


def test_what_a_loop_stacks_counts_beside_its_rounds():
  tans = lambda x: jax.lax.map(lambda row: jnp.tan(row) + 1, x)  # noqa: E731
  assert sampling.most_alive(MESH, tans, X) == 400 + 2 * 40


def test_a_refinement_holds_one_side_of_guidance_at_a_time():
  latents = jax.ShapeDtypeStruct((1, 16, 90, 160, 4), jnp.float32)
  wide = lambda z, t, c: jnp.tan(jnp.repeat(z, 80, -1)).sum(-1, keepdims=True)  # noqa: E731
  guided = guidance.guided(wide, *[{'text': jnp.zeros((1, 2))}] * 2, 9.0)
  one = sampling.most_alive(MESH, lambda z: wide(z, None, {}), latents)
  assert sampling.most_alive(MESH, lambda z: guided(z, jnp.zeros(1)), latents) < 1.1 * one


def test_what_is_planned_is_what_sample_calls():
  """Shapes of the inputs of a refinement, and of a request for a video."""
  config = tiny.get_config('unused')
  config.loss.timestep_range = (0, 600)
  config.refine.update(levels=600, height=16, width=24)
  session = session_lib.build(config).on(MESH)
  bucket = session.sample_bucket()
  _, (_, frozen, inputs, noise) = sampling.program(session, bucket)
  size = bucket.height, bucket.width
  request = base.Request([PIL.Image.new('RGB', (40, 40))], ['a circle'], *size, bucket.fps)
  shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
  assert shapes(inputs.signals) == shapes(session.of_request(request))
  assert shapes(inputs.negative) == shapes(session.negative(config.negative_prompt))
  assert inputs.video.shape == (1, bucket.frames, 16, 24, 3)
  assert noise.shape[:2] == (1, bucket.frames)
  assert 'null' in frozen


def test_the_released_u_net_is_held_in_bfloat16():
  session = session_lib.build(base_config.get_config(), reads_captions=False).on(MESH)
  held = sampling.num_bytes(jax.eval_shape(session.held, session.abstract_params()))
  assert 2 * 1_420_469_224 < held < 2.01 * 1_420_469_224
