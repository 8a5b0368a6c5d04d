"""Says what of a run would fail, before a machine is booked: python -m launch check ...

A line for each thing that the run needs, with what to change, as soon as it is known: what costs
least comes first. Exit code 2 if one fails. It reads the workdir, corpora, weights and tokenizers
as the hosts will, and computes nothing.
"""

import concurrent.futures
import dataclasses
import functools
import re
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import reader, retries, storage
from data_pipelines.index import table as table_lib
from data_pipelines.stream import stream as stream_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.plan import estimate
from i2vgen_jax.pretrained import files
from i2vgen_jax.process import errors, exit_codes, paths
from i2vgen_jax.stored import run_config
from launch import job as job_lib

# Where no --target is given: what runs on such machines. Clouds' targets are alike in all below.
DEFAULT_TARGETS = {'tpu': 'gke', 'gpu': 'slurm', 'cpu': 'local'}
PACKAGES = ('configs', 'i2vgen_jax')  # Whose files are in the image.
# Docker's reference: a registry's host has a dot or port, then a path, then a tag or digest.
IMAGE = re.compile(r'[\w.-]+(:\d+)?(/[\w.-]+)*/[a-z0-9][\w.-]*(:[\w.-]+|@sha256:[0-9a-f]{64})')


# How long a bucket may take to answer at all; its client tries for a minute by itself.
ANSWER_SECS = 15
AWAY = (
  'Is there a way from this machine to it (network, proxy)? Is there a login (gcloud auth '
  'application-default login, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)? Is its name right?'
)


class NotCheckedError(Exception):
  """Its text says why."""


@dataclasses.dataclass(frozen=True)
class Line:
  """What one check found; `ok` is None for what could not be checked, or need not be. What warns
  is no error, and seldom meant."""

  name: str
  ok: bool | None
  text: str
  warns: bool = False

  def __str__(self) -> str:
    verdict = 'warn' if self.warns else {True: 'ok', False: 'FAIL', None: '-'}[self.ok]
    return f'{verdict:5s} {self.name:14s} {self.text}'


