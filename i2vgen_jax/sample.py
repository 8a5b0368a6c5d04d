"""Makes a video of an image and a caption, or one of every line of a list.

  python -m i2vgen_jax.sample --workdir=DIR --image=I.png --prompt="a red circle moves left"
  --output=O.mp4

With --refine_workdir a refinement stage takes the video on to its own size. With --list=FILE, of
`image|||caption` lines, --output is a folder; started again, it skips what is there.

Size, frame rate and sampler settings default to the runs' configs; of a run with data.aspects the
size is the aspect that crops the image least, unless --height and --width say another. The image's
own file may have any size: it is centre-cropped and resized. The same seed gives the same video.
"""

from collections.abc import Mapping
from typing import Any, cast

import jax
import PIL.Image
from absl import flags
from etils import epath

from data_pipelines.media import pictures
from i2vgen_jax import conditions
from i2vgen_jax.process import cli
from i2vgen_jax.sampling import stages as stages_lib


def main() -> None:
  """Checks what was asked for, loads the stages, and runs them."""
  given = flags.FLAGS
  check_flags(given)
  more = condition_flags(given)
  stages_lib.check_stages(given.workdir, given.refine_workdir)
  image = None if given.list else pictures.open_image(given.image)
  if given.list:
    stages_lib.read_list(given.list)
  stages_lib.make_folder(given.output if given.list else epath.Path(given.output).parent)
  shared = dict(weights=given.weights, seed=given.seed, devices=jax.local_devices()[:1])
  base = stages_lib.load(
    given.workdir,
    step=given.step,
    size={name: given[name].value for name in ('frames', 'height', 'width', 'fps')},
    negative_prompt=given.negative_prompt,
    num_steps=given.steps,
    guidance_scale=given.guidance,
    guidance_rescale=given.guidance_rescale,
    eta=given.eta,
    sampler=given.sampler,
    spacing=given.spacing,
    **shared,
  )
  check_conditions(more, base)
  stages = [base]
  if given.refine_workdir:
    clip = dict(frames=base.bucket.frames, fps=base.bucket.fps)
    refinement = stages_lib.load(
      given.refine_workdir,
      size=clip | dict(height=given.refine_height, width=given.refine_width),
      num_steps=given.refine_steps,
      guidance_scale=given.refine_guidance,
      sampler=given.refine_sampler,
      levels=given.refine_levels,
      **shared,
    )
    stages.append(refinement)
  if given.list:
    part, num_parts = (int(number) for number in given.part.split('/'))
    stages_lib.make_list(stages, given.list, given.output, given.seed, part, num_parts, more)
  else:
    first = cast(PIL.Image.Image, image)
    stages_lib.make_video(stages, first, given.prompt, given.seed, given.output, more)


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


def check_conditions(more: Mapping[str, str], stage: stages_lib.Stage) -> None:
  """Raises ValueError for a flag of a signal that the model does not read."""
  own = {name for signal in stage.session.signals.values() for name in signal.flags}
  foreign = sorted((set(more) & set(conditions.flags())) - own)
  if foreign:
    raise ValueError(
      f'--{foreign[0]} is given, but this model is conditioned on {list(stage.session.signals)}: '
      'leave it out.'
    )


def check_flags(given: flags.FlagValues) -> None:
  """Checks the flags together, before anything is loaded.

  Raises:
    ValueError: neither or both of --list and (--image, --prompt), an --output that is a folder
      where a file is written, or an invalid --part.
  """
  single = given.image is not None and given.prompt is not None
  if (given.list is not None) == single or (given.list and (given.image or given.prompt)):
    raise ValueError('Give --image=FILE and --prompt=TEXT, or else --list=FILE.')
  if not given.list and epath.Path(given.output).is_dir():
    raise ValueError(f'--output={given.output} is a folder: name the mp4 to write.')
  part, _, num_parts = given.part.partition('/')
  if not (part.isdigit() and num_parts.isdigit() and int(part) < int(num_parts)):
    raise ValueError(f'--part={given.part} must be I/N with 0 <= I < N.')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Of the trained run.')
  flags.DEFINE_string('image', None, 'First frame: any picture file.')
  flags.DEFINE_string('prompt', None, 'What happens in the video.')
  for name, text in conditions.flags().items():
    flags.DEFINE_string(name, None, text)
  flags.DEFINE_multi_string('condition', [], 'NAME=VALUE for a condition of your own; repeatable.')
  flags.DEFINE_string('list', None, 'Of image|||caption lines, in place of --image and --prompt.')
  flags.DEFINE_string('part', '0/1', 'I/N: of a list only every Nth line, from the Ith.')
  flags.DEFINE_string('negative_prompt', None, "What should not; default the run's.")
  flags.DEFINE_string('output', None, 'mp4 to write; the folder of them with --list.')
  flags.DEFINE_enum('weights', 'ema', ['ema', 'raw'], 'Averaged or last weights.')
  flags.DEFINE_integer('step', None, 'Checkpoint; default the newest.')
  flags.DEFINE_integer('seed', 0, 'Of the start noise.')
  flags.DEFINE_integer('steps', None, "Of the sampler; default the run's.")
  flags.DEFINE_string('sampler', None, "ddim, dpmpp_2m, dpmpp_2m_sde, heun; default the run's.")
  flags.DEFINE_string('spacing', None, "leading, trailing, linspace; default the run's.")
  flags.DEFINE_float('guidance', None, "Guidance scale; default the run's.")
  flags.DEFINE_float('guidance_rescale', None, "0 to 1; default the run's.")
  flags.DEFINE_float('eta', None, "0 deterministic, 1 ancestral; default the run's.")
  flags.DEFINE_integer('frames', None, "Default the run's sampling bucket.")
  flags.DEFINE_float('fps', None, "To condition on and to play at; default the bucket's.")
  flags.DEFINE_integer('height', None, "Pixels; default the bucket's, at the image's aspect.")
  flags.DEFINE_integer('width', None, "Pixels; default the bucket's, at the image's aspect.")
  flags.DEFINE_string('refine_workdir', None, 'Of a trained refinement stage.')
  flags.DEFINE_integer('refine_steps', None, "Of its sampler; default the run's.")
  flags.DEFINE_string('refine_sampler', None, "Default the run's.")
  flags.DEFINE_float('refine_guidance', None, "Guidance scale; default the run's.")
  flags.DEFINE_integer('refine_levels', None, "Noise levels laid on and taken off; the run's.")
  flags.DEFINE_integer('refine_height', None, "Pixels; default its bucket's.")
  flags.DEFINE_integer('refine_width', None, "Pixels; default its bucket's.")
  cli.require('workdir', 'output')
  cli.run(main)
