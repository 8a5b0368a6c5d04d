"""What each module of the model takes in a compiled program, beside what its work needs at least.

An op belongs to the module that it was made for, by the path in its metadata, as down_0/attention/
pixels. A module's floor is the larger of two times: its products at the peak, and the bytes that
its ops, fused as they are, read and write in the device's memory, at the memory's rate.
"""

import collections
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from i2vgen_jax.plan import chips, hlo

# Patterns of a path and the part that they name, the first that fits.
_PARTS = (
  (r'(temp_attentions_\d|TemporalTransformer).*/attn\d', 'frames/attention'),
  (r'(temp_attentions_\d|TemporalTransformer).*/ff', 'frames/feed_forward'),
  (r'temp_attentions_\d|TemporalTransformer', 'frames/rest'),
  (r'(attentions_\d|SpatialTransformer).*/attn1', 'attention/pixels'),
  (r'(attentions_\d|SpatialTransformer).*/attn2', 'attention/context'),
  (r'(attentions_\d|SpatialTransformer).*/ff', 'attention/feed_forward'),
  (r'attentions_\d|SpatialTransformer', 'attention/rest'),
  (r'temp_conv', 'resnet/frames'),
  (r'resnets_\d|ResBlock', 'resnet/pixels'),
  (r'(up|down)samplers_\d', 'resampling'),
  (r'/attn\d', 'attention'),
  (r'/ff', 'feed_forward'),
)
_ENCODERS = r'AutoencoderKL|CLIPText|CLIPVision|T5Encoder'
_BLOCK = r'(down|up)_blocks_(\d)|mid_block|transformer_in|_embed\b|conv_in|conv_norm_out|conv_out'
# Ops that move nothing by themselves.
_NAMES = (
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'call', 'conditional',
  'after-all', 'opt-barrier', 'partition-id',
)  # fmt: skip


def module_of(path: str) -> str:
  """Name of the module that an op was made for, as its layers of one level share it.

  Args:
    path: of the op; '' if XLA made it for none.
  """
  if encoder := re.search(_ENCODERS, path):
    return f'encoders/{encoder[0]}'
  block = re.search(_BLOCK, path)
  name = ''
  if block:
    name = f'{block[1]}_{block[2]}' if block[1] else block[0].removesuffix('_block').strip('_')
  part = next((part for pattern, part in _PARTS if re.search(pattern, path)), '')
  if name or part:
    return '/'.join(filter(None, (name, part)))
  return 'UNet3D' if 'UNet3D' in path else 'loss and update' if path else 'of no module'


def rows(
  program: hlo.Program,
  device: chips.Device,
  secs: Callable[[hlo.Op], float],
  kernel_cost: Callable[[hlo.Op], tuple[int, ...] | None],
  waits: Mapping[str, float],
) -> list[dict[str, Any]]:
  """What each module takes: the most above its floor first.

  Args:
    program: compiled.
    device: that runs it.
    secs: of an op, alone.
    kernel_cost: (FLOPs, bytes) of a Pallas kernel, None of another op.
    waits: seconds for which a collective holds up all else, each time, by its op.
  """
  computations, _ = program
  types = {op.name: op.type for ops in computations.values() for op in ops}
  sums: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(4))
  for op, times in hlo.executed(program):
    cost = kernel_cost(op)
    num_flops, num_bytes = cost or (flops(op, computations, types), moved_bytes(op, types))
    wait = waits.get(op.name, 0.0)
    sums[module_of(op.path)] += times * np.array([secs(op) + wait, wait, num_flops, num_bytes])
  found = []
  for name, (total, wait, num_flops, num_bytes) in sums.items():
    by_flops, by_bytes = num_flops / device.peak, num_bytes / device.hbm_bytes_per_sec
    found.append(
      dict(
        module=name,
        ms=total * 1e3,
        floor_ms=max(by_flops, by_bytes) * 1e3,
        flops_ms=by_flops * 1e3,
        bytes_ms=by_bytes * 1e3,
        exchanges_ms=wait * 1e3,
      )
    )
  return sorted((row for row in found if row['ms']), key=lambda row: row['floor_ms'] - row['ms'])


def flops(op: hlo.Op, computations: Mapping[str, list[hlo.Op]], types: Mapping[str, str]) -> float:
  """FLOPs of the matrix products and convolutions of an op and of what is fused in it.

  Args:
    op: of a program.
    computations: of the program.
    types: of all its ops, by name.
  """
  if op.kind == 'fusion':
    fused = [inner for callee in op.callees for inner in computations.get(callee, ())]
    return sum(flops(inner, computations, types) for inner in fused)
  if op.kind not in ('dot', 'convolution'):
    return 0.0
  left, right = (hlo.dims(types[name]) for name in op.operands[:2])
  out = hlo.dims(op.type)
  if op.kind == 'dot':
    contracted: Any = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', op.text)
    return 2.0 * math.prod(out) * math.prod(left[int(d)] for d in contracted[1].split(',') if d)
  labels: Any = re.search(r'dim_labels=([\w?]+?)_([\w?]+?)->([\w?]+)', op.text)
  found = re.search(r'window=\{(.*?)\}', op.text)
  window = dict(part.split('=') for part in found[1].split()) if found else {}
  spatial = sorted(label for label in labels[3] if label.isdigit())
  places = (_places(left[labels[1].index(d)], right[labels[2].index(d)], out[labels[3].index(d)],
                    window, i) for i, d in enumerate(spatial))  # fmt: skip
  channels = right[labels[2].index('i')]
  return 2.0 * math.prod(places) * out[labels[3].index('b')] * out[labels[3].index('f')] * channels


def _places(size: int, kernel: int, out: int, window: Mapping[str, str], dim: int) -> int:
  """How many products one dim of a convolution needs: zeros between and around do not count."""
  value = lambda name: int(window[name].split('x')[dim]) if name in window else 1  # noqa: E731
  before = int(window['pad'].split('x')[dim].split('_')[0]) if 'pad' in window else 0
  spread = value('lhs_dilate')
  at = np.arange(out)[:, None] * value('stride') + np.arange(kernel) * value('rhs_dilate') - before
  return int(((at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0)).sum())


def moved_bytes(op: hlo.Op, types: Mapping[str, str]) -> int:
  """Bytes of an op's operands and results in the device's memory: not those in its vector memory.

  Args:
    op: of a program.
    types: of all its ops, by name.
  """
  if op.kind in _NAMES or (op.kind.endswith(('-start', '-done')) and op.kind != 'copy-start'):
    return 0
  result = hlo.array_types(op.type)
  texts = [*(result[:1] if op.kind == 'copy-start' else result)]  # Its type names the source too.
  texts += [types.get(name, '') for name in op.operands]
  arrays = [array for text in texts for array in hlo.array_types(text) if 'S(' not in array]
  return sum(map(hlo.type_bytes, arrays))
