"""The same command on fewer machines, then on more: the mesh is chosen from what is there."""

import itertools

import jax
import numpy as np
import pytest

from configs import meshes
from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.stream import fields, stream
from i2vgen_jax.parallel import mesh as mesh_lib
from tests import runs, tiny
from tests.i2vgen_jax.process import test_hosts


@pytest.mark.parametrize(
  ('name', 'free', 'devices', 'expected'),
  [
    ('2xv5p-128', 'slice', (128, 64, 128), (2, 1, 2)),
    ('4xv5e-256', 'slice', (1024, 512, 256), (4, 2, 1)),
    ('2xgpu-8', 'slice', (16, 8), (2, 1)),
    ('all', 'data', (2, 1, 2), (2, 1, 2)),
    ('fsdp', 'fsdp', (16, 8), (16, 8)),
  ],
)
def test_a_free_axis_takes_what_is_left_of_the_machines(name, free, devices, expected):
  sizes = meshes.get(name) | {free: -1}
  found = [mesh_lib.resolve(sizes, count) for count in devices]
  assert tuple(mesh[free] for mesh in found) == expected
  others = [{axis: size for axis, size in mesh.items() if axis != free} for mesh in found]
  assert all(mesh == others[0] for mesh in others)


def test_machines_that_a_batch_does_not_divide_over_are_named_before_anything_compiles():
  buckets = buckets_lib.from_config(tiny.get_config('unused'))
  sizes = mesh_lib.resolve(meshes.get('all'), 3)
  mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
  with pytest.raises(ValueError, match='batch_size=8 must be a multiple of 3'):
    mesh_lib.check_batch_sizes(buckets, mesh, accumulation=1)


def test_every_example_comes_once_while_hosts_go_and_come(demo_corpus):
  """Hosts 2 -> 1 -> 4 -> 2, each time from the step where the others stopped."""
  config = tiny.get_config(demo_corpus).to_dict()
  open_stream = lambda **hosts: stream.from_config(  # noqa: E731
    config, [fields.Fps()], sandbox=False, **hosts
  )
  straight = open_stream()
  wanted = [example['key'] for step in range(6) for example in straight.examples_at(step)]
  found = []
  for step, count in enumerate((2, 2, 1, 4, 4, 2)):
    hosts = [open_stream(host_index=host, host_count=count) for host in range(count)]
    positions = [host.batch_at(step)['position'] for host in hosts]
    assert sorted(itertools.chain(*positions)) == list(range(8))
    assert {host.fingerprint for host in hosts} == {straight.fingerprint}
    found += [example['key'] for example in hosts[-1].examples_at(step)]
  assert found == wanted and len(set(wanted)) == len(wanted) == 48


@pytest.mark.slow
def test_a_run_on_two_processes_then_one_then_two_gives_the_losses_of_one(
  finished_run, demo_corpus, tmp_path
):
  """Two are gone after step 2, one is back after step 4."""
  for topology, stop_at in (('2xcpu-1', 2), ('1xcpu-1', 4), ('2xcpu-1', 0)):
    process = test_hosts.launch(
      tmp_path, demo_corpus, f'--config.train.stop_at={stop_at}', topology=topology, data=-1
    )
    log = process.communicate(timeout=900)[1]
    assert process.returncode == 0, log[-5000:]
  expected, found = runs.losses(finished_run), runs.losses(tmp_path)
  np.testing.assert_allclose(
    [found[step] for step in range(1, 7)], [expected[step] for step in range(1, 7)], rtol=1e-5
  )
