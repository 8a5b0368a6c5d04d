"""Writes the weights of a run, or of a folder of `load`, for PyTorch.

  python -m i2vgen_jax.export --workdir=DIR --format=diffusers --output=OUT
  python -m i2vgen_jax.export --workdir=DIR --format=torch --output=OUT
  python -m i2vgen_jax.export --workdir=DIR --format=vgen --output=i2vgen_xl_00010000.pth

As 'torch', OUT is any model that a config can name, with one modeling.py that needs torch and
safetensors alone. As 'diffusers', OUT is what `diffusers.I2VGenXLPipeline.from_pretrained` reads
(diffusers 0.35 with transformers 4): U-Net, VAE, CLIP towers, tokenizer, image processor and
scheduler; neither torch nor diffusers is needed to write it. As 'vgen', it is the U-Net alone,
{state_dict, step}, which VGen's loader takes with strict=True, as UNetSD_I2VGen or, of text alone,
UNetSD_SR600; this needs torch. LoRA adapters are merged, but 'torch' writes them beside the weights
with --lora=beside, and 'peft' writes them alone, for PEFT and for diffusers. A U-Net that the other
code cannot express is refused. Each has a model card, README.md; --license is a field of it.
"""

from absl import flags

from i2vgen_jax.process import cli, tables

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  flags.DEFINE_string('workdir', None, 'Workdir of the run to export.')
  formats = tables.names('i2vgen_jax/export.py', 'FORMATS')
  flags.DEFINE_enum('format', 'diffusers', formats, 'Layout of the output.')
  flags.DEFINE_string('output', None, 'Folder to write, or file for vgen; must not exist.')
  flags.DEFINE_enum(
    'weights', 'ema', ['ema', 'raw'], 'Averaged weights, or those of the last step.'
  )
  flags.DEFINE_string('license', 'other', "The model card's licence, as the Hub spells it.")
  flags.DEFINE_enum('lora', 'merged', ['merged', 'beside'], "Where adapters go, of 'torch'.")
  dtypes = tables.names('i2vgen_jax/export.py', 'DTYPES')
  flags.DEFINE_enum('dtype', 'float32', dtypes, 'Type of the tensors.')
  flags.mark_flags_as_required(['workdir', 'output'])
  cli.run(__file__)

import functools
import re

from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax import session as session_lib
from i2vgen_jax.exports import card, diffusers_folder, torch_folder, vgen_file
from i2vgen_jax.models import lora
from i2vgen_jax.pretrained import configs, frozen, peft, pipelines
from i2vgen_jax.process import output_folder
from i2vgen_jax.stored import run_config, trained

FORMATS = ('diffusers', 'torch', 'vgen', 'peft')
DTYPES = ('float32', 'float16', 'bfloat16')


def main() -> None:
  """Loads the run's weights and writes them, with a model card."""
  given = flags.FLAGS
  output_folder.check(given.output)  # Before minutes of loading.
  if not re.fullmatch(r'[a-z0-9][a-z0-9.-]*', given.license):
    raise ValueError(
      f'--license={given.license!r}: give the identifier of the Hub, such as apache-2.0, openrail '
      'or other.'
    )
  session = session_lib.open_run(given.workdir)
  config = session.config
  if given.lora == 'beside' and not (given.format == 'torch' and lora.is_used(config)):
    raise ValueError('--lora=beside is for --format=torch of a run with adapters: leave it out.')

  check(given.format, session)
  params, step = trained.load_params(given.workdir, session.abstract_params(), given.weights)
  run_config.check_grown(config, step, f'--workdir={given.workdir}')
  if given.format != 'peft' and given.lora == 'merged':
    params = lora.merge(params, config.lora.alpha)
  files = card.files(
    session, given.workdir, given.format, params, step, given.weights, given.license
  )
  adapters = dict(params).get(lora.KEY, {})
  params = {name: block for name, block in params.items() if name != lora.KEY}
  read_frozen = functools.cache(
    lambda: frozen.load(config, session.networks, session.mesh, given.workdir)
  )
  unet = [params]  # Let go of when it has been written.
  del params

  def read_params(network):
    return unet.pop() if network == 'unet' else read_frozen()[network]

  if given.format == 'peft':
    peft.export_peft(given.output, config, adapters, files)
    use = f'peft.PeftModel.from_pretrained(pipeline.unet, {given.output!r})'
  elif given.format == 'vgen':
    vgen_file.export_vgen(given.output, config, unet.pop(), step, given.dtype)
    storage.write_bytes(epath.Path(f'{given.output}.md'), files['README.md'])
    use = "VGen's test_model"
  elif given.format == 'torch':
    torch_folder.export_torch(given.output, session, read_params, given.dtype, adapters, files)
    use = f'modeling.from_pretrained({given.output!r})'
  else:
    diffusers_folder.export_diffusers(given.output, config, read_params, given.dtype, files)
    use = f'diffusers.{pipelines.name(config)}.from_pretrained({given.output!r})'
  print(f'Wrote {given.output}: {use}')
  print(f'To publish it: hf upload OWNER/NAME {given.output}')


def check(form: str, session: session_lib.Session) -> None:
  """Raises ValueError for a model that a format cannot express, before its weights are read."""
  if form == 'peft' and not lora.is_used(session.config):
    raise ValueError('--format=peft writes LoRA adapters, and this run has none: lora.rank is 0.')
  if form in ('diffusers', 'peft'):
    pipelines.unet_config(session.config)
  elif form == 'vgen':
    configs.check_vgen(session.config)
  elif form == 'torch':
    torch_folder.settings(session)
