"""Three Ray nodes on this machine's loopback, of which one is killed in each stage of a corpus.

  unshare -n python -m tests.ray_cluster FOLDER NUM_CLIPS

Without a network namespace of its own Ray would listen on every interface. Prints one line of JSON.
"""

import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from tests import shard_works, tiny_clip

NUM_DISTINCT = 24
HEAD = '127.0.0.2'


def main():
  folder, num_clips = pathlib.Path(sys.argv[1]), int(sys.argv[2])
  subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
  os.environ |= dict(
    HOME=str(folder), RAY_AUTH_MODE='token', RAY_AUTH_TOKEN='of-this-test-' + os.urandom(16).hex(),
    RAY_TMPDIR=tempfile.mkdtemp(prefix='r-'),  # Names of sockets have to be short.
    RAY_worker_niceness='0', JAX_PLATFORMS='cpu',
  )  # fmt: skip
  write_clips(folder / 'in', num_clips)
  (folder / 'clip').mkdir()
  tiny_clip.write(folder / 'clip')
  found = dict(num_clips=num_clips)
  for engine in ('local', 'ray'):
    began = time.monotonic()
    if engine == 'ray':
      with Cluster() as cluster:
        for name, command, parts in stages(folder, engine, cluster.address):
          found[name] = cluster.kill_while(command, folder / engine / parts)
    else:
      for _, command, _ in stages(folder, engine):
        run(command)
    found[f'{engine}_secs'] = round(time.monotonic() - began, 1)
  print(json.dumps(found), flush=True)


def stages(folder, engine, address=''):
  """(name, command, folder of its parts) of all."""
  flags = [f'--engine={engine}'] + ([f'--ray_address={address}'] if address else [])
  corpus = folder / engine
  ingest = ['data_pipelines', 'ingest', f'--input={folder / "in"}', f'--output={corpus}']
  curate = [
    'data_pipelines',
    'curate',
    f'--corpus={corpus}',
    '--min_short_side=16',
    '--min_duration=0.5',
  ]
  score = ['i2vgen_jax.score', f'--corpus={corpus}', f'--clip={folder / "clip"}']
  score += ['--batch_size=16', '--num_threads=1']
  return [
    ('ingest', [*ingest, *flags], '_parts'),
    ('curate', [*curate, *flags], '_measured'),
    ('score', [*score, *flags, *(['--ray_actors=2'] if address else [])], '_scored'),
  ]


def write_clips(folder, count):
  """Clips of a few kinds, each of other bytes: players pass over a box named free."""
  from tests import corpora

  folder.mkdir(parents=True)
  distinct = [corpora.video(index) for index in range(NUM_DISTINCT)]
  for index in range(count):
    box = struct.pack('>I4sI', 12, b'free', index)
    (folder / f'{index:05d}.mp4').write_bytes(distinct[index % NUM_DISTINCT] + box)
    (folder / f'{index:05d}.txt').write_text(f'caption {index}\n')


def start(command):
  return subprocess.Popen([sys.executable, '-m', *command], start_new_session=True)


def run(command):
  assert start(command).wait() == 0, command


class Cluster:
  """A head without processors, and two workers of one each."""

  def __init__(self):
    from ray import cluster_utils

    pathlib.Path(os.environ['RAY_TMPDIR'], 'ray').mkdir()
    head = dict(node_ip_address=HEAD, num_cpus=0, include_dashboard=False)
    self._cluster = cluster_utils.Cluster(True, head_node_args=head)
    self.address, self._number = self._cluster.address, 3
    self._workers = [self._add(), self._add()]

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._cluster.shutdown()
    shutil.rmtree(os.environ['RAY_TMPDIR'], ignore_errors=True)

  def _add(self):
    node = self._cluster.add_node(node_ip_address=f'127.0.0.{self._number}', num_cpus=1)
    self._number += 1
    return node

  def kill_while(self, command, parts):
    """Kills all of a node when a few shards are done and both work; then another one comes up.

    Returns figures: shards done when it was killed and of those how many were done again; numbers
    of the shards that the node lost half-way, and of those that any node began once more; seconds.
    """
    began = time.monotonic()
    process = start(command)
    while len(before := finished(parts)) < 2 or len(shard_works.under_way(parts)) < 2:
      assert process.poll() is None, command
      time.sleep(0.01)
    worker = self._workers.pop(0)
    raylet = worker.all_processes['raylet'][0].process.pid
    killed = {raylet} | shard_works.below(raylet)
    for pid in killed:
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    begun, after = shard_works.under_way(parts), dict(before)
    lost = {shard for shard, pid, _ in begun if pid in killed}
    while process.poll() is None:
      after |= finished(parts)
      begun |= shard_works.under_way(parts)
      time.sleep(0.02)
    assert process.returncode == 0, command
    self._cluster.remove_node(worker, allow_graceful=False)
    self._workers.append(self._add())
    counts = collections.Counter(shard for shard, _, _ in begun)
    return dict(
      done=len(before),
      done_again=sum(after[name] != wrote for name, wrote in before.items()),
      lost=sorted(lost),
      begun_again=sorted(n for n, count in counts.items() if count > 1),
      secs=round(time.monotonic() - began, 1),
    )


def finished(parts):
  """{a finished shard: when it was written}; {} if the folder is gone."""
  found = {}
  for marker in parts.glob('[0-9]*/result.json'):
    with contextlib.suppress(FileNotFoundError):
      found[marker.parent.name] = marker.stat().st_mtime_ns
  return found


if __name__ == '__main__':
  main()
