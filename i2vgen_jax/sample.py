"""Makes a video of an image and a caption, or one of every line of a list.

  python -m i2vgen_jax.sample --workdir=DIR --image=I.png --prompt="a red circle moves left"
  --output=O.mp4

--output may also end in .gif or .webp. With --refine_workdir a refinement stage takes the video on
to its own size. With --video=FILE in place of --image, --workdir is a refinement stage, which
refines that video: each of its frames, or --fps of them a second, in pieces of --frames. With
--list=FILE, of `image|||caption` lines, --output is a folder of mp4s; started again, it skips what
is there.

Size, frame rate and sampler settings default to the runs' configs; of a run with data.aspects the
size is the aspect that crops the image least, unless --height and --width say another. The image's
own file may have any size: it is centre-cropped and resized. The same seed gives the same video.
"""

from absl import flags

from i2vgen_jax.process import cli, run_flags

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  run_flags.define_request()
  flags.mark_flags_as_required(['workdir', 'output'])
  cli.run(__file__)

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
from etils import epath

from data_pipelines import user_errors
from data_pipelines.media import pictures
from i2vgen_jax import conditions
from i2vgen_jax import session as session_lib
from i2vgen_jax.conditions import base
from i2vgen_jax.sampling import given_video, lists, prompts, stage_flags, video_file
from i2vgen_jax.sampling import stages as stages_lib


def main() -> None:
  """Checks what was asked for, loads the stages, and runs them."""
  given = flags.FLAGS
  check_flags(given)
  more = condition_flags(given)
  read_captions = check_runs(given)
  source = given_video.read(given.video, given.fps) if given.video else None
  image = pictures.read_image(given.image) if given.image else None
  if given.list:
    lists.check(given.list, needs_caption=read_captions)
  stages_lib.make_folder(given.output if given.list else epath.Path(given.output).parent)
  signals = session_lib.open_run(given.workdir).signals
  check_conditions(more, signals)
  prompts.warn(signals, {f'--{name}': given[name].value for name in ('prompt', 'negative_prompt')})
  stages = load_stages(given)
  prompt = given.prompt or ''
  if source:
    given_video.refine(stages[0], source, prompt, given.seed, given.output, more)
  elif given.list:
    part, num_parts = (int(number) for number in given.part.split('/'))
    lists.make(stages, given.list, given.output, given.seed, part, num_parts, more)
  else:
    first = cast(pictures.Encoded, image)
    stages_lib.make_video(stages, first, prompt, given.seed, given.output, more)


def check_runs(given: flags.FlagValues) -> bool:
  """Whether the runs read captions.

  Raises:
    ValueError: they do, and none is given; or a run stands in another's place.
  """
  stage_flags.check_stages(given.workdir, given.refine_workdir, of_video=bool(given.video))
  read_captions = stage_flags.read_captions(given.workdir, given.refine_workdir)
  if not given.list and given.prompt is None and read_captions:
    raise ValueError('This model reads captions: give --prompt=TEXT.')
  return read_captions


def load_stages(
  given: flags.FlagValues, load: Callable[..., stages_lib.Stage] = stages_lib.load
) -> list[stages_lib.Stage]:
  """The stages that the flags name: one with --video; raises ValueError as stages.load.

  Args:
    given: with the flags of run_flags.define_request.
    load: in place of stages.load, for who holds weights.
  """
  size = {name: given[name].value for name in ('frames', 'height', 'width', 'fps')}
  options: dict[str, Any] = dict(
    negative_prompt=given.negative_prompt,
    guidance_rescale=given.guidance_rescale,
    eta=given.eta,
    spacing=given.spacing,
  )
  if given.video:  # Its last piece may be of any number of frames, which devices cannot share.
    options |= dict(devices=jax.local_devices()[:1], levels=given.refine_levels)
    return [stage_flags.load_first(given, size, load=load, **options)]
  refine_size = dict(height=given.refine_height, width=given.refine_width)
  devices = jax.local_devices()
  return stage_flags.load(given, size, refine_size, devices, shares=True, load=load, **options)


def condition_flags(given: flags.FlagValues) -> dict[str, str]:
  """Name -> text of what the user gives to signals besides image and prompt, by their own flags or
  by --condition.

  Raises:
    ValueError: a --condition is not NAME=VALUE.
  """
  more: dict[str, Any] = {
    name: given[name].value for name in conditions.flags() if given[name].value is not None
  }
  for item in given.condition:
    name, separator, value = item.partition('=')
    if not separator or not name:
      raise ValueError(f'--condition={item} must be NAME=VALUE.')
    more[name] = value
  return more


def check_conditions(more: Mapping[str, str], signals: Mapping[str, base.Signal]) -> None:
  """Raises ValueError for a flag of a signal that the model, which reads `signals`, lacks."""
  own = {name for signal in signals.values() for name in signal.flags}
  foreign = sorted((set(more) & set(conditions.flags())) - own)
  if all(user_errors.is_ours(inspect.getfile(type(signal))) for signal in signals.values()):
    foreign += sorted(set(more) - own)  # None is a user's own, which may read any name.
  if foreign:
    raise ValueError(
      f'{foreign[0]}={more[foreign[0]]} is given, but this model is conditioned on '
      f'{list(signals)}: leave it out.'
    )


def check_flags(given: flags.FlagValues) -> None:
  """Checks the flags together, before anything is loaded.

  Raises:
    ValueError: other than one of --image, --video and --list, a --prompt beside --list, a
      --refine_workdir beside --video, an --image or --output that is a folder, an --output that
      ends otherwise than a video does, or an invalid --part.
  """
  if sum(map(bool, (given.image, given.video, given.list))) != 1 or given.list and given.prompt:
    raise ValueError(
      'Give --image=FILE and --prompt=TEXT, or --video=FILE and --prompt=TEXT, or else --list=FILE.'
    )
  if given.video and given.refine_workdir:
    raise ValueError(
      f'--refine_workdir={given.refine_workdir}: give the stage that refines --video as --workdir.'
    )
  if given.image and epath.Path(given.image).is_dir():
    raise ValueError(
      f'--image={given.image} is a folder: name one picture; for many pictures, --list=FILE.'
    )
  if not given.list and epath.Path(given.output).is_dir():
    raise ValueError(f'--output={given.output} is a folder: name the file to write.')
  if not given.list:
    video_file.check_ending(given.output)
  part, _, num_parts = given.part.partition('/')
  if not (part.isdigit() and num_parts.isdigit() and int(part) < int(num_parts)):
    raise ValueError(f'--part={given.part} must be I/N with 0 <= I < N.')
