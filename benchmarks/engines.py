"""What an engine of data_pipelines' jobs takes for shards that hold nothing: seconds and CPU time.

  python -m benchmarks.engines [--num_shards=200] [--num_processes=2] [--engine=local|ray|beam]

Once with few shards, for the start, and once with all. CPU time is of this process and of all that
it started, looked at ten times a second; memory is the peak of this process alone.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time

from etils import epath

from data_pipelines.corpus import jobs
from data_pipelines.engines import choice

FEW = 4


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_shards', type=int, default=200)
  parser.add_argument('--num_processes', type=int, default=2)
  parser.add_argument('--engine', choices=choice.ENGINES)
  given = parser.parse_args()
  for engine in [given.engine] if given.engine else choice.ENGINES:
    (few_secs, few_cpu, _), (secs, cpu, memory) = (
      in_a_process(engine, number, given.num_processes) for number in (FEW, given.num_shards)
    )
    each = given.num_shards - FEW
    print(
      f'{engine}: {FEW} shards {few_secs:.1f} s and {few_cpu:.1f} CPU s; {given.num_shards} shards '
      f'{secs:.1f} s and {cpu:.1f} CPU s, {1e3 * (secs - few_secs) / each:.0f} ms and '
      f'{1e3 * (cpu - few_cpu) / each:.0f} CPU ms for each more; '
      f'{memory / 1e6:.0f} MB',
      flush=True,
    )


def in_a_process(engine, num_shards, num_processes):
  """(seconds, CPU seconds) of a job."""
  code = (
    f'from benchmarks import engines; engines.measure({engine!r}, {num_shards}, {num_processes})'
  )
  done = subprocess.run([sys.executable, '-c', code], check=True, stdout=subprocess.PIPE, text=True)
  return json.loads(done.stdout.splitlines()[-1])


def measure(engine, num_shards, num_processes):
  with tempfile.TemporaryDirectory() as folder:
    parts, spent, ended = epath.Path(folder) / 'parts', {}, threading.Event()

    def watch():
      while not ended.wait(0.1):
        spent.update(cpu_secs_below(os.getpid()))

    thread = threading.Thread(target=watch)
    began, own = time.monotonic(), time.process_time()
    with jobs.claimed(parts, ''):
      thread.start()
      jobs.run(nothing, range(num_shards), parts, num_processes, choice.engine_of(engine))
    ended.set()
    thread.join()
  cpu_secs = time.process_time() - own + sum(spent.values())
  memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  print(json.dumps([time.monotonic() - began, cpu_secs, memory]))


def nothing(item, folder):
  return {}


def cpu_secs_below(leader):
  """{process id: its CPU seconds} of all that a process has started, and those have."""
  parents, secs = {}, {}
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      fields = path.read_text().rpartition(')')[2].split()
    except OSError:
      continue
    parents[int(path.parent.name)] = int(fields[1])
    secs[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
  found = {leader}
  while more := {pid for pid, parent in parents.items() if parent in found} - found:
    found |= more
  return {pid: secs[pid] for pid in found - {leader}}


if __name__ == '__main__':
  main()
