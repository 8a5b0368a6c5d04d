"""The runs that the page offers, with the weights that it holds: for another video of the same run
nothing is read or compiled again.
"""

import collections
import dataclasses
import inspect
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from etils import epath

from data_pipelines import user_errors
from data_pipelines.corpus import buckets as buckets_lib
from i2vgen_jax import sample
from i2vgen_jax import session as session_lib
from i2vgen_jax.conditions import base
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.process import run_folder
from i2vgen_jax.sampling import stage_flags, stepwise
from i2vgen_jax.sampling import stages as stages_lib

MOST_HELD = 3  # Sets of weights: two checkpoints to compare, and a refinement.
MOST_TIMES = 8  # A video may have so many times the pixels of those that the run was trained on.
RATIOS = ((16, 9), (4, 3), (1, 1), (3, 4), (9, 16))


class Flag(NamedTuple):
  """A control of a condition: its flag of `sample`."""

  name: str
  text: str
  is_file: bool


class Checked(NamedTuple):
  """In place of a stage, where nothing is loaded yet."""

  bucket: buckets_lib.Bucket


class Runs:
  """Opens the runs; raises ValueError as session.open_run.

  Attributes:
    workdirs: of the runs.
    refine_workdir: of the refinement stage; None without.
    reads_captions: whether a caption must be given.
  """

  def __init__(self, workdirs: Sequence[str], refine_workdir: str | None = None):
    self.workdirs, self.refine_workdir = tuple(workdirs), refine_workdir
    self.reads_captions = stage_flags.read_captions(*workdirs, refine_workdir)
    opened = [*workdirs, *filter(None, [refine_workdir])]
    self._sessions = {workdir: session_lib.open_run(workdir) for workdir in opened}
    self._held: collections.OrderedDict[tuple, stages_lib.Stage] = collections.OrderedDict()
    self._lock = threading.Lock()

  @property
  def first(self) -> session_lib.Session:
    """Of the first run, without weights."""
    return self._sessions[self.workdirs[0]]

  def number(self, text: str) -> int:
    """Of the run that a form names by it; raises ValueError if there is none."""
    if text and not (text.isdigit() and int(text) < len(self.workdirs)):
      raise ValueError(f'run={text} is none of the {len(self.workdirs)} runs of this page.')
    return int(text or 0)

  def signals(self, number: int) -> Mapping[str, base.Signal]:
    """Of a run."""
    return self._sessions[self.workdirs[number]].signals

  def controls(self, number: int) -> list[Flag]:
    """The controls of a run's conditions.

    Of conditions from elsewhere there are none: their texts may name files of this machine.
    """
    is_ours = lambda signal: user_errors.is_ours(inspect.getfile(type(signal)))  # noqa: E731
    ours = filter(is_ours, self.signals(number).values())
    return [
      Flag(name, text, name.endswith('_image'))
      for signal in ours
      for name, text in signal.flags.items()
    ]

  def steps(self, number: int) -> list[int]:
    """Of a run's checkpoints; none of a folder of `load`."""
    return run_folder.checkpoint_steps(self.workdirs[number])

  def newest(self, number: int) -> str:
    """The newest step, which a command should name: there may be a newer one when it is typed."""
    return str(max(self.steps(number), default=''))

  def sizes(self) -> list[tuple[str, int, int]]:
    """(name, width, height) of aspects: those that the first run was trained at, or usual ones."""
    bucket, factor = self.bucket(), self.first.autoencoder.downsampling
    if bucket.framing:
      return [(f'{width}x{height}', width, height) for height, width in bucket.framing.sizes]
    area, found = bucket.width * bucket.height, []
    for wide, high in RATIOS:
      scale = (area / (wide * high)) ** 0.5
      width, height = (max(factor, round(scale * s / factor) * factor) for s in (wide, high))
      found.append((f'{wide}:{high}, {width}x{height}', width, height))
    return found

  def bucket(self) -> buckets_lib.Bucket:
    """Whose shape the first run's videos have."""
    return self.first.sample_bucket()

  def settings(self) -> dict[str, Any]:
    """Of the first run's sampler."""
    return stages_lib.prepare_request(self.first)[1]

  def check(self, given: flags.FlagValues) -> None:
    """Raises ValueError, in the words of `sample`, for a video that cannot be made."""
    sample.load_stages(given, load=self._check)  # pyrefly: ignore[bad-argument-type]

  def _check(
    self,
    workdir: epath.PathLike,
    *,
    size: Mapping[str, Any] | None = None,
    devices: list | None = None,
    seed: int = 0,
    step: int | None = None,
    weights: str = '',
    negative_prompt: str | None = None,
    shares: bool = False,
    rests: bool = False,
    **overrides: Any,
  ) -> Checked:
    session = self._sessions[str(workdir)]
    bucket, _ = stages_lib.prepare_request(session, size, seed, **overrides)
    own = session.sample_bucket()
    pixels = [each.frames * each.height * each.width for each in (bucket, own)]
    if pixels[0] > MOST_TIMES * pixels[1]:
      raise ValueError(
        f'{bucket.frames} frames of {bucket.width}x{bucket.height} have more than {MOST_TIMES} '
        f"times the pixels of the run's own {own.frames} of {own.width}x{own.height}: ask for "
        'less, or sample them by the command.'
      )
    saved = run_folder.checkpoint_steps(workdir)
    if step is not None and saved and step not in saved:
      raise ValueError(f'{workdir} holds no complete checkpoint {step}; there are {saved}.')
    return Checked(bucket)

  def load(
    self,
    workdir: epath.PathLike,
    *,
    weights: str = 'ema',
    step: int | None = None,
    size: Mapping[str, Any] | None = None,
    seed: int = 0,
    negative_prompt: str | None = None,
    devices: list | None = None,
    shares: bool = False,
    rests: bool = False,
    **overrides: Any,
  ) -> stages_lib.Stage:
    """As stages.load, but for weights that are held: these are taken."""
    session = self._sessions[str(workdir)]
    bucket, settings = stages_lib.prepare_request(session, size, seed, **overrides)
    key = (str(workdir), weights, step, rests)
    with self._lock:
      if key not in self._held:
        while len(self._held) >= MOST_HELD:
          self._held.popitem(last=False)
        self._held[key] = stages_lib.load(
          workdir, weights=weights, step=step, size=size, devices=devices, shares=shares,
          rests=rests,
        )  # fmt: skip
      self._held.move_to_end(key)
      shared = stages_lib.share(session, bucket) if shares else session
      held = self._held[key] = _on(self._held[key], shared.mesh)
    if negative_prompt is None:
      negative_prompt = held.session.config.negative_prompt
    return dataclasses.replace(
      held, bucket=bucket, settings=settings, negative_prompt=negative_prompt
    )


def _on(stage: stages_lib.Stage, mesh: jax.sharding.Mesh) -> stages_lib.Stage:
  """The stage on the devices that share a video of another shape."""
  if stage.session.mesh == mesh:
    return stage
  params, frozen = stage.params, stage.session.frozen
  if not stage.rests:
    params, frozen = jax.device_put((params, frozen), mesh_lib.replicated(mesh))
  session = dataclasses.replace(stage.session, mesh=mesh, frozen=frozen)
  own = stepwise.Stepwise(session)
  return dataclasses.replace(stage, session=session, params=params, stepwise=own)
