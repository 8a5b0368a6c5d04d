"""What a compiled program sends, to whom, and what of it the schedule hides."""

import pytest

from i2vgen_jax.plan import exchanges, hlo
from tests.i2vgen_jax.plan import test_plan

MESH = {'data': 2, 'fsdp': 4}
SEND = """HloModule m

ENTRY %main (p: bf16[10,8,128]) -> bf16[10,8,128] {
  %p = bf16[10,8,128]{2,1,0} parameter(0)
  %send.1 = (bf16[10,8,128]{2,1,0}, u32[], token[]) send(%p, %token.1), channel_id=8, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.3_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.1 = (bf16[10,8,128]{2,1,0}, u32[], token[]) recv(%token.1), channel_id=9, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  WORK
  %send-done.1 = token[] send-done(%send.1), channel_id=8
  ROOT %recv-done.1 = (bf16[10,8,128]{2,1,0}, token[]) recv-done(%recv.1), channel_id=9
}
"""  # noqa: E501


def work(op):
  return float(op.cycles)


def test_collectives_are_told_by_kind_axis_and_bytes():
  found = exchanges.collectives(test_plan.program(), MESH)
  assert {(each.kind, each.axes, each.bytes) for each in found} == {
    ('all-gather', ('fsdp',), 320 * 320 * 2),
    ('all-reduce', ('data',), 320 * 320 * 2),
    ('reduce-scatter', ('fsdp',), 320 * 320 * 2),
    ('all-to-all', ('fsdp',), 80 * 320 * 2),
  }
  groups = {each.kind: each.groups for each in found}
  assert groups['all-gather'] == groups['reduce-scatter'] == ((0, 1, 2, 3), (4, 5, 6, 7))
  assert groups['all-reduce'] == ((0, 4), (1, 5), (2, 6), (3, 7))
  assert exchanges.all_to_alls(found) == {'jit(step)/stack': 80 * 320 * 2 / 2**20}


def test_only_what_has_work_between_start_and_end_is_hidden_and_no_longer_than_it():
  program = test_plan.program()
  found = exchanges.collectives(program, MESH)
  for gather, left in ((1500.0, 500.0), (600.0, 0.0)):
    secs = [gather if each.kind == 'all-gather' else 10.0 for each in found]
    waits = exchanges.exposed(program, found, secs, work)
    by_kind = {each.kind: wait for each, wait in zip(found, waits, strict=True)}
    # 1,000 cycles lie beside the gather; the others have no start.
    assert by_kind.pop('all-gather') == left
    assert set(by_kind.values()) == {10.0}


def starts(*groups):
  """A program of gathers that run beside each other and one op of 100 seconds."""
  lines = [
    f'  %start.{i} = (bf16[2]{{0}}, bf16[8]{{0}}) all-gather-start(%p), replica_groups={group}'
    for i, group in enumerate(groups)
  ]
  lines.append(
    '  %work = bf16[8]{0} fusion(%p), kind=kLoop, '
    'backend_config={"window_config":{"estimated_cycles":"100"}}'
  )
  lines += [f'  %done.{i} = bf16[8]{{0}} all-gather-done(%start.{i})' for i in range(len(groups))]
  text = '\n'.join(lines)
  return hlo.parse(f'HloModule m\n\nENTRY %main (p: bf16[2]) -> bf16[8] {{\n{text}\n}}\n')


def test_work_hides_one_collective_of_an_axis_at_a_time():
  over_fsdp, over_data = '{{0,1,2,3},{4,5,6,7}}', '{{0,4},{1,5},{2,6},{3,7}}'
  program = starts(over_fsdp, over_fsdp, over_data)
  found = exchanges.collectives(program, MESH)
  assert [each.axes for each in found] == [('fsdp',), ('fsdp',), ('data',)]
  assert exchanges.exposed(program, found, [70.0, 70.0, 70.0], work) == [0, 40, 0]


def test_work_after_a_collective_without_a_start_hides_none_of_it():
  program = hlo.parse("""HloModule m

ENTRY %main (p: bf16[8]) -> bf16[8] {
  %p = bf16[8]{0} parameter(0)
  %sum = bf16[8]{0} all-reduce(%p), replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %work = bf16[8]{0} fusion(%p), backend_config={"window_config":{"estimated_cycles":"100"}}
}
""")
  found = exchanges.collectives(program, MESH)
  assert exchanges.exposed(program, found, [70.0], work) == [70.0]


