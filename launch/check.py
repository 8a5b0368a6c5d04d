"""Says what of a run would fail, before a machine is booked: python -m launch check ...

A line for each thing that the run needs, with what to change; exit code 2 if one fails. It reads
the workdir, corpora, weights and tokenizers as the hosts will, and computes nothing.
"""

import dataclasses
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import reader, retries, storage
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


class NotCheckedError(Exception):
  """Its text says why."""


@dataclasses.dataclass(frozen=True)
class Line:
  """What one check found; `ok` is None for what could not be checked, or need not be."""

  name: str
  ok: bool | None
  text: str

  def __str__(self) -> str:
    verdict = {True: 'ok', False: 'FAIL', None: '-'}[self.ok]
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

  def lines(self) -> list[Line]:
    """What each check found, in the order in which a run needs it."""
    found = [_line('launch', self._launch), _line('image', self._image)]
    found += [_line('mesh', self._mesh), _line('batches', self._batches)]
    found += [_line('workdir', self._workdir), _line('start', self._start)]
    for name in sorted(self.config.data.directories):
      found.append(_line(f'corpus {name}', lambda name=name: self._corpus(name)))
    for field in ('index', 'cache'):
      found.append(_line(f'data.{field}', lambda field=field: self._folder(field)))
    if all(line.ok is not False for line in found if line.name.startswith(('corpus', 'data'))):
      found.append(_line('draws', self._draws))
    found += [_line('model', self._model), _line('tokenizer', self._tokenizer)]
    for name in self._networks():
      found.append(_line(name, lambda name=name: self._weights(name)))
    return [*found, _line('memory', self._memory), _line('exit codes', self._exit_codes)]

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
        f'gcloud storage cp -r {path} gs://BUCKET/, and name that.'
      )
    if not found.exists():
      raise ValueError(f'{what}={path} does not exist: check the path.')
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
    validates = self.config.train.eval_every or self.config.train.sample_every
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

  def _draws(self) -> str:
    session = session_lib.build(self.config, reads_captions=False)
    plain = run_config.plain(self.config)
    stream = stream_lib.from_config(plain, session.fields(), kept=session.kept())
    return f'{len(stream.buckets)} shapes of batch have examples'

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
    plan = estimate.make(
      self.config,
      self.job.topology,
      buckets_lib.from_config(self.config),
      mfu=0.4,
      clip_cpu_secs=0.15,
    )
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


def _line(name: str, check: Callable[[], str]) -> Line:
  """What a check says, or what its error says to the user."""
  try:
    return Line(name, True, check())
  except NotCheckedError as reason:
    return Line(name, None, str(reason))
  except Exception as error:  # Also of a bucket's client, which has many kinds.
    _, message = errors.classify(error)
    return Line(name, False, ' '.join((message or f'{type(error).__name__}: {error}').split()))
