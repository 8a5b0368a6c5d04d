"""The model card of an export: what it says is the run's, and its code runs as written."""

import json
import re
import sys

import jax
import numpy as np
import PIL.Image
import pytest
import yaml

from i2vgen_jax import session as session_lib
from i2vgen_jax.exports import card, diffusers_folder, torch_folder
from i2vgen_jax.pretrained import frozen as frozen_lib
from tests.i2vgen_jax.exports.test_text_pipelines import text_config
from tests.i2vgen_jax.exports.test_torch_folder import with_bucket
from tests.i2vgen_jax.test_export import random_params, small_config

pytest.importorskip('torch')

ONE_LEVEL = dict(block_channels=(16,), attention_levels=(True,))


def made(config, form, workdir, folder, licence='apache-2.0'):
  """An export of random weights with its card; the card's text."""
  config.sample.num_steps = 2
  session = session_lib.build(with_bucket(config))
  inputs = session.smallest_unet_inputs()
  unet = random_params(jax.eval_shape(session.unet.init, jax.random.key(0), *inputs)['params'], 1)
  files = card.files(session, workdir, form, unet, 70, 'ema', licence)
  read_params = (random_params(frozen_lib.abstract(session.networks), 2) | {'unet': unet}).get
  if form == 'torch':
    torch_folder.export_torch(folder, session, read_params, files=files)
  else:
    diffusers_folder.export_diffusers(folder, config, read_params, files=files)
  return (folder / 'README.md').read_text()


@pytest.mark.parametrize('form', ['torch', 'diffusers'])
@pytest.mark.parametrize('levels', [None, 600, 0])
def test_the_code_of_a_card_runs_as_written(form, levels, tmp_path, monkeypatch):
  """Of an image-to-video model, a refinement, and a text-to-video model."""
  pytest.importorskip('diffusers')
  config = small_config(**ONE_LEVEL) if levels is None else text_config(levels, **ONE_LEVEL)
  text = made(config, form, tmp_path / 'run', tmp_path / 'out')
  [code] = re.findall('```python\n(.*?)```', text, re.DOTALL)
  monkeypatch.chdir(tmp_path / 'out')
  monkeypatch.setattr(sys, 'path', list(sys.path))
  monkeypatch.delitem(sys.modules, 'modeling', raising=False)
  exec(code, {})
  sys.modules.pop('modeling', None)
  with PIL.Image.open('video.webp') as video:
    assert (video.n_frames, video.size) == (4, (48, 32))


def test_a_card_says_what_the_run_is_and_shows_its_newest_samples(tmp_path):
  samples = tmp_path / 'my_run' / 'samples'
  for step in (10, 70):
    (samples / f'{step:08d}').mkdir(parents=True)
    for name in ('contact_sheet', '00'):
      pixels = np.full((8, 8, 3), step, np.uint8)
      PIL.Image.fromarray(pixels).save(samples / f'{step:08d}' / f'{name}.png')
    (samples / f'{step:08d}' / '00.txt').write_text(f"it's {step}\n")
  text = made(small_config(**ONE_LEVEL), 'torch', tmp_path / 'my_run', tmp_path / 'out', 'openrail')
  head = yaml.safe_load(text.split('---')[1])
  assert head['license'] == 'openrail' and head['pipeline_tag'] == 'image-to-video'
  for line in (
    '# my_run',
    '| makes | 4 frames of 48x32 at 8 fps |',
    '| sampled by | ddim, 2 steps, guidance 9 |',
    '| trained | 70 steps on videos: 1 x 4 frames of 48x32 a step |',
    '![Below each caption a real clip and what the run makes of its first frame](samples.png)',
    'model.sample("it\'s 70", image)',
  ):
    assert line in text, line
  assert 'the caption, by CLIP; the first frame' in text
  for name in ('samples.png', 'first_frame.png'):
    with PIL.Image.open(tmp_path / 'out' / name) as picture:
      assert picture.getpixel((0, 0)) == (70, 70, 70)


def test_a_card_tells_merged_adapters_averages_and_the_base(tmp_path):
  config = small_config(**ONE_LEVEL)
  config.lora.update(rank=2, alpha=2.0)
  config.start, config.train.ema_decay = str(tmp_path / 'weights'), 0.0
  session = session_lib.build(with_bucket(config))
  params = {'a': {'kernel': np.zeros((3, 4))}, 'lora': {'a': {'up': np.zeros(5)}}}

  def text(form, params, weights='ema'):
    found = card.files(session, tmp_path / 'my_style' / 'run', form, params, 7, weights)
    return found['README.md'].decode()

  alone, merged = text('peft', params), text('diffusers', {'a': params['a']})
  for each in (alone, merged):
    assert '# my_style\n' in each and '| U-Net | 12 parameters, of the last step |' in each
  assert '| LoRA of rank 2, alpha 2 |' in alone and "base = 'BASE'" in alone
  assert '| LoRA of rank 2, alpha 2, merged |' in merged
  session.config.train.ema_decay = 0.9
  assert '12 parameters, averaged' in text('peft', params)
  assert '12 parameters, of the last step' in text('peft', params, 'raw')
  for name, value in (
    ('weights/config', {'tokenizer': f'{tmp_path}/base/tokenizer'}),
    ('base/model_index', {}),
  ):
    path = tmp_path / f'{name}.json'
    path.parent.mkdir()
    path.write_text(json.dumps(value))
  assert f"base = '{tmp_path}/base'" in text('peft', params)
