"""Videos split over the mesh axis `context`: the same numbers, and what is exchanged for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.corpus import buckets
from i2vgen_jax.conditions import image_latents
from i2vgen_jax.models import attention, layers, video_parts
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.plan import exchanges, hlo
from i2vgen_jax.pretrained import frozen as frozen_lib
from tests.i2vgen_jax.models import test_autoencoder

SIZES = dict(data=2, fsdp=2, context=2, tensor=1)
P = jax.sharding.PartitionSpec
CHANNELS = 16


class Conditioned(image_latents.ImageLatents):
  """What the first frame makes of a video's input, added to it."""

  def __call__(self, x_BFHWC, image_BHWC, dropout_keys_B):
    num_frames = x_BFHWC.shape[1] * video_parts.num_parts()
    return x_BFHWC + super().__call__(image_BHWC, num_frames, dropout_keys_B)


def draw(*shape):
  return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def blocks(batch_size):
  """{name: (module, its arguments)}."""
  x, embedding, tokens = draw(batch_size, 4, 8, 6, CHANNELS), draw(batch_size, 12), (batch_size, 5)
  keys_B = jax.random.split(jax.random.key(1), batch_size)
  sizes = dict(route_width=CHANNELS, embedding_width=4, dropout=0.5, dtype=jnp.float32)
  return {
    'ResBlock': (layers.ResBlock(CHANNELS, 4, 0.5), (x, embedding, keys_B)),
    'SpatialTransformer': (
      attention.SpatialTransformer(2, 8, 4),
      (x, draw(*tokens, CHANNELS)),
    ),
    'TemporalTransformer': (attention.TemporalTransformer(2, 8, 4), (x,)),
    'ImageLatents': (Conditioned(**sizes), (x, x[:, 0], keys_B)),
  }


def compiled_backward(module, params, arguments, sizes):
  """(compiled (params, dy, x, *others) -> (y, gradients), placed arguments)."""
  mesh = mesh_lib.make_mesh(sizes, jax.devices()[: int(np.prod(list(sizes.values())))])
  rows = mesh_lib.batch_sharding(mesh)
  parts = jax.sharding.NamedSharding(mesh, P(mesh_lib.BATCH_AXES, 'context'))
  placed = sharding.shard_tree(params, mesh, min_elements=2)

  def backward(params, dy, x, *others):
    apply = video_parts.split_videos(module.apply)
    y, vjp = jax.vjp(lambda params, x: apply(params, x, *others), params, x)
    return y, vjp(dy)

  arguments = (
    jax.device_put(params, placed),
    *jax.device_put(arguments[:2], parts),
    *jax.device_put(arguments[2:], rows),
  )
  jitted = jax.jit(mesh_lib.within(mesh, backward), out_shardings=(parts, (placed, parts)))
  return jitted.lower(*arguments).compile(), arguments


def prepare(name, batch_size):
  """(module, random parameters, (dy, x, *others))."""
  module, arguments = blocks(batch_size)[name]
  shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
  params = jax.tree.map(lambda leaf: 0.3 * draw(*leaf.shape), shapes)
  return module, params, (np.cos(arguments[0]), *arguments)


@pytest.mark.parametrize('batch_size', [4, 8])  # A video for two devices, and one for each.
@pytest.mark.parametrize('name', blocks(1))
def test_blocks_are_those_of_one_device(name, batch_size):
  module, params, arguments = prepare(name, batch_size)
  one, whole = compiled_backward(module, params, arguments, dict.fromkeys(SIZES, 1))
  several, split = compiled_backward(module, params, arguments, SIZES)
  results = jax.device_get((one(*whole), several(*split)))
  for (path, expected), found in zip(
    jax.tree_util.tree_leaves_with_path(results[0]), jax.tree.leaves(results[1]), strict=True
  ):
    error = np.linalg.norm(found - expected)
    # A shift before a norm has no gradient but rounding.
    assert error <= 2e-6 * (np.linalg.norm(expected) + 1), sharding.path_name(path)


