"""A device that ran out of memory: a user reads what lay in it, and what to change."""

import re

import jax
import pytest

from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.plan import estimate, memory
from i2vgen_jax.process import errors, exit_codes
from i2vgen_jax.training import step
from tests import tiny

XLA = 'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20G of 15.75G.\n\nPROGRAM: x'


@pytest.fixture(scope='module')
def explanation():
  config = tiny.get_config('unused')
  session = session_lib.build(config, reads_captions=False)
  session = session.on(mesh_lib.make_mesh(config.mesh))
  state, placed, _, _ = step.from_config(session)
  return memory.Explanation(session, state, placed, session.buckets())


def test_the_error_says_what_was_held_and_what_to_lower(explanation):
  error = jax.errors.JaxRuntimeError(XLA)
  explanation(error)
  explanation(error)  # Once is enough.
  code, message = errors.classify(error)
  assert code == exit_codes.USAGE
  first, *lines = message.splitlines()
  assert first == f'a device has too little memory: {XLA.splitlines()[0]}'
  sizes = [float(size) for size in re.findall(r'^ +([\d.]+) GiB', message, re.MULTILINE)]
  *parts, whole = sizes
  kinds = estimate.state_bytes(explanation.state, explanation.placed, explanation.session)
  assert len(parts) == len(kinds) + 1 and sum(parts) == pytest.approx(whole, abs=0.05)
  for kind, size in kinds.items():
    assert re.search(
      rf'^ +{size / estimate.GIB:.2f} GiB  {re.escape(kind)}$', message, re.MULTILINE
    )
  for hint in ('batch_size', 'mesh.fsdp', 'sharding.offload_optimizer', 'data.cache'):
    assert message.count(f'--config.{hint}') == (hint != 'batch_size')
  assert message.count('--config.data.buckets.videos.batch_size') == 1


def test_other_errors_stay_as_they_are(explanation):
  for error in (jax.errors.JaxRuntimeError('INTERNAL: x'), ValueError('out of memory'), None):
    explanation(error)
    assert not getattr(error, '__notes__', None)
