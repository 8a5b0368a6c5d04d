"""docs/notebooks/finetune.ipynb runs from its first cell to its last, from a diffusers folder of a
small model to an adapter that diffusers loads."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import common
from i2vgen_jax import session as session_lib
from i2vgen_jax.exports import diffusers_folder
from i2vgen_jax.pretrained import frozen as frozen_lib
from tests import corpora, runs
from tests.i2vgen_jax.test_export import random_params, small_config

diffusers = pytest.importorskip('diffusers')

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'docs' / 'notebooks' / 'finetune.ipynb'
STEPS = 3
# The cells one after the other, as a kernel runs them; the last expression of each is shown.
KERNEL = """
import ast, json, sys
names = {'__name__': '__main__'}
for cell in json.load(open(sys.argv[1]))['cells']:
  if cell['cell_type'] == 'code':
    tree = ast.parse(''.join(cell['source']))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, 'cell', 'exec'), names)
    if last:
      print(eval(compile(ast.Expression(last.value), 'cell', 'eval'), names))
"""


def get_config():
  """The small model, which makes four frames of 32x32."""
  config = small_config(block_channels=(16,), attention_levels=(True,))
  config.data.buckets = dict(
    clips=common.bucket('video', 4, height=32, width=32, fps=8, batch_size=8)
  )
  config.sample.num_steps = 2
  return config


def write_pipeline(folder):
  """A diffusers folder of the small model, with random weights; returns them."""
  config = get_config()
  session = session_lib.build(config)
  key = jax.random.key(0)
  shapes = jax.eval_shape(session.unet.init, key, *session.smallest_unet_inputs())['params']
  params = dict(random_params(frozen_lib.abstract(session.networks), seed=2))
  params['unet'] = random_params(shapes, seed=1)
  diffusers_folder.export_diffusers(folder, config, params.get)


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
  """(folder of all, what the cells printed)."""
  folder = tmp_path_factory.mktemp('notebook')
  write_pipeline(folder / 'pipeline')
  corpora.write_folder(folder / 'clips', 6)
  config = f'from {__name__} import get_config\n'
  (folder / 'model.py').write_text(config)
  values = dict(
    WEIGHTS=folder / 'pipeline', MODEL=folder / 'model.py', CLIPS=folder / 'clips',
    OUTPUT=folder / 'out', STEPS=STEPS,
  )  # fmt: skip
  done = subprocess.run(
    [sys.executable, '-c', KERNEL, NOTEBOOK],
    cwd=runs.ROOT,
    env=runs.environment() | {name: str(value) for name, value in values.items()},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=1200,
  )
  assert done.returncode == 0, done.stdout[-4000:]
  return folder, done.stdout


def test_the_notebook_has_no_outputs_of_its_own():
  cells = json.loads(NOTEBOOK.read_text())['cells']
  assert not any(cell.get('outputs') or cell.get('execution_count') for cell in cells)


def test_the_notebook_trains_samples_and_exports(executed):
  folder, printed = executed
  rows = [json.loads(line) for line in (folder / 'out' / 'run' / 'metrics.jsonl').open()]
  assert rows[-1]['step'] == STEPS
  assert (folder / 'out' / 'run' / 'samples' / f'{STEPS:08d}' / 'contact_sheet.png').exists()
  assert "'adapter_model.safetensors'" in printed and 'PngImageFile' in printed


def test_diffusers_loads_the_adapter_on_the_folder_that_training_started_from(executed):
  folder, _ = executed
  torch = pytest.importorskip('torch')
  pytest.importorskip('peft')
  unet = diffusers.I2VGenXLUNet.from_pretrained(folder / 'pipeline', subfolder='unet')
  unet.load_attn_procs(str(folder / 'out' / 'adapter'))
  merged = diffusers.I2VGenXLUNet.from_pretrained(folder / 'out' / 'diffusers', subfolder='unet')
  before = diffusers.I2VGenXLUNet.from_pretrained(folder / 'pipeline', subfolder='unet')
  torch.manual_seed(0)
  inputs = dict(
    sample=torch.randn(1, 4, 2, 8, 8), timestep=torch.tensor([300]), fps=torch.tensor([8]),
    image_latents=torch.randn(1, 4, 2, 8, 8), image_embeddings=torch.randn(1, 1, 16),
    encoder_hidden_states=torch.randn(1, 5, 16),
  )  # fmt: skip
  with torch.no_grad():
    start, ours, theirs = (net.eval()(**inputs).sample for net in (before, merged, unet))
  scale = ours.abs().max()
  assert (ours - theirs).abs().max() < 1e-4 * scale
  assert (ours - start).abs().max() > 1e-6 * scale  # It was trained.
  named = safetensors.numpy.load_file(folder / 'out' / 'adapter' / 'adapter_model.safetensors')
  assert all(np.isfinite(value).all() for value in named.values())
