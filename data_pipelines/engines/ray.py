"""Shards on a Ray cluster: as tasks, or on actors that keep networks on their accelerators.

The driver has a bounded number of shards in flight, however many there are. A shard whose worker or
machine is lost is done again, MAX_LOSSES times at most; an exception of the work ends the job. Only
the items and the work itself go through Ray: files do not.
"""

import collections
import contextlib
import dataclasses
import itertools
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from data_pipelines.engines import outcomes

MAX_LOSSES = 3  # Of workers by one shard.
# Shards in flight beyond what the cluster has room for: the next is at hand when one is done, and a
# cluster that grows by demand grows.
SPARE = 16
LOOK_SECS = 10.0  # How often the driver looks how large the cluster is.
OBJECT_STORE = 100 << 20  # Bytes, of a cluster that is started here: it holds the work alone.
_OPTIONS = dict(CPU='num_cpus', GPU='num_gpus', memory='memory')


@dataclasses.dataclass(frozen=True)
class Ray:
  """A cluster.

  Attributes:
    address: of one that runs, HOST:PORT or 'auto'; '' starts one on this machine.
    resources: what each worker takes, such as dict(CPU=2, GPU=1) or dict(CPU=8, TPU=4).
    num_actors: workers that keep the work, with its networks, from shard to shard; 0 for as many as
      the cluster has room for when the job starts. None does shards as tasks.
  """

  address: str = ''
  resources: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(CPU=1))
  num_actors: int | None = None

  def run(self, work: outcomes.Work, todo: Sequence[tuple[int, Any]], num_processes: int) -> None:
    """Does all that is to do; a cluster that is started here gets as many processors.

    Raises:
      ValueError: Ray is not installed or not to be reached, or the work's that is for the user.
      WorkerError: a bug of the work, or a shard that lost its worker too often.
    """
    ray = _imported()
    num_cpus = max(num_processes, math.ceil(self.resources.get('CPU', 0)))
    with _connected(ray, self.address, num_cpus):
      self._check(ray)
      common = os.getcwd(), [ray.put(outcomes.Reporting(work))]
      run = self._run_tasks if self.num_actors is None else self._run_actors
      try:
        run(ray, common, todo)
      except ray.exceptions.RayTaskError as error:
        raise outcomes.WorkerError(f'in a worker:\n{error}') from error
      except ray.exceptions.RayError as error:
        raise outcomes.WorkerError(
          f'workers were lost too often, or cannot start: {error}\n'
          'All that is done is kept: run the command again.'
        ) from error

  def _run_tasks(self, ray: Any, common: Sequence[Any], todo: Sequence[tuple[int, Any]]) -> None:
    task = ray.remote(_do).options(max_retries=MAX_LOSSES, **self._options())
    waiting = iter(todo)
    running: list[Any] = []
    looked, most = -math.inf, 0
    while True:
      if time.monotonic() - looked > LOOK_SECS:
        looked, most = time.monotonic(), 2 * self._room(ray) + SPARE
      for numbered in itertools.islice(waiting, max(most - len(running), 0)):
        running.append(task.remote(*common, numbered))
      if not running:
        return
      done, running = ray.wait(running, timeout=LOOK_SECS)
      for outcome in ray.get(done):
        outcome.check()

  def _run_actors(self, ray: Any, common: Sequence[Any], todo: Sequence[tuple[int, Any]]) -> None:
    make = ray.remote(_Keeper).options(**self._options()).remote
    waiting, left = collections.deque(todo), len(todo)
    # Reference -> (an actor, what it does: None is to come up).
    running: dict[Any, tuple[Any, tuple[int, Any] | None]] = {}
    idle: list[Any] = []
    losses: collections.Counter = collections.Counter()
    num_actors = min(self.num_actors or self._room(ray) or 1, left)
    for _ in range(num_actors):
      actor = make()
      running[actor.do.remote(*common, None)] = actor, None
    while left:
      while idle and waiting:
        actor, numbered = idle.pop(), waiting.popleft()
        running[actor.do.remote(*common, numbered)] = actor, numbered
      [done], _ = ray.wait(list(running))
      actor, numbered = running.pop(done)
      try:
        outcome = ray.get(done)
      except ray.exceptions.RayActorError as error:
        shard = numbered[0] if numbered else None
        losses[shard] += 1
        most = MAX_LOSSES if numbered else MAX_LOSSES * num_actors
        if error.actor_init_failed or losses[shard] > most:
          raise
        if numbered:
          waiting.appendleft(numbered)
        ray.kill(actor)  # If it is only out of reach, it must not keep its place.
        actor = make()
        running[actor.do.remote(*common, None)] = actor, None
        continue
      outcome.check()
      left -= numbered is not None
      idle.append(actor)

  def _check(self, ray: Any) -> None:
    """Says what would wait for ever, or waste the machines."""
    if not self._room(ray):
      wanted = ','.join(f'{name}={number:g}' for name, number in self.resources.items())
      if not self.address:
        raise ValueError(f'this machine has not what --ray_resources={wanted} asks for.')
      logging.warning('No machine of the cluster has %s now: waiting for one.', wanted)
    unused = {'GPU', 'TPU'} & ray.cluster_resources().keys() - self.resources.keys()
    if self.num_actors is not None and unused:
      name = min(unused)
      logging.warning("Networks run without the cluster's %ss: --ray_resources=%s=1", name, name)

  def _room(self, ray: Any) -> int:
    """How many workers at a time the cluster's machines have room for."""
    machines = [node['Resources'] for node in ray.nodes() if node['Alive']]
    return sum(
      int(min(machine.get(name, 0) / number for name, number in self.resources.items()))
      for machine in machines
    )

  def _options(self) -> dict[str, Any]:
    """`resources` under Ray's own names."""
    known = {option: self.resources.get(name, 0) for name, option in _OPTIONS.items()}
    others = {name: n for name, n in self.resources.items() if name not in _OPTIONS}
    return {option: number or None for option, number in known.items()} | dict(
      num_cpus=known['num_cpus'], resources=others
    )