@dataclasses.dataclass(frozen=True)
class Check:
  """All checks of a job.

  Args:
    job: what is to run.
    config: of the run.
    target: a target of launch, or '' for what such machines are mostly started by.
    render: makes the plan of the target.
  """

  job: job_lib.Job
  config: ml_collections.ConfigDict
  target: str
  render: Callable[[job_lib.Job], Any]

  @property
  def is_remote(self) -> bool:
    """Whether the processes run where this machine's disks are not."""
    return self.target not in job_lib.SHARED

  def lines(self) -> Iterator[Line]:
    """What each check found, each when it is known."""
    causes: dict[str, str] = {}  # What is not in order -> the line that says why.

    def told(name: str, check: Callable[[], str], *needs: str) -> Line:
      line = _line(name, check, [why for each, why in causes.items() if each.startswith(needs)])
      if line.ok is False:
        causes[name] = name
      return line

    yield told('launch', self._launch)
    yield told('image', self._image)
    yield told('mesh', self._mesh)
    yield told('batches', self._batches, 'mesh')
    yield told('exit codes', self._exit_codes)
    yield told('model', self._model)
    places = sorted(self._places(), key=lambda place: not storage.is_local(place[1]))
    answers = _Answers([path for _, path, _ in places])
    for name, path, check in places:
      if cause := answers.missed.get(_bucket(path)):
        causes[name] = cause
        yield Line(name, None, f'not checked: see {cause}')
      else:
        yield told(name, lambda: answers.check(path, name) or check())  # noqa: B023
    rows: list[Line] = []
    draws = told('draws', lambda: self._draws(rows), 'model', 'start', 'corpus', 'data.')
    yield from (*rows, draws)
    yield told('memory', self._memory, 'mesh', 'batches', 'model')

  def _places(self) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """(name, path, check) of all that lies on disks or in buckets."""
    config = self.config
    yield 'workdir', self.job.workdir, self._workdir
    yield 'start', config.start, self._start
    for name, path in sorted(config.data.directories.items()):
      yield f'corpus {name}', path, functools.partial(self._corpus, name)
    for field in ('index', 'cache'):
      yield f'data.{field}', config.data[field], functools.partial(self._folder, field)
    tokenizers = [config.get('tokenizer', ''), config.get('t5', {}).get('tokenizer', '')]
    far = [path for path in (*tokenizers, config.start) if not storage.is_local(path)]
    yield 'tokenizer', (far or tokenizers)[0], self._tokenizer
    for name in self._networks():
      yield name, config[name].weights or config.start, functools.partial(self._weights, name)

  # The job.

  def _launch(self) -> str:
    self.render(self.job)
    return f'{self.target} on {self.job.topology.name}'

  def _image(self) -> str:
    if not self.is_remote:
      raise NotCheckedError(f'{self.target} needs none: it runs this folder')
    self.job.require('image')
    if not IMAGE.fullmatch(self.job.image):
      raise ValueError(
        f'--image={self.job.image}: hosts pull REGISTRY/PATH/NAME:TAG, or @sha256:DIGEST. Without '
        'a tag, hosts that start later may run another image.'
      )
    return f'{self.job.image} (its form; it is not looked up)'

  def _mesh(self) -> str:
    machines = self.job.topology
    sizes = mesh_lib.resolve(self.config.mesh, machines.devices)
    if machines.kind == 'tpu' and sizes['slice'] != machines.slices:
      raise ValueError(
        f'mesh={sizes} has {sizes["slice"]} slices, but topology={machines.name} has '
        f'{machines.slices}. Take the mesh of that name from configs/meshes.py.'
      )
    return ' x '.join(f'{axis} {size}' for axis, size in sizes.items() if size > 1) or '1 device'

  def _batches(self) -> str:
    sizes = mesh_lib.resolve(self.config.mesh, self.job.topology.devices)
    buckets = buckets_lib.from_config(self.config)
    mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
    mesh_lib.check_batch_sizes(buckets, mesh, self.config.train.accumulation)
    return ', '.join(f'{bucket.name} {bucket.batch_size}' for bucket in buckets)

  # Storage.

  def _reach(self, what: str, path: str) -> epath.Path:
    """The path, if the hosts can read it; one of the package is in the image."""
    found = paths.find(path)
    shipped = path.split('/')[0] in PACKAGES and (paths.ROOT / path).exists()
    if self.is_remote and storage.is_local(path) and not shipped:
      raise ValueError(
        f'{what}={path} is on this machine alone, and the hosts have buckets and the image: '
        f'gcloud storage cp -r {shlex.quote(path)} gs://BUCKET/, and name that.'
      )
    if not found.exists():
      bucket = '' if storage.is_local(path) else " and the bucket's name"
      raise ValueError(f'{what}={path} does not exist: check the path{bucket}.')
    return found

  def _workdir(self) -> str:
    path = self.job.workdir
    self.job.check_workdir(self.target)
    run_config.check(path, self.config)
    probe = epath.Path(path) / f'.check_{secrets.token_hex(4)}'
    try:
      storage.write_bytes(probe, b'x')
      if retries.call(probe.read_bytes) != b'x':
        raise ValueError(f'--workdir={path}: what was written there does not come back.')
    finally:
      probe.unlink(missing_ok=True)
    return f'{path} can be written and read'

  def _start(self) -> str:
    if not self.config.start:
      raise NotCheckedError('the config starts from no other run')
    self._reach('start', self.config.start)
    run_config.read(self.config.start)
    return self.config.start

  def _corpus(self, name: str) -> str:
    folder = self._reach(f'data.directories.{name}', self.config.data.directories[name])
    manifest = reader.read_manifest(folder)
    train = self.config.train
    validates = (train.eval_every and train.num_eval_examples) or (
      train.sample_every and train.num_sample_videos
    )
    has_videos = any(bucket.media == 'video' for bucket in buckets_lib.from_config(self.config))
    counts = {}
    for split, held in manifest['splits'].items():
      counts[split] = sum(shard['num_examples'] for shard in held['shards'])
      for shard in held['shards'][:1]:
        for file in (shard['records'], shard['sidecar']):
          if not (folder / file).exists():
            raise ValueError(f'{folder / file} is named by manifest.json and is not there.')
    if not counts.get('train'):
      raise ValueError(f'{folder} has no examples to train on: ingest some.')
    held_out = counts.get('validation', 0)
    note = '' if held_out or not (validates and has_videos) else '; none held out'
    return f'{folder}: {counts["train"]:,} examples, {held_out:,} held out{note}'

  def _folder(self, field: str) -> str:
    path = self.config.data[field]
    if not path:
      raise NotCheckedError('not used')
    self._reach(f'data.{field}', path)
    return path

  def _draws(self, rows: list[Line]) -> str:
    """Opens the stream as the run does; adds a line of each bucket to `rows`."""
    session = session_lib.build(self.config, reads_captions=False)
    plain = run_config.plain(self.config)
    try:
      stream = stream_lib.from_config(plain, session.fields(), kept=session.kept())
    except ValueError:
      rows += self._empty_buckets(plain)
      if not rows:
        raise
      raise NotCheckedError(f'not checked: see {rows[0].name}') from None
    for bucket in stream.buckets:
      count = stream.num_examples(bucket)
      text = f'{count:,} examples for batches of {bucket.batch_size:,}'
      few = count < bucket.batch_size
      if few:
        text += (
          f', which hold each several times: --config.data.buckets.{bucket.group}.batch_size, '
          'or more examples'
        )
      rows.append(Line(f'bucket {bucket.name}', True, text, few))
    return f'{len(stream.buckets)} shapes of batch have examples'

  def _empty_buckets(self, plain: Mapping[str, Any]) -> list[Line]:
    """A line of each bucket of the config that no example fills."""
    data = plain['data']
    corpora = reader.Corpora(data['directories'], 'train')
    table = table_lib.read(data['index'], corpora) if data['index'] else table_lib.whole(corpora)
    return [
      Line(f'bucket {name}', False, ' '.join(table.nothing_fits(members[0]).split()))
      for name, members in buckets_lib.groups(buckets_lib.from_config(plain)).items()
      if not any(map(table.filling, members))
    ]

  # The model.

  def _model(self) -> str:
    session_lib.build(self.config, reads_captions=False).buckets()
    return 'the config describes one'

  def _tokenizer(self) -> str:
    folders = [name for name in ('tokenizer', 't5') if self.config.get(name)]
    given = {
      name: self.config[name] if name == 'tokenizer' else self.config[name].tokenizer
      for name in folders
    }
    for name, path in given.items():
      if path:
        self._reach('tokenizer' if name == 'tokenizer' else 't5.tokenizer', path)
    session_lib.build(self.config)  # Tokenizes nothing, but opens what it would tokenize by.
    return ', '.join(filter(None, given.values())) or "the start's"

  def _networks(self) -> Sequence[str]:
    try:
      return tuple(session_lib.build(self.config, reads_captions=False).networks)
    except ValueError:
      return ()  # `_model` says why.

  def _weights(self, name: str) -> str:
    weights = self.config[name].weights
    if weights == 'random':
      return 'random'
    if not weights and self.config.start:
      return f'those of {self.config.start}'
    if not weights:
      raise ValueError(
        f'{name}.weights is not set: give --config.{name}.weights=FILE_OR_FOLDER, or start from a '
        'folder that has them: --config.start=DIR.'
      )
    found = files.list_files(self._reach(f'{name}.weights', weights))
    total = sum(file.stat().length for file in found)
    return f'{weights}: {len(found)} files, {total / 2**30:.2f} GiB'

  def _memory(self) -> str:
    if self.job.topology.kind != 'tpu':
      raise NotCheckedError('plans are made for TPUs')
    plan = estimate.make(self.config, self.job.topology, buckets_lib.from_config(self.config))
    total = sum(plan.bytes.values())
    text = f'{total / 2**30:.1f} of {plan.capacity / 2**30:.1f} GiB per device, by estimate'
    if total > plan.capacity:
      raise ValueError(f'{text}: {"; ".join(plan.hints)}.')
    return f'{text}; {plan.chip_hours:,.0f} chip-hours at 40 % of the peak'

  def _exit_codes(self) -> str:
    final = ', '.join(map(str, (exit_codes.DONE, *exit_codes.FINAL)))
    return (
      f'{final} end the run; all others, such as {exit_codes.PREEMPTED} (preempted) and '
      f'{exit_codes.WATCHDOG} to {exit_codes.DEVICE}, start it again, after failures at most '
      f'{self.job.max_restarts} times'
    )


