"""Implementations of one step, timed in turn: each a process of its own that waits for its turn, so
that whatever else the machine does meets all of them."""

import json
import os
import subprocess
import sys
import time


def work(run):
  """Runs a step and answers with its seconds for every line on stdin."""
  start = time.perf_counter()
  run()
  run()
  print(f'ready {time.perf_counter() - start}', flush=True)
  for _ in sys.stdin:
    start, cpu = time.perf_counter(), time.process_time()
    run()
    print(time.perf_counter() - start, time.process_time() - cpu, flush=True)


def alone(run, num_flops, peak_bytes, steps, **details):
  """Prints a line of JSON: seconds of the first two steps, and of the median of the rest.

  Args:
    run: a step.
    num_flops: of a step; None if another side counts them.
    peak_bytes: () -> bytes of the device that were in use at once.
    steps: to take after the first two.
    details: of the step, printed as they are.
  """
  start = time.perf_counter()
  run()
  run()
  first_secs, secs = time.perf_counter() - start, []
  for _ in range(steps):
    start = time.perf_counter()
    run()
    secs.append(time.perf_counter() - start)
  found = dict(first_secs=first_secs, secs=sorted(secs)[steps // 2], peak_gib=peak_bytes() / 2**30)
  print(json.dumps(details | found | dict(flops=num_flops)), flush=True)


def compare(command, sides, rounds, **environment):
  """Prints median steps/s of every side and the first one's ratio to it.

  Args:
    command: arguments of python; `--side=NAME` is added.
    sides: names; what does not run here is left out.
    rounds: steps of each.
    environment: variables, beside two threads for all.
  """
  environment = dict(os.environ, OMP_NUM_THREADS='2', JAX_PLATFORMS='cpu', **environment)
  workers = {
    side: subprocess.Popen(
      [sys.executable, *command, f'--side={side}'],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=environment,
      text=True,
    )
    for side in sides
  }
  for side, worker in list(workers.items()):
    ready = worker.stdout.readline().split()
    if not ready:
      print(f'{side}: does not run here (exit code {worker.wait()})')
      del workers[side]
    else:
      print(f'{side}: first two steps, compilation included, {float(ready[1]):.1f} s')
  if sides[0] not in workers:
    sys.exit(f'{sides[0]}, to which all are compared, does not run here (is there memory for it?).')
  seconds = {side: [] for side in workers}
  for _ in range(rounds):
    for side, worker in workers.items():
      worker.stdin.write('\n')
      worker.stdin.flush()
      seconds[side].append(tuple(map(float, worker.stdout.readline().split())))
  for worker in workers.values():
    worker.stdin.close()
  median = {
    side: [sorted(column)[len(column) // 2] for column in zip(*rows, strict=True)]
    for side, rows in seconds.items()
  }
  print(f'{"":14s} {"steps/s":>8s} {"wall s":>8s} {"CPU s":>8s} {"ours is faster":>15s}')
  for side, (wall, cpu) in median.items():
    ratio = wall / median[sides[0]][0]
    print(f'{side:14s} {1 / wall:8.2f} {wall:8.3f} {cpu:8.3f} {ratio:14.2f}x')
