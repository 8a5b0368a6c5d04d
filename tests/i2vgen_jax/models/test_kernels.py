"""Attention by kernels equals attention in float32, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.corpus import buckets
from data_pipelines.stream import fields
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import (
  kernels,
  pallas_attention,
  pallas_frame_attention,
  unet3d,
  video_parts,
)
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology
from i2vgen_jax.plan import chips
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.sampling import generate as generate_lib
from tests import tiny


def draw(*shapes):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]


def check(
  over, ours, num_heads, num_queries, num_keys, head_dim, frames=2, rtol=1e-5, batch_size=2
):
  """Output and gradients beside kernels.plain, relative to the largest of each."""
  channels = num_heads * head_dim
  dims = dict(zip('BFSC', (batch_size, frames, num_queries, channels), strict=True))
  dims |= {'G': frames, 'T': num_keys, 'L': num_keys}
  queries = tuple(dims[name] for name in 'BFSC')
  keys = tuple(dims[name] for name in kernels.OVER[over][0])
  *arrays, weight = draw(queries, keys, keys, queries)

  @functools.partial(jax.jit, static_argnums=0)
  def with_gradients(attend, *arrays):
    y, vjp = jax.vjp(attend, *arrays)
    return y, *vjp(weight)

  with jax.default_matmul_precision('highest'):
    expected = with_gradients(lambda *x: kernels.plain(over, *x, num_heads), *arrays)
    found = with_gradients(lambda *x: ours(over, *x, head_dim=head_dim), *arrays)
  for a, b in zip(found, expected, strict=True):
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= rtol * np.abs(b).max()


@pytest.mark.parametrize(
  ('over', 'num_heads', 'num_queries', 'num_keys', 'head_dim'),
  [
    ('pixels', 3, 600, 600, 64),  # Neither heads nor queries fill their last block.
    ('pixels', 1, 112, 112, 128),
    ('pixels', 2, 1100, 1100, 64),  # Two chunks of keys, the last one not full; three blocks.
    ('context', 5, 70, 145, 64),
    ('context', 2, 300, 77, 64),
    ('frames', 5, 28, None, 64),
    ('frames', 1, 40, None, 128),
  ],
)
def test_pallas_attention_equals_plain(over, num_heads, num_queries, num_keys, head_dim):
  ours = functools.partial(kernels.pallas, interpret=True)
  frames = 5 if over == 'frames' else 2
  check(over, ours, num_heads, num_queries, num_keys, head_dim, frames)


@pytest.mark.parametrize('jump', [5.0, 60.0])  # Scores of about so many: below and above 88.
def test_scores_that_grow_from_chunk_to_chunk_do_not_overflow(jump):
  """Weights of a chunk are taken beside the largest score of those before it."""
  q, k, v = draw((1, 1, 40, 64), (1, 1, 1100, 64), (1, 1, 1100, 64))
  k = k.at[:, :, 700:].multiply(jump)
  exact = kernels.plain('pixels', q, k, v, 1)
  ours = kernels.pallas('pixels', q, k, v, head_dim=64, interpret=True)
  np.testing.assert_allclose(ours, exact, atol=2e-5 * np.abs(exact).max())


@pytest.mark.parametrize('over', list(kernels.OVER))
def test_kernels_on_each_device_of_a_mesh(over, monkeypatch):
  """Rows and heads are split; output and gradients are those of one device."""
  monkeypatch.setattr(kernels, 'choose', lambda *_: 'pallas')
  monkeypatch.setattr(kernels, 'pallas', functools.partial(kernels.pallas, interpret=True))
  mesh = mesh_lib.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})

  def ours(over, *arrays, head_dim):
    placed = jax.device_put(arrays, mesh_lib.replicated(mesh))
    return mesh_lib.within(mesh, lambda *x: kernels.attend(over, *x, 2))(*placed)

  check(over, ours, 2, 48, 96, 64, batch_size=4)


@pytest.mark.slow
def test_a_frame_of_1280x720():
  """14,400 pixels: fifteen chunks of keys, and blocks of which the last is not full."""
  ours = functools.partial(kernels.pallas, interpret=True)
  check('pixels', ours, 1, 14_400, 14_400, 64, frames=1, batch_size=1)


@pytest.mark.parametrize(('remat', 'kept'), [('products', 2), ('block', 1)])
@pytest.mark.parametrize('over', ['pixels', 'frames'])
def test_what_attention_gave_is_kept_with_products(over, remat, kept):
  """Beside the input; though to a policy that keeps products a kernel is none."""
  x = jnp.ones((1, 16, 128, 64))

  @functools.partial(jax.checkpoint, policy=unet3d.POLICIES[remat])
  def block(x):
    return jnp.sin(kernels.pallas(over, x, x, x, head_dim=64, interpret=True))

  residuals = jax.make_jaxpr(lambda x: jax.vjp(block, x)[1])(x).out_avals
  assert sum(leaf.size == x.size for leaf in residuals) == kept


@pytest.mark.parametrize('over', list(kernels.OVER))
def test_pallas_attention_of_bfloat16_rounds_as_plain_does(over):
  """Both against float32: the kernel's error is at most twice that of two products by XLA."""
  queries = (1, 16, 128, 128)
  keys = dict(pixels=queries, frames=queries, context=(1, 145, 128))[over]
  arrays = draw(queries, keys, keys)
  half = [x.astype(jnp.bfloat16) for x in arrays]
  exact = kernels.plain(over, *(x.astype(jnp.float32) for x in half), 2)
  error = lambda y: float(jnp.linalg.norm(y.astype(jnp.float32) - exact))  # noqa: E731
  ours = kernels.pallas(over, *half, head_dim=64, interpret=True)
  assert ours.dtype == jnp.bfloat16
  assert 0 < error(ours) <= 2 * error(kernels.plain(over, *half, 2))


