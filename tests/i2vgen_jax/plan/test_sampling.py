"""What sampling holds: weights in half of the memory, and the most that is alive at a time."""

import jax
import jax.numpy as jnp

from configs import base
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.plan import chips, sampling

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
  assert sampling.most_alive(MESH, lambda x: jax.jit(kept)(jnp.tan(x)), X) >= 1600


def test_the_larger_of_steps_and_decoding_counts():
  held = {'U-Net': 5, 'encoders and decoder': 3, 'step': 7, 'decoding': 2}
  assert sampling.in_all(held) == 15


def test_the_released_u_net_is_held_in_bfloat16():
  session = session_lib.build(base.get_config(), reads_captions=False).on(MESH)
  held = sampling.num_bytes(jax.eval_shape(session.held, session.abstract_params()))
  assert 2 * 1_420_469_224 < held < 2.01 * 1_420_469_224
