"""Plans: what shapes say of memory, FLOPs and time, and how compiled TPU programs are read."""

import dataclasses
import json
import pathlib

import jax
import pytest

from configs import demo, meshes
from data_pipelines.corpus import buckets as buckets_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import layers, unet3d
from i2vgen_jax.parallel import flops, topology
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.plan import __main__ as command
from i2vgen_jax.plan import chips, compiled, cost, estimate, hlo, refined, table
from i2vgen_jax.training import abstract, data, step
from tests import tiny

# As libtpu 0.0.52 writes it, with what is not read left out.
PROGRAM = """HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (input: bf16[320,320]) -> bf16[80,320] {
  %input = bf16[320,320]{1,0} parameter(0)
  ROOT %all-reduce.9 = bf16[320,320]{1,0} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}
}

%body (state: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %state = (s32[], bf16[8]{0}) parameter(0)
  ROOT %step = (s32[], bf16[8]{0}) fusion(%state), kind=kLoop, calls=%add, backend_config={"window_config":{"estimated_cycles":"50"}}
}

ENTRY %main (p: bf16[80,320]) -> bf16[80,320] {
  %p = bf16[80,320]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather-start.1 = (bf16[80,320]{1,0}, bf16[320,320]{1,0}) all-gather-start(%p), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  %fusion.1 = bf16[320,320]{1,0} fusion(%p), kind=kOutput, calls=%dot, metadata={op_name="jit(step)/jvp(UNet3D)/down_blocks_0/to_q/dot_general"}, backend_config={"window_config":{"estimated_cycles":"1000"}}
  %all-gather-done.1 = bf16[320,320]{1,0} all-gather-done(%all-gather-start.1)
  %all-reduce.2 = f32[256]{0} all-reduce(%fusion.1), replica_groups=[4,2]<=[2,4]T(1,0)
  %kernel.1 = (f32[64,896,128]{2,1,0}, bf16[64,5,1792,64]{3,2,1,0}) custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="jit(step)/attn1/pallas_call"}
  %kernel.2 = (bf16[8]{0}, bf16[8]{0}, bf16[8]{0}, bf16[8]{0}, bf16[8]{0}, /*index=5*/bf16[8]{0:T(8,128)(2,1)}) custom-call(%p), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/attn2/pallas_call"}, backend_config={"custom_call_config":{"cost_estimate":{"flops":"4590000","transcendentals":"7","bytes_accessed":"2765000000"}}}
  %all-to-all.1 = bf16[80,320]{1,0} all-to-all(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={1}, metadata={op_name="jit(step)/stack"}
  %while.1 = (s32[], bf16[8]{0}) while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %fusion.2 = bf16[80,320]{1,0} fusion(%fusion.1), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501
MESH = {'data': 2, 'fsdp': 4}


def program():
  text = PROGRAM.replace('condition=%c, ', '').replace('calls=%add', 'kind=kLoop')
  return hlo.parse(text)


def test_cycles_are_summed_over_loops():
  assert sum(op.cycles * times for op, times in hlo.executed(program())) == 1000 + 3 * 50


def test_kernels_are_counted_though_xla_counts_them_as_nothing():
  splash, stated = (op for op, _ in hlo.executed(program()) if compiled.is_kernel(op))
  assert splash.path == 'jit(step)/attn1/pallas_call'
  assert compiled.kernel_cost(splash) == (2 * 2 * 64 * 5 * 1792**2 * 64, 0)
  assert stated.path == 'jit(step)/attn2/pallas_call'
  assert compiled.kernel_cost(stated) == (4_590_000, 2_765_000_000)
  # Its bytes at the rate of memory take longer than its FLOPs at that of kernels.
  rows = compiled.by_kernel([(stated, 1)], chips.DEVICES['v5p'], {})
  assert rows[0]['ms'] == pytest.approx(1)
  assert rows[0]['limit'] == 'HBM'


def test_a_text_without_a_program_is_refused():
  with pytest.raises(ValueError, match='no HLO module'):
    hlo.parse('nothing')


def small(mesh, **unet):
  """A small config on a mesh, and its buckets."""
  config = tiny.get_config('unused')
  config.mesh = mesh
  config.unet.update(unet)
  return config, [
    buckets_lib.Bucket(name=name, **bucket) for name, bucket in config.data.buckets.items()
  ]


def plan_of(name, mesh, **unet):
  return estimate.make(
    *small(mesh, **unet)[:1], topology.parse(name), small(mesh)[1], mfu=0.4, clip_cpu_secs=0.1
  )


def test_bytes_of_the_state_are_those_of_a_state_that_is_made():
  config, _ = small(meshes.get('cpu-8'))
  sizes = mesh_lib.resolve(config.mesh, 8)
  session = estimate.session_lib.build(config, reads_captions=False)
  state, placed, *_ = step.from_config(session.on(mesh_lib.make_mesh(config.mesh)))
  zeros = jax.jit(
    lambda: jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), state.params),
    out_shardings=placed.params,
  )()
  held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(zeros))
  abstract = chips.abstract_mesh(sizes, chips.DEVICES['v5p'])
  session = session.on(abstract)
  state, placed, *_ = step.from_config(session)
  found = estimate.state_bytes(state, placed, session)
  assert found['parameters'] == found['average (EMA)'] == held
  assert found['optimizer'] == pytest.approx(2 * held, rel=0.01)  # Adam's moments.


def test_an_offloaded_optimizer_takes_nothing_of_the_device():
  config, found = small(meshes.get('v5p-8'), remat='block')
  config.sharding.offload_optimizer = True
  plan = estimate.make(config, topology.parse('v5p-8'), found, mfu=0.4, clip_cpu_secs=0.1)
  assert plan.bytes['optimizer'] < 100 < plan.bytes['parameters']  # The counts of steps.


def test_adapters_alone_have_an_optimizer_state():
  config, found = small(meshes.get('v5p-8'), remat='block')
  config.lora.rank = 2
  plan = estimate.make(config, topology.parse('v5p-8'), found, mfu=0.4, clip_cpu_secs=0.1)
  assert 0 < plan.bytes['optimizer'] < plan.bytes['parameters'] / 2


def test_plans_say_what_fits():
  kept = plan_of('v5p-8', meshes.get('v5p-8'))
  again = plan_of('v5p-8', meshes.get('v5p-8'), remat='block')
  assert again.bytes_per_sample != kept.bytes_per_sample
  assert kept.samples_per_device == 2
  assert any(line.startswith('fits with fsdp=4') for line in kept.hints)
  short = dataclasses.replace(kept, capacity=kept.bytes['parameters'], hints=[])
  config, _ = small(meshes.get('v5p-8'))
  lines = estimate.hints(short, dict(fsdp=4), config)
  assert lines[0].startswith('does not fit')
  assert 'not one video of this size fits a device' in lines
  text = table.lines(kept, 'v5p-8')
  assert 'estimate' in text and json.dumps(dataclasses.asdict(kept))


def test_a_compiled_step_overrules_the_estimate_in_hints_hours_and_price():
  plan = dataclasses.replace(plan_of('v5p-8', meshes.get('v5p-8')), price=6.0)
  assert plan.hints[0] == 'fits with fsdp=4 (estimate)'
  config, _ = small(meshes.get('v5p-8'))
  [row] = plan.buckets
  assert row['name'] == 'videos'
  report = dict(
    memory_gib=dict(peak=200.0), estimated_secs=dict(step=3 * plan.secs_per_step), estimated_mfu=0.1
  )
  found = refined.by_compiled(plan, report, 'videos', 2.0, dict(fsdp=4), config)
  assert found.hints[0] == 'does not fit with fsdp=4 (compiled)'
  assert sum(found.bytes.values()) == 200 * 2**30
  assert 'compiled: videos takes' in table.lines(found, 'v5p-8')
  assert found.hours == pytest.approx(3 * plan.hours)
  assert found.price == pytest.approx(18.0)
  assert found.samples_per_sec == pytest.approx(plan.samples_per_sec / 3)
  report['memory_gib']['peak'] = 40.0
  found = refined.by_compiled(plan, report, 'videos', 2.0, dict(fsdp=4), config)
  # Two videos and what is fixed take 40 of 95 GiB, nearly all of it the videos'.
  assert found.hints[:2] == ['fits with fsdp=4 (compiled)', 'batch per device <= 4']


def test_plans_of_docs_are_shown_with_modules_or_without():
  """Those compiled before there were sums per module are read as well."""
  folder = pathlib.Path(__file__).parents[3] / 'docs/plans'
  reports = [json.loads(path.read_text()).get('compiled', {}) for path in folder.glob('*.json')]
  assert any(reports)
  for report in reports:
    lines = table.modules(report).splitlines()
    assert len(lines) == (len(report['modules']) + 2 if 'modules' in report else 0)
  row = dict(module='up_1/resnet/pixels', ms=3.0, floor_ms=1, flops_ms=1, bytes_ms=0.5)
  shown = table.modules(dict(modules=[row | dict(exchanges_ms=0)])).splitlines()
  assert shown[1].split() == ['up_1/resnet/pixels', '3.00', '1.00', '1.00', '0.50', '0.00']
  assert shown[-1].split() == ['in', 'all', '3.00', '1.00']


def test_a_step_is_traced_with_its_encoders_unless_a_cache_spares_them():
  config, buckets = small(meshes.get('cpu-8'))
  session = session_lib.build(config, reads_captions=False).on(mesh_lib.make_mesh(config.mesh))

  def encoder_flops(session, **options):
    traced = compiled.trace_update(session, buckets[0], **options)
    return flops._of_jaxpr(traced.jaxpr.jaxpr)

  bare = encoder_flops(session, with_encoders=False)
  encoding = cost.encoding_flops(session, buckets[0]) * buckets[0].batch_size
  assert encoder_flops(session) - bare == pytest.approx(encoding, rel=0.02)
  session.config.data.cache = 'elsewhere'
  assert encoder_flops(session) == bare


def test_what_is_kept_shrinks_from_policy_to_policy():
  block = lambda remat: unet3d.rematerialized(layers.ResBlock, remat)(8, 4, 0.2)  # noqa: E731
  x = jax.ShapeDtypeStruct((2, 3, 4, 4, 8), 'float32')
  arguments = x, jax.ShapeDtypeStruct((2, 6), 'float32'), estimate._keys(2)
  params = jax.eval_shape(block('none').init, jax.random.key(0), *arguments)
  mesh = chips.abstract_mesh(dict.fromkeys(mesh_lib.AXES, 1), chips.DEVICES['v5p'])
  none, products, block_alone, offload = (
    estimate.residual_bytes(block(remat), params, mesh, *arguments)
    for remat in ('none', 'products', 'block', 'offload')
  )
  assert none > products > block_alone == offload + x.size * 4


def test_plans_are_refused_where_nothing_is_known():
  with pytest.raises(ValueError, match='plans are made for TPUs'):
    plan_of('gpu-8', meshes.get('gpu-8'))
  with pytest.raises(ValueError, match='needs 8 devices, but there are 4'):
    plan_of('v5p-8', meshes.get('cpu-8'))
  with pytest.raises(ValueError, match='--bucket=.* is unknown; known: videos'):
    command.choose(small(meshes.get('v5p-8'))[1], 'none')


def test_each_kind_of_tpu_reaches_its_peak_at_its_clock():
  for device in chips.DEVICES.values():
    assert 0.9e9 < device.clock < 2.3e9, device


@pytest.mark.slow
@pytest.mark.parametrize('name', ['ResBlock', 'SpatialTransformer', 'TemporalTransformer'])
def test_videos_split_over_context_exchange_frames_for_pixels_alone(name):
  """Kernels and all, for a v5p: nothing of the size of activations is gathered but the gradient of
  the input, which the benchmark wants whole."""
  pytest.importorskip('libtpu')
  from benchmarks import blocks

  found = blocks.measure(
    name, topology.parse('v5p-16'), channels=320, size=(32, 56), frames=16, batch=1,
    remat='none', profile='none', fsdp=4, context=2,
  )  # fmt: skip
  moved = found['collectives']
  part = 8 * 32 * 56 * 320 * 2 / 2**30
  exchanges = moved.pop('all-to-all over context (ICI)', dict(number=0, gib=0))
  assert exchanges['number'] == (0 if name == 'SpatialTransformer' else 3)  # Input once only.
  assert exchanges['gib'] == pytest.approx(exchanges['number'] * part, rel=0.01)
  assert moved.pop('all-gather over context (ICI)')['gib'] <= 2.01 * part
  # Weights, 1.4 parts of the ResBlock; a gathered activation would be two, or four over fsdp.
  assert all(row['gib'] < 1.9 * part for row in moved.values()), moved


# Where a tenth of the time and more is copies: on v5e XLA lays pixels of one video in lanes, which
# 320 channels do not fill, and back for the kernels (docs/performance.md).
COPIED = {('SpatialTransformer', 'v5e-16'), ('TemporalTransformer', 'v5e-16')}


@pytest.mark.slow
@pytest.mark.parametrize('generation', ['v5e-16', 'v5p-8'])
@pytest.mark.parametrize('name', ['ResBlock', 'SpatialTransformer', 'TemporalTransformer'])
def test_blocks_compile_for_tpus_and_move_no_activations(name, generation):
  """With kernels, in a mesh of fsdp: no all-to-all, and hardly a copy."""
  pytest.importorskip('libtpu')
  from benchmarks import blocks

  # Eight CPU devices are conftest's; libtpu's topology is described beside them.
  found = blocks.measure(
    name, topology.parse(generation), channels=320, size=(32, 56), frames=16, batch=1,
    remat='none', profile='none',
  )  # fmt: skip
  assert not found['all_to_alls']
  assert (found['kernel_tflops'] > 0) == (name != 'ResBlock')
  assert found['memory_gib']['peak'] < found['memory_gib']['capacity']
  kinds = found['secs_by_kind_of_op']
  hardly = kinds.get('copy', 0) < 0.1 * sum(kinds.values())
  assert hardly == ((name, generation) not in COPIED)


def test_a_plan_bounds_the_programs_by_shapes_and_rates():
  config = tiny.get_config('unused', images=True)
  config.mesh = meshes.get('v5p-8')
  config.data.buckets.videos.update(height=128, width=192)
  config.data.buckets.images.update(height=128, width=192)
  config.data.buckets.short = dict(config.data.buckets.videos, fps=4.0)  # Of the videos' shape.
  counts = []
  for aspects in ((), ((128, 192), (192, 128))):
    config.data.aspects = aspects
    session = estimate.session_lib.build(config, reads_captions=False)
    counts.append(cost.num_programs(session, session.buckets()))
  assert counts == [2, 4]
  config.condition_dropout.buckets = dict(short=dict(text=0.5))  # By the config's name.
  session = estimate.session_lib.build(config, reads_captions=False)
  assert cost.num_programs(session, session.buckets()) == 6


def test_encoders_count_unless_a_cache_spares_them():
  """What is counted of a bucket is what its encoding counts by itself, per example."""
  config = tiny.get_config('unused', images=True)
  config.unet.remat = 'block'
  config.mesh = meshes.get('v5p-8')
  session = session_lib.build(config, reads_captions=False)
  buckets = session.buckets()
  videos = next(bucket for bucket in buckets if bucket.name == 'videos')
  batch = {
    name: jax.numpy.zeros(leaf.shape, leaf.dtype)
    for name, leaf in abstract.batch(session, videos, 3).items()
  }
  keys = jax.random.split(jax.random.key(0), 3)
  frozen = abstract.frozen(session)
  three = flops.count(session.encode, frozen, batch, keys, keys)
  assert cost.encoding_flops(session, videos) * 3 == three
  rows = {row['name']: row for row in cost.bucket_rows(session, buckets)}
  assert rows['videos']['encode_tflops'] == pytest.approx(three / 3 * 8 / 1e12)
  assert rows['videos']['encode_tflops'] > rows['images']['encode_tflops'] > 0
  assert rows['videos']['again_tflops'] > 0
  plan = estimate.make(
    config, topology.parse('v5p-8'), buckets, mfu=0.5, clip_cpu_secs=0.1, price_per_chip_hour=2.0
  )
  parts = ('step_tflops', 'again_tflops', 'encode_tflops')
  tflops = sum(row['share'] * row[part] for row in rows.values() for part in parts)
  peak = 4 * 0.5 * flops.PEAKS['TPU v5']
  assert plan.hours == pytest.approx(config.train.num_steps * tflops * 1e12 / peak / 3600)
  assert plan.chip_hours == pytest.approx(4 * plan.hours)
  assert plan.price == pytest.approx(2 * plan.chip_hours)
  assert 'price ' in table.lines(plan, 'v5p-8')
  assert 'price ' not in table.lines(dataclasses.replace(plan, price=None), 'v5p-8')
  config.data.cache = 'elsewhere'
  assert cost.encoding_flops(session, videos) == 0


def test_blocks_that_are_computed_twice_count_in_hours_and_not_in_mfu():
  config = demo.get_config('corpus=unused,images=0')
  shares, trained = {}, set()
  for remat in ('none', 'products', 'block', 'offload'):
    config.unet.remat = remat
    session = session_lib.build(config, reads_captions=False)
    [row] = cost.bucket_rows(session, session.buckets())
    shares[remat] = row['again_tflops'] / row['step_tflops']
    trained.add(row['step_tflops'])
  assert len(trained) == 1 and shares['none'] == shares['products'] == 0
  # About one forward pass of the three.
  assert 0.25 < shares['block'] == shares['offload'] < 0.35


def test_a_planned_batch_has_the_shapes_of_the_streams(demo_corpus):
  config = tiny.get_config(str(demo_corpus), images=True)
  session = session_lib.build(config).on(mesh_lib.make_mesh(config.mesh))
  stream = data.make_stream(session)
  without_captions = session_lib.build(config, reads_captions=False)
  for bucket in stream.buckets:
    planned = abstract.batch(without_captions, bucket, bucket.batch_size)
    shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in planned.items()}
    assert shapes == stream.shapes(bucket)