@pytest.mark.parametrize('num_tokens', [512, 600])  # 600 is padded to 640.
def test_splash_attention_equals_plain(num_tokens):
  ours = functools.partial(kernels.splash, interpret=True)
  check('pixels', ours, 2, num_tokens, num_tokens, 8, rtol=2e-5)


@pytest.mark.parametrize(
  ('num_tokens', 'tile'),
  [(1792, (896, 1792)), (14_400, (768, 14_592)), (3600, (768, 3840)), (14_080, (640, 14_080))],
)
def test_tiles_pad_least_and_are_multiples_of_the_lanes(num_tokens, tile):
  assert kernels.tiling(num_tokens) == tile


@pytest.mark.parametrize(
  ('platform', 'over', 'num_keys', 'head_dim', 'dtype', 'expected'),
  [
    ('tpu', 'pixels', 1792, 64, 'bfloat16', 'pallas'),
    ('tpu', 'pixels', 14_400, 64, 'bfloat16', 'pallas'),
    ('tpu', 'pixels', 32_400, 64, 'bfloat16', 'splash'),
    ('tpu', 'pixels', 3600, 64, 'float32', 'pallas'),
    ('tpu', 'pixels', 14_400, 64, 'float32', 'splash'),
    ('tpu', 'pixels', 28, 64, 'bfloat16', 'xla'),
    ('tpu', 'pixels', 1792, 32, 'bfloat16', 'splash'),
    ('tpu', 'context', 145, 64, 'bfloat16', 'pallas'),
    ('tpu', 'context', 145, 32, 'bfloat16', 'xla'),
    ('tpu', 'frames', 16, 64, 'bfloat16', 'pallas'),
    ('tpu', 'frames', 1, 64, 'bfloat16', 'xla'),
    ('tpu', 'frames', 16, 4, 'bfloat16', 'xla'),
    ('gpu', 'pixels', 1792, 64, 'bfloat16', 'cudnn'),
    ('gpu', 'pixels', 1792, 64, 'float32', 'xla'),
    ('gpu', 'frames', 16, 64, 'bfloat16', 'xla'),
    ('cpu', 'pixels', 14_400, 64, 'bfloat16', 'xla'),
  ],
)
def test_the_kernel_is_chosen_by_shape_and_backend(
  platform, over, num_keys, head_dim, dtype, expected
):
  assert kernels.choose(platform, over, num_keys, head_dim, jnp.dtype(dtype)) == expected


