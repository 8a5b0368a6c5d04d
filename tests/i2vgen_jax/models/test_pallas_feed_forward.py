"""The feed-forward's kernel against the layers that it stands for."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax.models import attention, kernels, pallas_feed_forward, unet3d
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology
from i2vgen_jax.plan import chips, modules

CHANNELS = 64
SHAPE = (2, 3, 300, CHANNELS)  # Three blocks of pixels would be 384: the last is not full.


@pytest.fixture
def fused(monkeypatch):
  """Lets every TransformerBlock of bfloat16 take the kernel, without a TPU."""
  apply = functools.partial(pallas_feed_forward.apply, interpret=True)
  monkeypatch.setattr(pallas_feed_forward, 'apply', apply)
  monkeypatch.setattr(kernels, 'fuses_feed_forward', lambda shape, dtype: dtype == jnp.bfloat16)


def block(dtype):
  return attention.TransformerBlock(('frames', 'frames'), 1, CHANNELS, dtype)


def draw(shape=SHAPE):
  """(parameters, x, dy): float32, parameters all drawn; x and dy are bfloat16's values."""
  keys = iter(jax.random.split(jax.random.key(0), 99))
  x, dy = (jax.random.normal(next(keys), shape).astype(jnp.bfloat16) for _ in range(2))
  params = block(jnp.float32).init(jax.random.key(1), x.astype(jnp.float32))

  def redraw(path, leaf):
    around = path[-1].key == 'scale'
    return around + 0.2 * jax.random.normal(next(keys), leaf.shape) if leaf.ndim == 1 else leaf

  return jax.tree_util.tree_map_with_path(redraw, params), x, dy


def gradients(mesh, dtype, *given):
  """{name: float32 array}: the output, and the gradients of all parameters and of x."""

  def compute(params, x, dy):
    y, vjp = jax.vjp(block(dtype).apply, params, x.astype(dtype))
    dparams, dx = vjp(dy.astype(dtype))
    return dict(y=y, dx=dx) | flax.traverse_util.flatten_dict(dparams, sep='/')

  found = jax.jit(mesh_lib.within(mesh, compute))(*jax.device_put(given, mesh_lib.replicated(mesh)))
  return {name: value.astype(jnp.float32) for name, value in found.items()}


def one_device():
  return mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])


@pytest.mark.parametrize('num_pixels', [256, 300])
def test_the_kernel_rounds_no_more_than_the_layers_do(num_pixels, fused, monkeypatch):
  """Output and all gradients, beside float32."""
  given, alone = draw((2, 3, num_pixels, CHANNELS)), one_device()
  exact, ours = (gradients(alone, dtype, *given) for dtype in (jnp.float32, jnp.bfloat16))
  monkeypatch.setattr(kernels, 'fuses_feed_forward', lambda *_: False)
  plain = gradients(alone, jnp.bfloat16, *given)
  error = lambda found, name: float(jnp.linalg.norm(found[name] - exact[name]))  # noqa: E731
  assert set(ours) == set(exact)
  for name in exact:
    assert error(ours, name) <= 1.5 * error(plain, name), name
    assert error(ours, name) <= 0.02 * float(jnp.linalg.norm(exact[name])), name
  assert any(error(ours, name) != error(plain, name) for name in exact)  # Another path.


def test_the_kernel_on_each_device_of_a_mesh(fused, monkeypatch):
  """Rows are split; output and gradients are those of one device. In float32, which XLA:CPU
  multiplies on any."""
  given = draw((8, 1, 256, CHANNELS))
  monkeypatch.setattr(kernels, 'fuses_feed_forward', lambda *_: True)
  mesh = mesh_lib.make_mesh({'data': 4, 'fsdp': 2, 'tensor': 1})
  alone, split = (gradients(where, jnp.float32, *given) for where in (one_device(), mesh))
  for name in alone:
    atol = 2e-5 * np.abs(alone[name]).max()
    np.testing.assert_allclose(split[name], alone[name], atol=atol, rtol=0, err_msg=name)


