"""The model card of an export: README.md, and the run's newest samples beside it.

The head is what huggingface.co reads: https://huggingface.co/docs/hub/model-cards.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import lora
from i2vgen_jax.pretrained import pipelines

# What a card says of the kinds of unet.conditioners that are ours.
CONDITIONS = {
  'first_frame_latents': "the first frame's latents, added to its noise",
  'fps': 'frames per second',
  'global_image_tokens': "the first frame's CLIP vector and a learned one of its latents",
  'image_latent_tokens': "the first frame's latents, as context tokens",
  'image_latents': "the first frame's latents, beside the noise",
  'image_tokens': "the first frame's CLIP vector",
  'last_frame': "the last frame's latents, beside the noise",
  'motion': 'how much moves',
  't5_text': 'the caption, by T5',
  'text': 'the caption, by CLIP',
}
# Kinds that read the first frame.
READ_IMAGE = set(CONDITIONS) - {'fps', 'last_frame', 'motion', 't5_text', 'text'}
CAPTION = 'waves roll onto a beach'
NEEDS = {
  'torch': 'torch safetensors numpy pillow',
  'diffusers': '"diffusers<0.36" "transformers<5" torch pillow',
  'peft': '"diffusers<0.36" "transformers<5" torch pillow peft',
}
SHEET = """
![Below each caption a real clip and what the run makes of its first frame](samples.png)
"""
CARD = """---
license: {license}
library_name: {library}
pipeline_tag: {task}
tags:
- i2vgen-xl
---

# {name}

A model of I2VGen-XL's kind ([arXiv 2311.04145](https://arxiv.org/abs/2311.04145)), by i2vgen_jax.
{sheet}
| | |
|---|---|
{table}

