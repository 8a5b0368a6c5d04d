"""Fine-tunes weights on a folder of clips, in one command.

  python -m i2vgen_jax.finetune --weights=FOLDER_OR_FILE --videos=DIR --output=DIR [--full]

--weights are a diffusers folder, VGen's .pth with the networks beside it (--vae, --text_encoder,
--image_encoder, --tokenizer), a folder of `load`, or a run. --videos are clip.mp4 beside clip.txt,
or any layout that `ingest` reads. It runs commands that you could run yourself, and prints each:

  ingest -> OUTPUT/corpus    load -> OUTPUT/weights    train -> OUTPUT/run
  export -> OUTPUT/adapter, for PEFT and diffusers, and OUTPUT/diffusers, a whole pipeline; of a
            model with other conditions than the release's OUTPUT/torch, for torch alone

Started again it goes on where it was. docs/finetune.md says what is chosen, and how to change it.
"""

from absl import flags

from i2vgen_jax.process import cli, tables

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  flags.DEFINE_string('weights', None, 'diffusers folder, U-Net file, folder of load, or run.')
  flags.DEFINE_string('videos', None, 'Clips with captions, in any layout that ingest reads.')
  flags.DEFINE_string('output', None, 'Folder of everything that is made.')
  flags.DEFINE_bool('full', False, 'Train all weights, not adapters (LoRA).')
  flags.DEFINE_enum('part', '', ['', 'spatial', 'temporal'], 'Layers that learn; default all.')
  flags.DEFINE_string('index', '', 'Index of OUTPUT/corpus: the part of it to train on.')
  flags.DEFINE_integer(
    'steps', 0, 'Steps of training; default by the number of clips.', lower_bound=0
  )
  flags.DEFINE_integer(
    'pixels', 0, "Pixels of a frame; default the weights', if they fit.", lower_bound=0
  )
  flags.DEFINE_multi_string('set', [], 'FIELD=VALUE of the config, as lora.rank=4; repeatable.')
  flags.DEFINE_string('model', 'configs/base.py', 'Config that says what model the weights are of.')
  for part in tables.names('i2vgen_jax/finetune.py', 'PARTS'):
    flags.DEFINE_string(part, '', f'File or folder of the {part}, beside a U-Net alone.')
  flags.mark_flags_as_required(['weights', 'videos', 'output'])
  cli.run(__file__)

import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax.pretrained import pipelines, sources
from i2vgen_jax.process import config_flag, output_folder, paths
from i2vgen_jax.stored import old_configs

HELD_OUT = 0.05  # Of the clips; one at least.
PARTS = ('vae', 'text_encoder', 'image_encoder', 'tokenizer')


def main() -> int:
  """Runs the commands one after the other; returns the first exit code that is not 0."""
  given = {name: flags.FLAGS[name].value for name in flags.FLAGS}
  start = find_start(given)
  code = 0
  for line in before_training(given, start):
    code = code or run(line)
  if not code:
    code = run(training(given, start, num_devices()))
  for line in [] if code else exports(given, fits_diffusers(given['output'])):
    code = code or run(line)
  if not code:
    print(f'Done: {given["output"]}/run/samples shows real and sampled clips side by side.')
  return code


def find_start(given: Mapping[str, Any]) -> epath.Path:
  """Where training starts: the weights themselves, or what `load` is to make of them.

  Raises:
    ValueError: weights or videos are not there, or a path cannot be part of a config's argument.
  """
  weights, output = epath.Path(given['weights']), epath.Path(given['output'])
  for name in ('weights', 'videos', 'index'):
    if given[name] and not epath.Path(given[name]).exists():
      raise ValueError(
        f'--{name}={given[name]} does not exist: check the path.{paths.hub_hint(given[name])}'
      )
  for name in ('weights', 'output', 'index'):
    if ',' in given[name]:
      raise ValueError(f'--{name}={given[name]} has a comma, which separates config arguments.')
  output_folder.check_writable(output)
  for item in given['set']:
    if '=' not in item:
      raise ValueError(f'--set={item} must be FIELD=VALUE, such as lora.rank=4.')
    field, _, value = item.partition('=')
    if not field.startswith(config_flag.OPEN):  # Of those the config of fine-tuning has others.
      config_flag.check_override(config_flag.load(given['model']), field, value)
  if any((weights / name).exists() for name in ('params', 'checkpoints')):
    return weights
  if (weights / 'model_index.json').exists():
    model = config_flag.load(given['model'])
    sources.check_sizes(weights, model, f'--model={given["model"]}')
    return output / 'weights'
  missing = [f'--{part}' for part in PARTS if not given[part]]
  if weights.is_dir() and not any(weights.glob('*.safetensors')):
    raise ValueError(
      f'--weights={weights} is no diffusers folder (model_index.json), folder of `load` (params/) '
      f'or run (checkpoints/). {storage.where_else(weights, "config.json")}'
    )
  if missing:
    raise ValueError(
      f'--weights={weights} is a U-Net alone: give the networks beside it, {", ".join(missing)}.'
    )
  return output / 'weights'