def test_plans_count_the_kernel_as_the_feed_forward_s(fused):
  x = jax.ShapeDtypeStruct((1, 2, 256, CHANNELS), jnp.bfloat16)
  init = block(jnp.float32).init
  params = jax.eval_shape(init, jax.random.key(0), x.update(dtype=jnp.float32))
  traced = jax.make_jaxpr(mesh_lib.within(one_device(), block(jnp.bfloat16).apply))(params, x)
  [kernel] = [eqn for eqn in traced.jaxpr.eqns if eqn.primitive.name == 'shard_map']
  path = f'TemporalTransformer/{kernel.source_info.name_stack}'
  assert modules.module_of(path) == 'frames/feed_forward'


def test_the_kernel_keeps_its_input(fused):
  """And nothing that is four times as wide; 'products' keep what it gave, too."""
  x = jnp.ones((1, 2, 384, CHANNELS), jnp.bfloat16)
  shapes = [(CHANNELS,)] * 2 + [(CHANNELS, 8 * CHANNELS), (8 * CHANNELS,)]
  weights = [jnp.ones(shape) for shape in [*shapes, (4 * CHANNELS, CHANNELS), (CHANNELS,)]]
  for remat, kept in (('products', 2), ('block', 1)):
    function = jax.checkpoint(
      lambda x: jnp.sin(pallas_feed_forward.apply(x, *weights)), policy=unet3d.POLICIES[remat]
    )
    residuals = jax.make_jaxpr(lambda x, f=function: jax.vjp(f, x)[1])(x).out_avals
    assert sum(leaf.size == x.size for leaf in residuals) == kept, remat


@pytest.mark.parametrize(
  ('sizes', 'num_pixels', 'channels', 'dtype', 'fuses'),
  [
    (dict(data=4, fsdp=1, tensor=1), 1792, 320, 'bfloat16', True),
    (dict(data=4, fsdp=1, tensor=1), 14_400, 320, 'bfloat16', True),
    (dict(data=4, fsdp=1, tensor=1), 1792, 320, 'float32', False),  # Its GELU is bfloat16's.
    (dict(data=4, fsdp=1, tensor=1), 448, 640, 'bfloat16', False),  # More than vector memory holds.
    (dict(data=4, fsdp=1, tensor=1), 112, 320, 'bfloat16', False),  # Would fill no lanes.
    (dict(data=4, fsdp=1, tensor=1), 1792, 300, 'bfloat16', False),
    (dict(data=2, fsdp=1, tensor=2), 1792, 320, 'bfloat16', False),
  ],
)
def test_where_the_kernel_is_used(sizes, num_pixels, channels, dtype, fuses):
  shape = (4, 16, num_pixels, channels)
  assert not kernels.fuses_feed_forward(shape, jnp.dtype(dtype))  # Without a mesh.
  mesh = chips.abstract_mesh(mesh_lib.resolve(sizes, 4), chips.DEVICES['v5p'])
  found = mesh_lib.within(mesh, lambda: kernels.fuses_feed_forward(shape, jnp.dtype(dtype)))()
  assert found == fuses


@pytest.mark.slow
@pytest.mark.parametrize('name', ['v5e-16', 'v5p-8', 'v6e-8', 'tpu7x-8'])
def test_the_widest_fits_the_vector_memory(name):
  """Compiled by libtpu, forward and backward."""
  pytest.importorskip('libtpu')
  devices = chips.described(topology.parse(name))
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=-1, tensor=1), devices)
  channels = pallas_feed_forward.MOST_CHANNELS
  rows, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
  shapes = [(channels,)] * 2 + [(channels, 8 * channels), (8 * channels,)]
  shapes += [(4 * channels, channels), (channels,)]
  x = jax.ShapeDtypeStruct((len(devices), 2, 1024, channels), jnp.bfloat16, sharding=rows)
  weights = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=whole) for shape in shapes]

  def backward(x, dy, *weights):
    assert kernels.fuses_feed_forward(x.shape, x.dtype)
    return jax.vjp(kernels.add_feed_forward, x, *weights)[1](dy)

  lowered = jax.jit(mesh_lib.within(mesh, backward)).lower(x, x, *weights)
  assert 'tpu_custom_call' in lowered.compile().as_text()
