"""The stages that the flags of process/run_flags.py name."""

from collections.abc import Callable, Mapping
from typing import Any

from absl import flags
from etils import epath

from i2vgen_jax import conditions
from i2vgen_jax.sampling import stages
from i2vgen_jax.stored import run_config


def load(
  given: flags.FlagValues,
  size: Mapping[str, Any] | None = None,
  refine_size: Mapping[str, Any] | None = None,
  devices: list | None = None,
  shares: bool = False,
  load: Callable[..., stages.Stage] = stages.load,
  **base: Any,
) -> list[stages.Stage]:
  """The base stage, and the refinement stage if --refine_workdir names one.

  Args:
    given: with the flags of run_flags.define.
    size: of the base stage's videos, as stages.load takes it.
    refine_size: height and width of the refinement's, whose frames and rate are then the base
      stage's; None takes all of its own sampling bucket.
    devices: to sample on; default all. With a refinement, each stage's weights are on them while it
      works alone.
    shares: as of stages.load.
    load: in place of stages.load, for who holds weights.
    **base: further arguments of stages.load for the base stage.

  Raises:
    ValueError: one stands in the other's place, a run is missing, or a setting is invalid.
  """
  check_stages(given.workdir, given.refine_workdir)
  shared: dict[str, Any] = dict(devices=devices, shares=shares, rests=bool(given.refine_workdir))
  if not given.refine_workdir:
    lonely = [
      name for name in given if name.startswith('refine_') and given[name].value is not None
    ]
    if lonely:
      raise ValueError(
        f'--{lonely[0]}={given[lonely[0]].value} is of a refinement stage: give '
        '--refine_workdir=RUN, or leave it out.'
      )
    return [load_first(given, size, load=load, **shared, **base)]
  refined: dict[str, Any] = dict(
    num_steps=given.refine_steps,
    guidance_scale=given.refine_guidance,
    sampler=given.refine_sampler,
    levels=given.refine_levels,
    seed=given.seed,
  )
  stages.prepare(given.refine_workdir, refine_size, devices, **refined)
  first = load_first(given, size, load=load, **shared, **base)
  clip = dict(frames=first.bucket.frames, fps=first.bucket.fps)
  refinement = load(
    given.refine_workdir,
    size=refine_size and clip | dict(refine_size),
    negative_prompt=given.refine_negative_prompt,
    weights=given.weights,
    **refined,
    **shared,
  )
  return [first, refinement]


def load_first(
  given: flags.FlagValues,
  size: Mapping[str, Any] | None = None,
  devices: list | None = None,
  load: Callable[..., stages.Stage] = stages.load,
  **more: Any,
) -> stages.Stage:
  """The stage of --workdir, whichever it is.

  Args:
    given: with the flags of run_flags.define.
    size: of its videos, as stages.load takes it.
    devices: to sample on; default all.
    load: as of `load`.
    **more: further arguments of stages.load.

  Raises:
    ValueError: as stages.load.
  """
  return load(
    given.workdir,
    step=given.step,
    size=size,
    num_steps=given.steps,
    guidance_scale=given.guidance,
    sampler=given.sampler,
    weights=given.weights,
    seed=given.seed,
    devices=devices,
    **more,
  )


def check_stages(
  workdir: epath.PathLike, refine_workdir: epath.PathLike | None = None, of_video: bool = False
) -> None:
  """Checks by their configs alone, before anything is loaded, that each run has the right place.

  Args:
    workdir: of a base stage; of a refinement stage if a given video is refined.
    refine_workdir: of the refinement stage, if there is one.
    of_video: whether a video is given.

  Raises:
    ValueError: one stands in the other's place.
  """
  refines = bool(run_config.read(workdir).refine.levels)
  if of_video and not refines:
    raise ValueError(
      f'--workdir={workdir} is no refinement stage (its config.refine.levels is 0), and --video is '
      'refined: give one.'
    )
  if refines and not of_video:
    raise ValueError(
      f'--workdir={workdir} is a refinement stage: give the base stage there, and this one to '
      '--refine_workdir; or a video to refine to --video.'
    )
  if refine_workdir and not run_config.read(refine_workdir).refine.levels:
    raise ValueError(
      f'--refine_workdir={refine_workdir} is no refinement stage: its config.refine.levels is 0.'
    )


def read_captions(*workdirs: epath.PathLike | None) -> bool:
  """Whether any of the runs is conditioned on a caption, by their configs."""
  lines = [
    line
    for workdir in workdirs
    if workdir
    for line in conditions.read(run_config.read(workdir).unet.conditioners)
  ]
  return any(signal.reads_caption for line in lines for signal in line.conditioner.signals)