# By its reference, the work that this process has, with its networks or the children that decode.
_kept: dict[str, outcomes.Reporting] = {}


def _do(folder: str, references: Sequence[Any], numbered: tuple[int, Any]) -> outcomes.Outcome:
  """A task.

  Args:
    folder: where the driver is, if this machine has it: paths may be relative.
    references: one, of the work; in a list, because Ray would fetch it anew for each task.
    numbered: (index, item).
  """
  import ray

  [reference] = references
  name = reference.hex()
  if name not in _kept:
    _kept.clear()
    with contextlib.suppress(OSError):
      os.chdir(folder)
    _kept[name] = ray.get(reference)
  return _kept[name](numbered)


class _Keeper:
  """An actor, in a process of its own."""

  def do(
    self, folder: str, references: Sequence[Any], numbered: tuple[int, Any] | None
  ) -> outcomes.Outcome:
    """As `_do`; None only brings the process up."""
    return _do(folder, references, numbered) if numbered else outcomes.Outcome()


def _imported() -> Any:
  # Of a node that is started here: on a busy machine Ray's own minute is too short.
  os.environ.setdefault('RAY_raylet_start_wait_time_s', '300')
  try:
    import ray
  except ImportError as error:
    raise ValueError('--engine=ray needs Ray: pip install "i2vgen_jax[ray]".') from error
  return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str, num_cpus: int) -> Generator[None, None, None]:
  """Within, this process is a driver; a cluster that was started here ends with it."""
  if ray.is_initialized():  # By a notebook or a script, whose it stays.
    yield
    return
  folder = ''
  options: dict[str, Any] = dict(log_to_driver=False, logging_level=logging.ERROR)
  if address:
    options |= dict(address=address)
  else:
    folder = tempfile.mkdtemp(prefix='ray-')
    options |= dict(
      address='local', num_cpus=num_cpus, object_store_memory=OBJECT_STORE,
      include_dashboard=False, _temp_dir=folder,
    )  # fmt: skip
  before = signal.getsignal(signal.SIGTERM)
  try:
    try:
      context = ray.init(**options)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
      raise ValueError(f'no Ray cluster answers at --ray_address={address}: {error}') from error
    if threading.current_thread() is threading.main_thread():  # Ray ends it with another code.
      signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if context.dashboard_url:
      logging.info('Ray dashboard: http://%s', context.dashboard_url)
    yield
  finally:
    ray.shutdown()
    if threading.current_thread() is threading.main_thread():
      signal.signal(signal.SIGTERM, before)
    shutil.rmtree(folder, ignore_errors=True)