def before_training(given: Mapping[str, Any], start: epath.Path) -> list[list[str]]:
  """Command lines that make the corpus and the start, if they are not there.

  Args:
    given: flags.
    start: of `find_start`.
  """
  output = epath.Path(given['output'])
  corpus = [f'--input={given["videos"]}', f'--output={output / "corpus"}']
  lines = [python('-m', 'data_pipelines', 'ingest', *corpus, f'--validation_fraction={HELD_OUT}')]
  if start == output / 'weights' and not (start / 'params').exists():
    whole = (epath.Path(given['weights']) / 'model_index.json').exists()
    parts = [f'--{"pipeline" if whole else "unet"}={given["weights"]}']
    parts += [f'--{part}={given[part]}' for part in PARTS if given[part]]
    model = f'--config={given["model"]}'
    lines.append(python('-m', 'i2vgen_jax.load', model, *parts, f'--output={start}'))
  return lines


def training(given: Mapping[str, Any], start: epath.Path, devices: int) -> list[str]:
  """The command line of `train`.

  Args:
    given: flags.
    start: of `find_start`.
    devices: of this machine.
  """
  output = epath.Path(given['output'])
  arguments = dict(start=start, corpus=output / 'corpus', devices=devices, full=int(given['full']))
  arguments |= {name: given[name] for name in ('part', 'index', 'steps', 'pixels') if given[name]}
  argument = ','.join(f'{name}={value}' for name, value in arguments.items())
  return python(
    '-m',
    'i2vgen_jax.train',
    f'--config=configs/finetune.py:{argument}',
    f'--workdir={output / "run"}',
    *(f'--config.{item}' for item in given['set']),
  )


def fits_diffusers(output: Any) -> bool:
  """Whether the model of OUTPUT/run is one of diffusers': it has the release's conditions alone."""
  path = epath.Path(output) / 'run' / 'config.json'
  try:
    pipelines.unet_config(
      ml_collections.ConfigDict(old_configs.complete(storage.read_json(path), path))
    )
  except ValueError:
    return False
  return True


def exports(given: Mapping[str, Any], in_diffusers: bool = True) -> list[list[str]]:
  """Command lines of the exports that are not there yet.

  Args:
    given: flags.
    in_diffusers: of `fits_diffusers`; what does not fit is exported for torch alone.
  """
  output = epath.Path(given['output'])
  formats = dict(peft='adapter', diffusers='diffusers') if in_diffusers else dict(torch='torch')
  if given['full']:
    formats.pop('peft', None)
  workdir = f'--workdir={output / "run"}'
  return [
    python('-m', 'i2vgen_jax.export', workdir, f'--format={kind}', f'--output={output / name}')
    for kind, name in formats.items()
    if not (output / name).exists()
  ]


def python(*arguments: str) -> list[str]:
  """A command line of this interpreter."""
  return [sys.executable, *arguments]


def num_devices() -> int:
  """Devices of this machine, counted by a process that leaves them free again."""
  code = 'import jax; print(jax.local_device_count())'
  done = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, check=True)
  return int(done.stdout)


def run(line: Sequence[str]) -> int:
  """Runs a command to its end, through signals, which are for it; returns its exit code."""
  print(f'$ python {shlex.join(line[1:])}', flush=True)
  with subprocess.Popen(line) as child:
    # A terminal's Ctrl-C reaches the child by itself.
    handlers = {
      signal.SIGINT: lambda number, frame: None,
      signal.SIGTERM: lambda number, frame: child.send_signal(number),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
      return child.wait()
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)