class _Answers:
  """Which buckets answer: all are asked at once, in the background.

  Args:
    paths: whose buckets are asked; those of this machine are not.

  Attributes:
    missed: buckets that did not answer, and the line that said so.
  """

  def __init__(self, paths: Sequence[str]):
    self.missed: dict[str, str] = {}
    self._deadline = time.monotonic() + ANSWER_SECS
    self._asked = {
      _bucket(path): _in_background(epath.Path(path).exists)
      for path in paths
      if not storage.is_local(path)
    }

  def check(self, path: str, name: str) -> None:
    """Raises StorageError if the path's bucket does not answer in time, and notes that `name`
    says so."""
    bucket = _bucket(path)
    if bucket not in self._asked:
      return
    left = max(0.0, self._deadline - time.monotonic())
    try:
      error = self._asked[bucket].exception(left)
    except TimeoutError:
      error = TimeoutError(f'{bucket} did not answer within {ANSWER_SECS} s')
    if error and errors.classify(error)[0] == exit_codes.STORAGE:
      self.missed[bucket] = name
      raise retries.StorageError(str(error)) from error


def _bucket(path: str) -> str:
  """gs://BUCKET of a path; '' of one of this machine."""
  return '' if storage.is_local(path) else '/'.join(path.split('/')[:3])


def _in_background(function: Callable[[], Any]) -> concurrent.futures.Future:
  """Calls it in a thread that nobody waits for at the end of the process."""
  future: concurrent.futures.Future = concurrent.futures.Future()

  def call() -> None:
    try:
      future.set_result(function())
    except Exception as error:
      future.set_exception(error)

  threading.Thread(target=call, daemon=True).start()
  return future


def _line(name: str, check: Callable[[], str], causes: Sequence[str]) -> Line:
  """What a check says, or what its error says to the user; not checked if there are causes."""
  if causes:
    return Line(name, None, f'not checked: see {", ".join(dict.fromkeys(causes))}')
  try:
    return Line(name, True, check())
  except NotCheckedError as reason:
    return Line(name, None, str(reason))
  except Exception as error:  # Also of a bucket's client, which has many kinds.
    code, message = errors.classify(error)
    text = message or f'{type(error).__name__}: {error}'
    if code == exit_codes.STORAGE:
      text = f'{text}. {AWAY}'
    return Line(name, False, ' '.join(text.split()))
