"""All shapes of batch compile before the first step, with the flags of a named profile."""

import logging
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from configs import meshes
from i2vgen_jax import precompile, train
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology, xla_profiles
from i2vgen_jax.training import compilation
from tests import tiny

MESH = mesh_lib.make_mesh({'data': 8, 'fsdp': 1, 'tensor': 1})
SHAPES = {
  'short': {'video': ((8, 2), np.dtype('float32'))},
  'as_short': {'video': ((8, 2), np.dtype('float32'))},
  'long': {'video': ((8, 4), np.dtype('float32'))},
}


def test_buckets_of_one_shape_whose_steps_differ_share_no_program():
  """As where one bucket has other rates of dropout."""
  whole = mesh_lib.replicated(MESH)
  state, frozen = jax.device_put((jnp.ones(()), jnp.ones(())), whole)
  doubled, tripled = (
    jax.jit(
      lambda state, frozen, batch, n=n: (n * state, batch['video'].sum()), out_shardings=whole
    )
    for n in (2, 3)
  )
  make_step = {'short': doubled, 'as_short': tripled}.get
  steps = compilation.Steps(make_step, MESH, xla_profiles.options('none', 'cpu'))
  steps.compile({name: SHAPES[name] for name in ('short', 'as_short')}, state, frozen)
  batch = mesh_lib.place_batch({'video': np.ones((8, 2), np.float32)}, MESH)
  assert [steps(name, state, frozen, batch)[0] for name in ('short', 'as_short')] == [2, 3]


def test_buckets_of_one_shape_share_a_program_and_no_step_compiles():
  traced = []

  def step(state, frozen, batch):
    traced.append(batch['video'].shape)
    return state + frozen, batch['video'].sum()

  whole = mesh_lib.replicated(MESH)
  state, frozen = jax.device_put((jnp.ones(()), jnp.ones(())), whole)
  jitted = jax.jit(step, out_shardings=(whole, whole))
  steps = compilation.Steps(lambda bucket: jitted, MESH, xla_profiles.options('none', 'cpu'))
  steps.compile(SHAPES, state, frozen)
  assert traced == [(8, 2), (8, 4)]
  for bucket, width in (('short', 2), ('long', 4), ('as_short', 2)):
    batch = mesh_lib.place_batch({'video': np.ones((8, width), np.float32)}, MESH)
    state, total = steps(bucket, state, frozen, batch)
    assert total == 8 * width
  assert state == 4 and len(traced) == 2


def test_what_is_compiled_is_kept_in_the_workdir(tmp_path):
  config = tiny.get_config('unused')
  before = {
    name: getattr(jax.config, name)
    for name in ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')
  }
  try:
    jax.config.update('jax_compilation_cache_dir', None)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    compilation.use_cache(config, tmp_path)
    compilation_cache.reset_cache()
    jax.jit(lambda x: x * 7 + 3)(jnp.ones(3)).block_until_ready()
    assert any('cache' in name for name in os.listdir(tmp_path / 'compilation_cache'))
    # What the environment (or anyone before) chose stays.
    compilation.use_cache(config, tmp_path / 'elsewhere')
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'compilation_cache')
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_profiles_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match="profile='fast' is unknown; known: none, tpu"):
    xla_profiles.options('fast', 'tpu')
  with pytest.raises(ValueError, match="profile='tpu' is for tpu, but the devices are cpu"):
    xla_profiles.options('tpu', 'cpu')


def test_kernels_are_gathered_whole_between_slices():
  threshold = 'xla_jf_spmd_threshold_for_windowed_einsum_mib'
  assert threshold in xla_profiles.options('none', 'tpu', slices=2)
  assert xla_profiles.options('none', 'tpu') == xla_profiles.options('none', 'cpu', slices=2) == {}


@pytest.mark.slow
@pytest.mark.parametrize('name', [n for n, (where, _) in xla_profiles.PROFILES.items() if where])
def test_compilers_accept_every_flag(name):
  """libtpu those of TPUs, this machine's XLA those of GPUs; each refuses what it does not know."""
  platform, flags = xla_profiles.PROFILES[name]
  x = jnp.ones((8, 8))
  if platform == 'tpu':
    pytest.importorskip('libtpu')
    from i2vgen_jax.parallel import topology
    from i2vgen_jax.plan import chips

    devices = chips.described(topology.parse('v5e-16' if name.startswith('v5e') else 'v5p-8'))
    x = jax.ShapeDtypeStruct(
      (8, 8), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(devices[0])
    )
  lowered = jax.jit(lambda x: x @ x).lower(x)
  lowered.compile(compiler_options=flags)
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_flag'):
    lowered.compile(compiler_options={'xla_no_such_flag': 'true'})


class Compilations:
  """Names of the programs that XLA has compiled since; those found in a cache are none."""

  def __enter__(self):
    self.names = []
    self._handler = logging.Handler()
    self._handler.emit = lambda record: self.names.extend(
      re.findall(r"CACHE MISS for '(jit_\w+)'", record.getMessage())
    )
    self._logger = logging.getLogger('jax._src.compiler')
    self._level = self._logger.level
    self._logger.setLevel(logging.DEBUG)
    self._logger.addHandler(self._handler)
    return self

  def __exit__(self, *_):
    self._logger.removeHandler(self._handler)
    self._logger.setLevel(self._level)


@pytest.mark.slow
def test_a_run_after_precompile_compiles_none_of_its_programs(demo_corpus, tmp_path, monkeypatch):
  config = tiny.get_config(str(demo_corpus), num_steps=2)
  config.train.update(eval_every=2, sample_every=2)
  config.mesh = meshes.get('cpu-8')
  monkeypatch.setattr(compilation, 'BYTES_PER_PROGRAM', 2**30)
  before = jax.config.jax_compilation_cache_dir, jax.config.jax_explain_cache_misses
  jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'cache'))
  jax.config.update('jax_explain_cache_misses', True)
  compilation_cache.reset_cache()
  whole = {'jit_step', 'jit_eval_loss', 'jit_generate'}
  try:
    with Compilations() as first:
      made = precompile.precompile(config, tmp_path, topology.parse('cpu-8'))
    assert set(made) == {'bucket videos', 'validation', 'sampling'}
    assert whole <= set(first.names)
    with Compilations() as later:
      assert train.train(config, tmp_path / 'run') == 0
    assert not whole & set(later.names), later.names
  finally:
    jax.config.update('jax_compilation_cache_dir', before[0])
    jax.config.update('jax_explain_cache_misses', before[1])
    compilation_cache.reset_cache()
