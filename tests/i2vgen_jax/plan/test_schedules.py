"""A kernel's time is read from its schedule as libtpu writes it."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from i2vgen_jax.models import kernels
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology
from i2vgen_jax.plan import bundles, chips, compiled, hlo, schedules

# A grid of one loop, a copy of a window, heads, and chunks of keys, of which one bundle lies among
# those of the heads.
BUNDLES = """= control target key start
LB: loop body
= control target key end

     0   :  { %s1 = sld [smem:[#allocation0]] }
   0x1 LB: > { %s2 = sadd.s32 1, %s1 }
   0x2   :  {}
   0x3 LB: >> { %v3 = vld [vmem:[%s2]] }
   0x4   : > { %v4 = vadd.f32 %v3, %v3 }
   0x5 LB: >> { %v5 = vadd.f32 %v4, %v4 }
   0x6 LB: >>> { %6 = vmatmul.mubr.bf16.gmra.mxu0 %v5  ;;  %7 = vmatmul.mubr.bf16.gmra.mxu1 %v5
     %8 = vmatmul.lmr.bf16.gmra.mxu1 %v5 }
   0x8   : >> { %v8 = vmul.f32 %v5, %v5 }
   0x9   : >>> { %9 = vst [vmem:[#allocation7_spill]] %v5 }
   0xa   : > { %s10 = smov.u32 0 }
   0xb   :  { %s11 = smov.u32 0 }
"""
UTILIZATION = """== CAPACTIY:
MATMUL, MATPUSH, XLU, VALU, VPOP, EUP, VLOAD, VLOAD:FILL, VSTORE, VSTORE:SPILL, SALU
    4     4     3     4     2     1     3     3     1     1     2
== UTILIZATION:
0 0 0 0 0 0 0 0 0 0 1
0 0 0 0 0 0 0 0 0 0 1
0 0 0 0 0 0 0 0 0 0 0
0 0 0 0 0 0 1 0 0 0 0
0 0 0 1 0 0 0 0 0 0 0
0 0 0 1 0 0 0 0 0 0 0
3 0 0 0 0 0 0 0 0 0 0
0 0 0 0 0 0 0 0 0 0 0
0 0 0 1 0 0 0 0 0 0 0
0 0 0 0 0 0 0 0 1 1 0
0 0 0 0 0 0 0 0 0 0 1
0 0 0 0 0 0 0 0 0 0 1
"""


def test_bundles_belong_to_loops():
  loops, capacity = bundles.read(BUNDLES, UTILIZATION)
  assert [(loop.outer, loop.bundles, loop.products) for loop in loops] == [
    (-1, 2, 0), (0, 4, 0), (1, 1, 0), (1, 2, 0), (3, 3, 2.5),
  ]  # fmt: skip
  assert [loop.is_copy for loop in loops] == [True, False, True, False, False]
  assert (capacity['MATMUL'], capacity['VSTORE']) == (4, 1)


def test_time_is_bundles_by_trips_or_what_products_need():
  loops, capacity = bundles.read(BUNDLES, UTILIZATION)
  found = bundles.time(loops, capacity, steps=10, trips=(1.5, 4))
  # The chunks' products take 2.5 x 16 / 4 cycles, and their bundles 3.
  assert found.cycles == 2 + 10 * (4 + 1 + 1.5 * (2 + 4 * 10))
  assert (found.limit, found.spills) == ('MATMUL', 1)
  assert found.busy == pytest.approx(10 * 1.5 * 4 * 10 / found.cycles)


@pytest.mark.parametrize('trips', [(4.0,), (1.5, 4, 0)])
def test_a_kernel_that_states_other_loops_is_refused(trips):
  loops, capacity = bundles.read(BUNDLES, UTILIZATION)
  with pytest.raises(ValueError, match='the schedule has 2 loops'):
    bundles.time(loops, capacity, 10, trips)


def test_a_text_of_another_form_is_refused():
  with pytest.raises(ValueError, match='no utilization'):
    bundles.read(BUNDLES, 'nothing')


def traced(function, *shapes, dtype=jnp.bfloat16):
  arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
  return schedules.of_program(jax.make_jaxpr(function)(*arguments).jaxpr)


def attend(*arrays):
  """Forward and backward, twice."""
  twice = jax.checkpoint(
    lambda q, k, v: sum(kernels.pallas('pixels', q, k, v, head_dim=64) for _ in range(2))
  )
  q, k, v, dy = arrays
  return jax.lax.scan(lambda _, x: (None, jax.vjp(twice, x, k, v)[1](dy)), None, q[None])[1]


def test_the_kernels_of_a_program_are_found_wherever_it_calls_them():
  found = traced(attend, *[(1, 2, 2000, 320)] * 4)
  assert {kernel.name for kernel in found} == {'attention_forward', 'attention_backward'}
  forward = next(kernel for kernel in found if kernel.name == 'attention_forward')
  assert len(found) == 2
  assert forward.shapes == ('bf16[2,2000,320]',) * 3
  assert forward.grid == (2, 3, 2)
  # Values are turned at the first of two blocks; five heads lie in three tiles; none is done again.
  assert forward.trips == pytest.approx((1, 5 / 3, 2, 0), rel=1e-5)
  assert (forward.steps(cores=1), forward.steps(cores=2)) == (12, 6)


def test_cores_share_parallel_dims_together():
  found = traced(attend, *[(1, 5, 2000, 320)] * 4)
  assert [kernel.steps(cores=2) for kernel in found] == [8 * 2] * 2  # Fifteen of them.


def test_kernels_without_a_statement_have_no_trips():
  def double(x_ref, y_ref):
    y_ref[...] = 2 * x_ref[...]

  call = pl.pallas_call(double, out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32))
  (found,) = traced(call, (8, 128), dtype=jnp.float32)
  assert (found.shapes, found.trips, found.steps(cores=2)) == (('f32[8,128]',), None, 1)


def test_a_plan_takes_schedules_where_there_are_any_and_else_says_that_it_assumes():
  device = chips.DEVICES['v5p']
  constraints = 'operand_layout_constraints={bf16[4,16]{1,0}, f32[8]{0}}, frontend_attributes={}'
  cost = '"cost_estimate":{"flops":"4590000","transcendentals":"7","bytes_accessed":"8"}'
  ops = [
    hlo.parse(
      f'HloModule m\n\nENTRY %main (p: bf16[8]) -> bf16[8] {{\n  ROOT %k.1 = bf16[8]{{0}} '
      f'custom-call(%p), custom_call_target="tpu_custom_call", {constraints}, '
      f'metadata={{op_name="jit(step)/{name}/pallas_call"}}, backend_config={{{cost}}}\n}}\n'
    )[0]['main'][0]
    for name in ('known', 'unknown')
  ]
  known = schedules.Kernel(
    'known', ('bf16[4,16]', 'f32[8]'), None, (), 4_590_000, 8, (1,), (False,), ()
  )
  time = bundles.Time(device.clock, 'VALU', 0.5, 0.25)  # One second.
  first, second = compiled.by_kernel([(ops[0], 3), (ops[1], 1)], device, {known: time})
  assert (first['name'], first['number'], first['ms'], first['limit']) == ('known', 3, 1000, 'VALU')
  assert (second['name'], second['limit']) == ('unknown', 'assumed rate')
  assert second['ms'] == pytest.approx(4.59e6 / (device.peak * device.kernel_rate) * 1e3)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('over', 'queries', 'keys'),
  [
    ('pixels', (1, 2, 1792, 320), (1, 2, 1792, 320)),
    ('pixels', (1, 2, 448, 640), (1, 2, 448, 640)),
    ('context', (1, 4, 448, 320), (1, 145, 320)),
    ('frames', (1, 16, 448, 320), (1, 16, 448, 320)),
  ],
)
def test_kernels_state_the_loops_that_their_schedules_have(over, queries, keys):
  pytest.importorskip('libtpu')
  where = topology.parse('v5p-8')
  devices, device = chips.described(where), chips.device(where)
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), devices[:1])

  def both(q, k, v, dy):
    return jax.vjp(lambda *x: kernels.pallas(over, *x, head_dim=64), q, k, v)[1](dy)

  found = traced(mesh_lib.within(mesh, both), queries, keys, keys, queries)
  times = schedules.times(found, where, devices, device)
  assert len(times) == len(found) == 2
  for time in times.values():
    assert time.cycles > 0 and 0 < time.busy <= 1
