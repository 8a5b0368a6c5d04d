"""A plan whose memory, time and price follow from the compiled step of one of its buckets."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from i2vgen_jax.plan import estimate

STATE = ('parameters', 'optimizer', 'average (EMA)', 'frozen encoders')


def by_compiled(
  plan: estimate.Plan,
  report: Mapping[str, Any],
  bucket: str,
  samples: float,
  sizes: Mapping[str, int],
  config: ml_collections.ConfigDict,
) -> estimate.Plan:
  """The plan, with all buckets at the rate of the compiled one, and hints that follow from it.

  Args:
    plan: of estimate.make.
    report: of compiled.report.
    bucket: name of the compiled one.
    samples: videos of it that a device works on at a time.
    sizes: size of each mesh axis.
    config: of the run.
  """
  row = next(row for row in plan.buckets if row['name'] == bucket)
  parts = ('step_tflops', 'again_tflops', 'encode_tflops')
  mean = sum(row['share'] * row[part] for row in plan.buckets for part in parts)
  estimated = plan.secs_per_step * sum(row[part] for part in parts) / mean
  secs = report['estimated_secs']['step']
  slower = secs / estimated
  held = {name: value for name, value in plan.bytes.items() if name in STATE}
  rest = max(0, int(report['memory_gib']['peak'] * estimate.GIB) - sum(held.values()))
  plan = dataclasses.replace(
    plan,
    bytes=held | {f'all else, {samples:g} x {bucket} (compiled)': rest},
    samples_per_device=samples,
    bytes_per_sample=rest / samples,
    secs_per_step=plan.secs_per_step * slower,
    samples_per_sec=plan.samples_per_sec / slower,
    hours=plan.hours * slower,
    chip_hours=plan.chip_hours * slower,
    price=None if plan.price is None else plan.price * slower,
    loader_vcpus=plan.loader_vcpus / slower,
    basis=f'compiled: {bucket} takes {secs:.3f} s, {report["estimated_mfu"]:.1%} of the peak',
    hints=[],
  )
  plan.hints.extend(estimate.hints(plan, sizes, config))
  return plan