# 3 videos do not divide, nor do 3 heads: every device holds all of them.
@pytest.mark.parametrize(('batch_size', 'num_heads'), [(4, 2), (3, 2), (4, 3)])
@pytest.mark.parametrize('over', list(kernels.OVER))
def test_each_device_attends_within_its_rows(over, batch_size, num_heads):
  mesh = mesh_lib.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  queries = (batch_size, 2, 16, 8 * num_heads)
  keys = (batch_size, 7, 8 * num_heads) if over == 'context' else queries
  arrays = draw(queries, keys, keys)

  def on_device(q, k, v):
    return kernels.plain(over, q, k, v, q.shape[-1] // 8)

  dims = ('BFSC', *[kernels.OVER[over][0]] * 2)
  mapped = mesh_lib.within(mesh, video_parts.on_each_device(on_device, dims, num_heads))
  ours = jax.jit(mapped)(*jax.device_put(arrays, mesh_lib.replicated(mesh)))
  spec = ours.sharding.spec
  assert (spec and spec[0] == ('data', 'fsdp')) == (batch_size == 4)
  np.testing.assert_allclose(ours, kernels.plain(over, *arrays, num_heads), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_sampling_chooses_kernels_for_the_mesh(monkeypatch):
  """Traced only, for a mesh that says it is of TPUs."""
  config = tiny.get_config('unused')
  built = session_lib.build(config)
  sizes = mesh_lib.resolve({'data': 8, 'fsdp': 1, 'tensor': 1}, 8)
  mesh = chips.abstract_mesh(sizes, chips.DEVICES['v5p'])
  latents, _, conditioning = built.unet_inputs(2, 32, 32, batch_size=8)
  params = jax.eval_shape(built.unet.init, jax.random.key(0), *built.smallest_unet_inputs())
  frozen = frozen_lib.abstract(built.networks)
  bucket = buckets.Bucket('a', 2, 32, 32, 8.0, batch_size=8)
  batch = {
    field.name: field.of_rows(fields.Rows(bucket, [''] * 8, range(8)))
    if isinstance(field, fields.RowField)
    else np.zeros((8, *field.shape(bucket)), np.uint8)
    for field in built.fields()
  }
  inputs = generate_lib.Inputs(built.of_batch(batch), built.negative(''))
  seen = []
  monkeypatch.setattr(kernels, 'choose', lambda platform, *_: seen.append(platform) or 'xla')
  generate = generate_lib.make_generate(built.on(mesh), **generate_lib.settings(config))
  jax.eval_shape(generate, params['params'], frozen, inputs, latents)
  assert set(seen) == {'tpu'}


# Shapes of what fills a chip's vector memory, and of what the shipped configs attend to most.
LARGEST = {
  'keys': ('pixels', (2, pallas_attention.MOST_KEYS, 128)),
  'pixels': ('pixels', (1, 14_400, 320)),
  'frames': ('frames', (pallas_frame_attention.MOST_FRAMES, 128, 128)),
}


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
@pytest.mark.parametrize('shape', list(LARGEST))
@pytest.mark.parametrize('name', ['v5e-16', 'v5p-8', 'v6e-8', 'tpu7x-8'])
def test_the_largest_shapes_fit_the_vector_memory(name, shape, dtype):
  """Compiled by libtpu, forward and backward, as nothing else sees what a kernel takes."""
  pytest.importorskip('libtpu')
  devices = chips.described(topology.parse(name))
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=-1, tensor=1), devices)
  over, dims = LARGEST[shape]
  x = jax.ShapeDtypeStruct(
    (len(devices), *dims), jnp.dtype(dtype), sharding=mesh_lib.batch_sharding(mesh)
  )

  def backward(q, k, v, dy):
    heads = dims[-1] // 64
    return jax.vjp(lambda *x: kernels.attend(over, *x, heads), q, k, v)[1](dy)

  lowered = jax.jit(mesh_lib.within(mesh, backward)).lower(x, x, x, x)
  assert 'tpu_custom_call' in lowered.compile().as_text()