def test_a_collective_of_an_asynchronous_computation_counts_once():
  program = hlo.parse("""HloModule m

%wrapped (p: bf16[8]) -> bf16[8] {
  %p.1 = bf16[8]{0} parameter(0)
  ROOT %a2a = bf16[8]{0} all-to-all(%p.1), replica_groups={{0,1,2,3},{4,5,6,7}}
}

ENTRY %main (p: bf16[8]) -> bf16[8] {
  %p = bf16[8]{0} parameter(0)
  %start = ((bf16[8]{0}), bf16[8]{0}, u32[]) async-start(%p), calls=%wrapped
  %work = bf16[8]{0} fusion(%p), backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %done = bf16[8]{0} async-done(%start)
}
""")
  found = exchanges.collectives(program, MESH)
  assert [(each.kind, each.axes, each.bytes) for each in found] == [('all-to-all', ('fsdp',), 16)]
  assert exchanges.exposed(program, found, [120.0], work) == [20.0]


def test_a_collective_that_is_fused_with_products_counts_once_and_hides_behind_them():
  """As on v5e: a start, products between which it proceeds, and an end, all of one channel."""
  gather = 'all-gather(%p), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}'
  fused = '\n'.join(
    f"""%async.{i} (p: bf16[80,320]) -> (bf16[4,1792,320], bf16[320,320]) {{
  %p.{i} = bf16[80,320]{{1,0}} parameter(0)
  %gather.{i} = bf16[320,320]{{1,0}} {gather.replace('%p', f'%p.{i}')}
  ROOT %tuple.{i} = (bf16[4,1792,320]{{2,1,0}}, bf16[320,320]{{1,0}}) tuple(%dot.{i}, %gather.{i})
}}
"""
    for i in range(3)
  )
  calls = '\n'.join(
    f'  %fusion.{i} = (bf16[4,1792,320]{{2,1,0}}, bf16[320,320]{{1,0}}) fusion(%p), '
    f'kind=kOutput, calls=%async.{i}, backend_config={{"estimated_cycles":"{cycles}"}}'
    for i, cycles in enumerate((5, 100, 10))
  )
  program = hlo.parse(
    f'HloModule m\n\n{fused}\nENTRY %main (p: bf16[80,320]) -> bf16[80,320] {{\n'
    f'  %p = bf16[80,320]{{1,0}} parameter(0)\n{calls}\n'
    '  ROOT %copy = bf16[80,320]{1,0} copy(%p), backend_config={"estimated_cycles":"50"}\n}\n'
  )
  found = exchanges.collectives(program, MESH)
  (each,) = found
  assert (each.kind, each.axes, each.bytes) == ('all-gather', ('fsdp',), 320 * 320 * 2)
  assert each.others == ('fusion.1', 'fusion.2')
  assert exchanges.exposed(program, found, [150.0], work) == [40.0]


@pytest.mark.parametrize(('between', 'expected'), [('', 30.0), ('%work', 10.0)])
def test_what_goes_between_slices_is_counted_once_and_over_dcn(between, expected):
  line = between and (
    f'{between} = bf16[8]{{0}} fusion(%p), backend_config={{"estimated_cycles":"20"}}'
  )
  program = hlo.parse(SEND.replace('  WORK\n', f'  {line}\n' if line else ''))
  found = exchanges.collectives(program, {'slice': 2} | MESH)
  (each,) = found
  assert (each.kind, each.axes, each.bytes) == ('all-reduce', ('slice',), 10 * 8 * 128 * 2)
  waits = exchanges.exposed(program, found, [30.0], work)
  assert waits == [expected]
  rows = exchanges.by_kind_and_axis(found, [30.0], waits)
  assert rows == {
    'all-reduce over slice (DCN)': dict(
      number=1, gib=each.bytes / 2**30, ms=30_000.0, exposed_ms=expected * 1e3
    )
  }


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('source_target_pairs={{0,1},{1,0},{2,2}}', ((0, 1), (1, 0))),
    ("replica_groups=mesh['a'=2,'b'=3] {'a'}", ((0, 3), (1, 4), (2, 5))),
    ('replica_groups=[3,2]<=[2,3]T(1,0)', ((0, 3), (1, 4), (2, 5))),
    ('replica_groups={{0,3},{1,4},{2,5}}, dimensions={0}', ((0, 3), (1, 4), (2, 5))),
    ('replica_groups={}, dimensions={0}', ((0, 1, 2, 3, 4, 5),)),
  ],
)
def test_all_groups_are_read_in_each_of_their_forms(text, expected):
  assert exchanges.device_groups(text, 6) == expected
