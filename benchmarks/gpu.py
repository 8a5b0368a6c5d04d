"""Our train step, denoising step and attention on one GPU, beside diffusers' and others.

  bash benchmarks/gpu.sh [--part=NAME] [--minutes=9] [--output=FOLDER] [--dry_run]

Each side is a process of its own, one after the other, with the GPU to itself. A train step takes
the most videos that fit: twice as many as long as the memory of the last batch says that they do.
gpu.json is written after each side, so that a run that is cut off leaves what it has.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

PARTS = ('train', 'denoise', 'attention')
MOST = 0.92  # Of the memory, at which a batch is taken to fit.
# What a code raises where it does not run.
UNSUPPORTED = (RuntimeError, ValueError, TypeError, NotImplementedError, ImportError)
# Batch, frames' pixels and heads of attention, forward and backward: levels of 448x256 and of
# 1280x720, head size 64.
ATTENTION = ((64, 112, 20), (64, 448, 10), (64, 1792, 5), (4, 14400, 5))


def run(command, minutes):
  """The last line that a process prints, of JSON; else dict(failed=why, in words)."""
  memory = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', 'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.95'}
  try:
    done = subprocess.run(
      [sys.executable, *command], env=os.environ | memory, capture_output=True, text=True,
      timeout=max(1, 60 * minutes), check=False,
    )  # fmt: skip
  except subprocess.TimeoutExpired:
    return dict(failed=f'took more than {minutes:.1f} minutes')
  if done.returncode == 0:
    return json.loads(done.stdout.splitlines()[-1])
  for what in ('torch', 'diffusers'):
    if f"No module named '{what}'" in done.stderr:
      return dict(failed=f'{what} is not installed')
  out = any(word in done.stderr for word in ('RESOURCE_EXHAUSTED', 'OutOfMemoryError'))
  last = (done.stderr.strip().splitlines() or ['nothing said'])[-1]
  return dict(failed='out of memory' if out else last[:300])


def train(left, capacity, dry):
  """Yields a row for each side: its fastest step of the batches that fit."""
  size, steps = ('tiny', 1) if dry else ('base', 8)
  for side, remat in (('jax', 'none'), ('torch' if dry else 'torch_compile', 'block')):
    best, batch, too_many = None, (2 if dry else 4), float('inf')
    while True:
      row = run(
        ('-m', 'benchmarks.train_step', f'--size={size}', f'--side={side}', f'--remat={remat}',
         f'--batch={batch}', f'--steps={steps}'),
        left() * (0.55 if side == 'jax' else 0.8),
      )  # fmt: skip
      row |= dict(part='train', side=side, remat=remat, batch=batch)
      if 'failed' not in row:
        if best is None or batch / row['secs'] > best['batch'] / best['secs']:
          best = row
        fits = 0 < 2 * row['peak_gib'] < MOST * capacity and 2 * batch < too_many
        if fits and left() * 60 > 3 * row['first_secs']:
          batch *= 2
          continue
      elif row['failed'] == 'out of memory' and batch > 1 and best is None:
        too_many, batch = batch, batch // 2
        continue
      break
    yield best or row


def denoise(left, dry):
  """Yields a row for each side."""
  small = ('--width=64', '--levels=1', '--size=4x4', '--frames=2')
  shape = small if dry else ('--size=32x56', '--frames=16')
  steps = 1 if dry else 20
  for side in ('jax', 'torch' if dry else 'torch_compile'):
    row = run(
      ('-m', 'benchmarks.denoise_step', *shape, f'--side={side}', f'--steps={steps}',
       '--dtype=float32' if dry else '--dtype=bfloat16'),
      left() * 0.5,
    )  # fmt: skip
    yield row | dict(part='denoise', side=side)


def attention(left, dry):
  """Yields a row for each shape and code."""
  command = ('-m', 'benchmarks.gpu', '--work') + ('--dry_run',) * dry
  found = run(command, left())
  for row in [found] if 'failed' in found else found['rows']:
    yield row | dict(part='attention')


def time_attention(dry):
  """Rows of attention over pixels, forward and backward, by each code that runs here."""
  import jax
  import jax.numpy as jnp

  from i2vgen_jax.models import kernels
  from i2vgen_jax.parallel import mesh as mesh_lib

  mesh = mesh_lib.make_mesh({'data': 1, 'fsdp': 1, 'tensor': 1}, jax.devices()[:1])
  platform, rows = jax.default_backend(), []
  for batch, pixels, heads in ((1, 64, 1),) if dry else ATTENTION:
    shape = (1, batch, pixels, heads * 64)
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, dy = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
    chosen = kernels.choose(platform, 'pixels', pixels, 64, jnp.bfloat16)
    codes = {
      'cudnn': lambda q, k, v: kernels.cudnn('pixels', q, k, v, head_dim=64),
      'xla': lambda q, k, v, heads=heads: kernels.plain('pixels', q, k, v, heads),
      'triton': triton,
    }
    for name, code in codes.items():
      both = jax.jit(
        mesh_lib.within(mesh, lambda q, k, v, dy, code=code: jax.vjp(code, q, k, v)[1](dy))
      )
      row = dict(code=name, batch=batch, pixels=pixels, heads=heads, chosen=name == chosen)
      try:
        jax.block_until_ready(both(q, k, v, dy))
        started, repeats = time.perf_counter(), 1 if dry else 20
        for _ in range(repeats):
          result = both(q, k, v, dy)
        jax.block_until_ready(result)
        row['secs'] = (time.perf_counter() - started) / repeats
        row['flops'] = 7 * 2 * batch * heads * pixels**2 * 64  # Two products, and five back.
      except UNSUPPORTED as error:
        row['failed'] = str(error).splitlines()[0][:200] if str(error) else repr(error)
      rows.append(row)
  return rows


def triton(q, k, v):
  """JAX's own Pallas kernel for GPUs."""
  from jax.experimental.pallas.ops.gpu import attention as gpu_attention

  folded = (x.reshape(-1, x.shape[2], x.shape[3] // 64, 64) for x in (q, k, v))
  return gpu_attention.mha(*folded, None, sm_scale=64**-0.5).reshape(q.shape)


def machine():
  """What all of it ran on."""
  text = (
    'import jax, json; d = jax.devices()[0]; m = d.memory_stats() or {}; '
    'print(json.dumps(dict(device=d.device_kind, jax=jax.__version__, '
    'gib=m.get("bytes_limit", 0) / 2**30)))'
  )
  return run(('-c', text), 3)


def table(rows, peak):
  """Lines to read.

  Args:
    rows: of all parts.
    peak: FLOP/s of the device in bfloat16, or None.
  """
  flops = {
    row['batch']: row['flops'] for row in rows if row['part'] == 'train' and row.get('flops')
  }
  per_video = [value / batch for batch, value in flops.items()]
  head = ('part', 'side', 'batch', 'ms', 'MFU', 'peak GiB', 'first two steps s')
  lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
  for row in rows:
    name = row.get('side') or row.get('code', '')
    if 'pixels' in row:
      name += f' {row["pixels"]} pixels' + ' (chosen)' * row['chosen']
    if 'failed' in row:
      lines.append(f'| {row["part"]} | {name} | not run: {row["failed"]} ||||| ')
      continue
    work = row.get('flops')
    if row['part'] == 'train' and per_video:
      work = per_video[0] * row['batch']
    mfu = f'{work / row["secs"] / peak:.1%}' if work and peak else ''
    cells = (row['part'], name, row.get('batch', ''), f'{1e3 * row["secs"]:.2f}', mfu)
    memory = f'{row["peak_gib"]:.1f}' if row.get('peak_gib') else ''
    first = f'{row["first_secs"]:.0f}' if 'first_secs' in row else ''
    lines.append('| ' + ' | '.join(map(str, (*cells, memory, first))) + ' |')
  return '\n'.join(lines)


def main():
  """Entry point."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--part', choices=PARTS, action='append', help='default all')
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument('--output', default='.', help='folder of gpu.json')
  parser.add_argument('--dry_run', action='store_true', help='tiny sizes, on any device')
  parser.add_argument('--work', action='store_true', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.work:
    print(json.dumps(dict(rows=time_attention(options.dry_run))))
    return
  from i2vgen_jax.parallel import flops

  stop = time.monotonic() + 60 * options.minutes
  left = lambda: (stop - time.monotonic()) / 60  # noqa: E731
  found = machine()
  if 'failed' in found:
    sys.exit(f'JAX sees no device here: {found["failed"]}')
  if not options.dry_run and not found['gib']:
    sys.exit(f'{found["device"]} is no GPU: --dry_run runs tiny sizes on any device.')
  parts = dict(
    train=lambda: train(left, found['gib'], options.dry_run),
    denoise=lambda: denoise(left, options.dry_run),
    attention=lambda: attention(left, options.dry_run),
  )
  rows, path = [], pathlib.Path(options.output) / 'gpu.json'
  for name in options.part or reversed(PARTS):  # The short ones first.
    for row in parts[name]():
      rows.append(row)
      path.write_text(json.dumps(dict(found, rows=rows), indent=1) + '\n', encoding='utf-8')
  print(table(rows, flops.peak(found['device'])))


if __name__ == '__main__':
  main()