The licence has to fit what the weights were trained from and on: check it before you publish them.
{use}"""


def files(
  session: session_lib.Session,
  workdir: epath.PathLike,
  form: str,
  params: Any,
  step: int,
  weights: str = 'ema',
  licence: str = 'other',
) -> dict[str, bytes]:
  """Name -> content of README.md and of the pictures that it shows.

  Args:
    session: of the run.
    workdir: of the run.
    form: 'diffusers', 'torch', 'vgen' or 'peft'.
    params: of the U-Net, with its adapters unless they are merged.
    step: updates done.
    weights: 'ema' or 'raw'.
    licence: the card's field of that name, as the Hub spells it.
  """
  samples = _newest_samples(epath.Path(workdir) / 'samples')
  pictures = {
    ours: (samples / theirs).read_bytes()
    for ours, theirs in (('samples.png', 'contact_sheet.png'), ('first_frame.png', '00.png'))
    if samples is not None and (samples / theirs).exists()
  }
  caption = CAPTION
  if samples is not None and (samples / '00.txt').exists():
    caption = (samples / '00.txt').read_text().strip() or CAPTION
  kinds = {line['kind'] for line in session.config.unet.conditioners}
  task = 'image-to-video' if kinds & READ_IMAGE else 'text-to-video'
  rows = _rows(session, params, step, weights)
  sheet = SHEET if 'samples.png' in pictures else ''
  use = _use(session, form, caption, 'first_frame.png' in pictures)
  text = CARD.format(
    license=licence,
    library={'torch': 'pytorch', 'vgen': 'pytorch'}.get(form, form),
    task='video-to-video' if session.config.refine.levels else task,
    name=_title(epath.Path(workdir)),
    sheet=sheet,
    table='\n'.join(f'| {name} | {value} |' for name, value in rows.items()),
    use=use,
  )
  return {'README.md': text.encode()} | pictures


def _title(workdir: epath.Path) -> str:
  """The workdir's name; of one called run, as finetune makes them, its folder's."""
  return workdir.parent.name if workdir.name == 'run' and workdir.parent.name else workdir.name


def _newest_samples(folder: epath.Path) -> epath.Path | None:
  steps = sorted(folder.iterdir()) if folder.exists() else []
  return steps[-1] if steps else None


def _rows(session: session_lib.Session, params: Any, step: int, weights: str) -> dict[str, str]:
  """What the table says."""
  config, bucket = session.config, session.sample_bucket()
  sample, schedule = config.sample, config.schedule
  conditions = [CONDITIONS.get(line['kind'], line['kind']) for line in config.unet.conditioners]
  own = {name: block for name, block in params.items() if name != lora.KEY}
  num_parameters = sum(leaf.size for leaf in jax.tree.leaves(own))
  kind = 'averaged' if weights == 'ema' and config.train.ema_decay else 'of the last step'
  size = f'{bucket.frames} frames of {bucket.width}x{bucket.height} at {bucket.fps:g} fps'
  rows = {'makes': size, 'conditioned on': '; '.join(conditions)}
  if config.refine.levels:
    rows['refines'] = (
      f'videos of {config.refine.width}x{config.refine.height}, by {config.refine.levels} of '
      f'{schedule.num_timesteps} noise levels'
    )
  rows |= {
    'sampled by': f'{sample.sampler}, {sample.num_steps} steps, guidance {sample.guidance_scale:g}',
    'predicts': f'{config.loss.prediction_type}; noise schedule {schedule.kind}'
    + (', zero terminal SNR' if schedule.zero_terminal_snr else ''),
    'U-Net': f'{num_parameters:,} parameters{f", {kind}" if step else ""}',
  }
  if config.lora.rank:
    merged = '' if lora.KEY in params else ', merged'
    rows['adapters'] = f'LoRA of rank {config.lora.rank}, alpha {config.lora.alpha:g}{merged}'
  if step:
    shapes = ', '.join(
      f'{item.batch_size} x {item.frames} frames of {item.width}x{item.height}'
      for item in config.data.buckets.values()
    )
    rows['trained'] = f'{step:,} steps on {", ".join(config.data.directories)}: {shapes} a step'
  return rows


def _use(session: session_lib.Session, form: str, caption: str, has_frame: bool) -> str:
  """The section with code that runs in the folder as written."""
  if form == 'vgen':
    return '\nThe file is for VGen (github.com/ali-vilab/VGen): `test_model` of its config.\n'
  code = {'torch': _torch_code, 'diffusers': _diffusers_code, 'peft': _peft_code}[form]
  bucket = session.sample_bucket()
  image = "PIL.Image.open('first_frame.png')"
  if not has_frame:
    image = f"PIL.Image.new('RGB', ({bucket.width}, {bucket.height}))  # Or PIL.Image.open(...)"
  text = code(session, caption, image)
  return f'\n## Use\n\n```bash\npip install {NEEDS[form]}\n```\n\n```python\n{text}\n```\n'


def _torch_code(session: session_lib.Session, caption: str, image: str) -> str:
  config = session.config
  kinds = {line['kind'] for line in config.unet.conditioners}
  given = [repr(caption)] + ['image'] * bool(kinds & READ_IMAGE)
  given += ['last_image=image'] * ('last_frame' in kinds)
  lines = ['import sys', '', 'import PIL.Image', '', "sys.path.insert(0, '.')  # This folder."]
  lines += ['import modeling', '']
  lines += ["model = modeling.from_pretrained('.')", f'image = {image}']
  if config.refine.levels:
    lines += [f'small = image.resize(({config.refine.width}, {config.refine.height}))']
    lines += ["video = modeling.to_pixels(small).repeat(model.settings['frames'], 1, 1, 1)"]
    given += ['video=video']
  lines += [
    f'frames = [PIL.Image.fromarray(frame.numpy()) for frame in model.sample({", ".join(given)})]',
    _save(session),
  ]
  return '\n'.join(lines)


def _diffusers_code(session: session_lib.Session, caption: str, image: str) -> str:
  name = pipelines.name(session.config)
  load = [f"pipeline = diffusers.{name}.from_pretrained('.')"]
  return '\n'.join(_pipeline_code(session, caption, image, ['diffusers'], load))


def _peft_code(session: session_lib.Session, caption: str, image: str) -> str:
  name = pipelines.name(session.config)
  load = [
    f'base = {_base(session.config)!r}  # The folder of the model that the adapters learnt on.',
    f'pipeline = diffusers.{name}.from_pretrained(base)',
    "pipeline.unet = peft.PeftModel.from_pretrained(pipeline.unet, '.').merge_and_unload()",
  ]
  return '\n'.join(_pipeline_code(session, caption, image, ['diffusers', 'peft'], load))


def _base(config: ml_collections.ConfigDict) -> str:
  """The folder of the pipeline that `load` made the start of, if it is there."""
  path = epath.Path(config.start or '.') / 'config.json'
  if config.start and path.exists():
    folder = pathlib.Path(storage.read_json(path).get('tokenizer') or '.').parent.absolute()
    if (folder / 'model_index.json').exists():
      return str(folder)
  return 'BASE'


def _pipeline_code(
  session: session_lib.Session, caption: str, image: str, libraries: list[str], load: list[str]
) -> list[str]:
  config, bucket = session.config, session.sample_bucket()
  settings: dict[str, Any] = dict(
    num_inference_steps=config.sample.num_steps,
    guidance_scale=config.sample.guidance_scale,
    negative_prompt=config.negative_prompt,
  )
  size = dict(height=bucket.height, width=bucket.width, num_frames=bucket.frames)
  name, read = pipelines.name(config), [f'image = {image}']
  if name == 'I2VGenXLPipeline':
    second, settings = 'image', size | dict(target_fps=int(bucket.fps)) | settings
  elif name == 'TextToVideoSDPipeline':
    second, read = '', []
    settings = size | settings | dict(output_type='pil')
  else:  # Its strength is a share of all noise levels, and so of all steps.
    second = 'video'
    read += [f'video = [image.resize(({bucket.width}, {bucket.height}))] * {bucket.frames}']
    strength = config.refine.levels / config.schedule.num_timesteps
    settings['num_inference_steps'] = round(config.sample.num_steps / strength)
    settings |= dict(strength=strength, output_type='pil')
  arguments = [repr(caption), *filter(None, [second]), *_arguments(settings)]
  call = ['frames = pipeline(', *(f'  {argument},' for argument in arguments), ').frames[0]']
  imports = [f'import {library}' for library in (*libraries, 'PIL.Image')]
  return [*imports, '', *load, *read, *call, _save(session)]


def _arguments(settings: Mapping[str, Any]) -> list[str]:
  return [f'{name}={value!r}' for name, value in json.loads(json.dumps(settings)).items()]


def _save(session: session_lib.Session) -> str:
  duration = round(1000 / session.sample_bucket().fps)
  return (
    "frames[0].save('video.webp', save_all=True, append_images=frames[1:], "
    f'duration={duration}, loop=0)'
  )