@pytest.mark.parametrize('name', ['ResBlock', 'SpatialTransformer', 'TemporalTransformer'])
def test_only_frames_and_pixels_are_exchanged(name):
  """There and back, in both directions: parts of activations, and nothing of their size is
  gathered."""
  module, params, arguments = prepare(name, batch_size=4)
  compiled, _ = compiled_backward(module, params, arguments, SIZES)
  part = arguments[0].size * 4 // 8
  found = exchanges.collectives(
    hlo.parse(compiled.as_text()), dict(zip(mesh_lib.AXES, (1, 2, 2, 2, 1), strict=True))
  )
  exchanged = [e for e in found if e.kind == 'all-to-all']
  assert len(exchanged) == (0 if name == 'SpatialTransformer' else 4)
  assert {(e.axes, e.bytes) for e in exchanged} <= {(('context',), part)}
  largest = max(leaf.size * 4 for leaf in jax.tree.leaves(params))
  for exchange in found:
    if exchange.kind == 'all-gather':
      assert exchange.bytes <= largest, exchange.op.path


def test_videos_are_encoded_and_decoded_in_parts():
  module = test_autoencoder.make(frames_per_chunk=1)
  shapes = frozen_lib.abstract({'vae': module.vae})
  frozen = jax.tree.map(lambda leaf: 0.3 * draw(*leaf.shape), shapes)
  video = test_autoencoder.random_video(4, 2)
  mesh = mesh_lib.make_mesh(SIZES)

  def there_and_back(frozen, video):
    latents = module.encode_video(frozen, video)
    return latents, module.encode_video(frozen, video[:, :1]), module.decode_video(frozen, latents)

  latents, first, decoded = jax.jit(there_and_back)(frozen, video)
  placed = mesh_lib.place_batch({'video': video}, mesh)['video']
  split = jax.jit(mesh_lib.within(mesh, there_and_back))(frozen, placed)
  assert split[0].sharding.shard_shape(split[0].shape)[:2] == (1, 1)  # A frame of a video each.
  np.testing.assert_allclose(split[0], latents, atol=1e-5 * np.abs(latents).max())
  np.testing.assert_allclose(split[1], first, atol=1e-5 * np.abs(latents).max())
  np.testing.assert_allclose(split[2].astype(int), decoded.astype(int), atol=1)  # Rounded.


@pytest.mark.parametrize(
  ('shape', 'message'),
  [
    ((4, 3, 8, 6, CHANNELS), '4 videos of 3 frames do not divide over mesh axis context=2'),
    (
      (4, 4, 3, 3, CHANNELS),
      'a level of 3 x 3 latent pixels does not divide over mesh axis context=2',
    ),
  ],
)
def test_videos_that_do_not_divide_are_refused(shape, message):
  module, x = attention.TemporalTransformer(2, 8, 4), jnp.zeros(shape)
  params = jax.eval_shape(module.init, jax.random.key(0), x)
  apply = mesh_lib.within(mesh_lib.make_mesh(SIZES), video_parts.split_videos(module.apply))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(apply, params, x)


@pytest.mark.parametrize(
  ('batch_size', 'frames', 'fits'),
  [(4, 16, True), (8, 1, True), (4, 1, False), (12, 16, False), (16, 15, True)],
)
def test_batches_leave_one_video_or_a_multiple_of_context(batch_size, frames, fits):
  mesh = mesh_lib.make_mesh(SIZES)
  bucket = buckets.Bucket(
    name='a', frames=frames, height=64, width=64, batch_size=batch_size,
    **(dict(fps=8, media='video') if frames > 1 else dict(fps=1, media='image')),
  )  # fmt: skip
  if fits:
    mesh_lib.check_batch_sizes([bucket], mesh, accumulation=1)
  else:
    with pytest.raises(ValueError, match='do not divide over mesh axis context=2'):
      mesh_lib.check_batch_sizes([bucket], mesh, accumulation=1)


def test_axes_are_those_of_the_mesh():
  assert mesh_lib.BATCH_AXES == video_parts.BATCH_AXES
  assert {*video_parts.BATCH_AXES, video_parts.AXIS, video_parts.HEADS} == set(mesh_lib.AXES)
