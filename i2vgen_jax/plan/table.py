"""A plan as a table to read."""

from collections.abc import Mapping
from typing import Any

from i2vgen_jax.plan import estimate


def lines(plan: estimate.Plan, topology: str) -> str:
  """The plan as lines to read.

  Args:
    plan: the plan to show.
    topology: its name.
  """
  total = sum(plan.bytes.values())
  gib = lambda number: f'{number / estimate.GIB:9.2f} GiB'  # noqa: E731
  shown = [f'{plan.num_parameters / 1e6:,.1f} M parameters on {topology}; per device:']
  shown += [f'  {kind:48s}{gib(value)}' for kind, value in plan.bytes.items()]
  shown += [f'  {"in all, of what a device has":48s}{gib(total)} of {gib(plan.capacity).strip()}']
  shown += [
    '',
    f'{"bucket":20s}{"batch":>8s}{"share":>8s}{"TFLOP a step":>14s}{"done again":>14s}'
    f'{"of encoders":>14s}',
  ]
  shown += [
    f'{row["name"]:20s}{row["batch_size"]:8d}{row["share"]:8.1%}{row["step_tflops"]:14,.0f}'
    f'{row["again_tflops"]:14,.0f}{row["encode_tflops"]:14,.0f}'
    for row in plan.buckets
  ]
  shown += [
    '',
    f'programs             {plan.programs:9d} at most: train steps to compile, by shape of batch',
    f'checkpoint           {gib(plan.checkpoint_bytes)}, {plan.checkpoints_kept} kept',
    f'step                 {plan.secs_per_step:9.3f} s, {plan.basis}',
    f'samples              {plan.samples_per_sec:9.0f} per second, likewise',
    f'the whole run        {plan.hours:9,.1f} hours, {plan.chip_hours:,.0f} chip-hours, likewise',
    *(
      [f'price                {plan.price:9,.0f}, likewise; without restarts, validation, storage']
      if plan.price is not None
      else []
    ),
    f'loader               {plan.loader_vcpus:9.1f} vCPUs of {plan.host_vcpus} of each host, '
    'likewise',
    '',
    *(f'- {hint}' for hint in plan.hints),
  ]
  return '\n'.join(shown)


def modules(report: Mapping[str, Any]) -> str:
  """Lines on what the modules of a compiled step take, those farthest above their floor first.

  Args:
    report: of compiled.report; one of an older plan has no modules, and gives no lines.
  """
  rows = report.get('modules', [])
  if not rows:
    return ''
  shown = [f'{"module":32s}{"ms":>9s}{"floor":>9s}{"products":>10s}{"memory":>9s}{"waiting":>9s}']
  shown += [
    f'{row["module"]:32s}{row["ms"]:9.2f}{row["floor_ms"]:9.2f}{row["flops_ms"]:10.2f}'
    f'{row["bytes_ms"]:9.2f}{row["exchanges_ms"]:9.2f}'
    for row in rows
  ]
  total = [sum(row[name] for row in rows) for name in ('ms', 'floor_ms')]
  return '\n'.join([*shown, f'{"in all":32s}{total[0]:9.2f}{total[1]:9.2f}'])
