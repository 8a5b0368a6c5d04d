"""The workdir as each host sees it, and the stream of batches: rates."""

import os
import time
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from data_pipelines.corpus import retries
from data_pipelines.corpus import storage as storage_lib
from data_pipelines.stream import stream as stream_lib
from i2vgen_jax.plan import estimate
from i2vgen_jax.preflight import report

MIB = 64  # Each host writes and reads.


def workdir(folder: epath.Path, mib: int = MIB) -> Iterator[report.Line]:
  """Every host writes a file of its own, reads it and that of its neighbour, and removes it.

  Args:
    folder: below the workdir.
    mib: size of a file.
  """
  me, hosts = jax.process_index(), jax.process_count()
  content = np.random.default_rng(me).bytes(mib * 2**20)
  own = folder / f'host-{me:05d}.bin'
  started = time.monotonic()
  storage_lib.write_bytes(own, content)
  wrote = time.monotonic() - started
  report.of_all_hosts(0)  # All have written.
  started = time.monotonic()
  back = retries.call(own.read_bytes)
  read = time.monotonic() - started
  other = (me + 1) % hosts
  theirs = retries.call((folder / f'host-{other:05d}.bin').read_bytes)
  same = back == content and theirs == np.random.default_rng(other).bytes(mib * 2**20)
  all_same = report.of_all_hosts(same)
  own.unlink()
  wrong = [str(host) for host, ok in enumerate(all_same.ravel()) if not ok]
  text = 'each host reads what it and its neighbour wrote'
  if wrong:
    text = f'hosts {", ".join(wrong)} read other bytes than were written: is it one storage?'
  yield report.Line('workdir', not wrong, text)
  for name, secs in (('workdir, writing', wrote), ('workdir, reading', read)):
    rates = report.of_all_hosts(mib * 2**20 / max(secs, 1e-9))
    yield report.against(name, rates, None, 0.0, 'GB/s')


def loader(stream: stream_lib.TrainStream, plan: estimate.Plan | None, secs: float) -> report.Line:
  """Examples per second of every host's own stream, against what the plan trains on.

  Args:
    stream: of the run, this host's.
    plan: of the run; None compares with nothing.
    secs: to measure for.
  """
  batches = stream.iterate(0)
  try:
    next(batches)  # Until its processes run.
    started, examples = time.monotonic(), 0
    while time.monotonic() - started < secs:
      _, batch = next(batches)
      examples += len(batch['position'])
    rate = examples / (time.monotonic() - started)
  finally:
    batches.close()
  hosts = jax.process_count()
  wanted = plan.samples_per_sec / hosts if plan else None
  line = report.against('loader', report.of_all_hosts(rate), wanted, 1.0, 'examples/s')
  if line.ok is False:
    advice = f' It has {os.cpu_count()} CPUs; data.cache or more data.num_threads help.'
    line = report.Line('loader', False, line.text + advice, line.figure, line.wanted)
  return line
