"""Makes runs of an earlier version, with what it made of them, for test_old_workdirs.py.

  git worktree add --detach OLD 93877d3
  cd OLD && PYTHONPATH=. python ../tests/golden/make_workdirs.py ../tests/golden/workdirs.tar.xz

The archive holds folders that name one another by relative paths, to be used from within:

  corpus/{videos,images}/   an ingested demo corpus of 32x32 pixels
  base/                     a run of configs/demo.py at its smallest, stopped at step 3 of 6
  refine/                   one of configs/refine_demo.py that started from base/, step 1 of 2
  cache/, cached/           what precompute made of the corpus; a run from it, step 2 of 4
  expected/                 the same version's losses and norms of each run's remaining steps, the
                            videos that it sampled, and digests of the tensors that it exported
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

import numpy as np

# Where each run was stopped, and where it ends.
STOPS = dict(base=(3, 6), refine=(1, 2), cached=(2, 4))
# Frozen networks of weights='random' are drawn from this; today's runs would draw others, so that
# a run goes on only with those of its workdir.
FROZEN_SEED = 7
TOWER = dict(hidden_size=8, intermediate_size=16, num_layers=2, num_heads=2)


def base():
  """configs/demo.py with a U-Net of one level and frozen networks of a few thousand weights."""
  from configs import demo

  return shrink(demo.get_config('corpus=corpus'), 'base')


def refine():
  """configs/refine_demo.py likewise, of text alone, from the base run."""
  from configs import refine_demo

  config = shrink(refine_demo.get_config('corpus=corpus'), 'refine')
  config.start = 'base'
  config.data.buckets.videos.update(height=64, width=64)
  config.refine.update(height=32, width=32)
  return config


def cached():
  """The base run's config, from a cache, without the largest of its conditioners."""
  config = shrink(base(), 'cached')
  config.data.cache = 'cache'
  config.unet.conditioners = tuple(
    line for line in config.unet.conditioners if line['kind'] != 'image_latent_tokens'
  )
  return config


CONFIGS = dict(base=base, refine=refine, cached=cached)


def shrink(config, name):
  """Sets every size of a config as small as it gets."""
  config.unet.update(
    block_channels=(4,),
    attention_levels=(True,),
    head_dim=2,
    norm_groups=2,
    context_dim=8,
  )
  config.vae.weights = config.text_encoder.weights = config.image_encoder.weights = 'random'
  config.vae.model.update(block_channels=(4, 4, 4, 4), norm_groups=2)
  config.text_encoder.model.update(TOWER)
  config.image_encoder.model.update(TOWER, projection_dim=8)
  for bucket in config.data.buckets.values():
    bucket.update(height=32, width=32, batch_size=2, weight=1.0)
  config.data.buckets.videos.frames = 4
  config.data.update(num_threads=1, sandbox=False)
  config.optimizer.update(kind='adamw', warmup_steps=1)
  config.train.update(num_steps=STOPS[name][1], log_every=1, sample_every=0, tensorboard=False)
  config.train.update(eval_every=3 if name == 'base' else 0, num_eval_examples=2)
  config.compilation.cache = ''
  config.sample.update(num_steps=2)
  return config


def sample_arguments(stages, output):
  """Arguments of `sample` for a video of the first picture of expected/, by one or two runs."""
  base_run, *refinements = stages
  return [
    '-m', 'i2vgen_jax.sample', f'--workdir={base_run}', '--image=expected/image.png',
    *(f'--refine_workdir={run}' for run in refinements),
    '--prompt=a red circle moves left', f'--output={output}',
  ]  # fmt: skip


# File -> the runs whose stages make it.
SAMPLES = {'base.mp4': ('base',), 'refine.mp4': ('base', 'refine')}
# File -> (run, format).
EXPORTS = {'diffusers': ('base', 'diffusers'), 'vgen.pth': ('base', 'vgen')}


def export_arguments(run, kind, output):
  """Arguments of `export`."""
  return ['-m', 'i2vgen_jax.export', f'--workdir={run}', f'--format={kind}', f'--output={output}']


def metrics(workdir):
  """Step -> its numbers that do not depend on the machine, to rounding."""
  names = ('loss', 'grad_norm', 'eval_loss', 'num_bad_samples', 'bucket')
  found = {}
  for line in (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines():
    row = json.loads(line)
    kept = {name: row[name] for name in names if name in row}
    found.setdefault(row['step'], {}).update(kept)
  return found


def norms(workdir, step):
  """Part of a checkpoint's state -> Euclidean norm of all its numbers."""
  import jax
  from orbax.checkpoint import v1 as ocp

  state = ocp.load_checkpointables(pathlib.Path(workdir).absolute() / 'checkpoints' / str(step))
  found = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(state['state'])[0]:
    part = str(getattr(path[0], 'key', path[0]))
    square = float(np.sum(np.square(np.asarray(leaf, np.float64))))
    found[part] = found.get(part, 0.0) + square
  return {part: square**0.5 for part, square in found.items()}


def digests(output):
  """Digest of every tensor of an exported folder or file; of a folder's other files too."""
  output = pathlib.Path(output)
  found = {}
  if output.is_file():
    import torch

    content = torch.load(output, weights_only=True)
    arrays = {name: tensor.numpy() for name, tensor in content['state_dict'].items()}
    arrays['step'] = np.int64(content['step'])
    return {name: _digest(array) for name, array in arrays.items()}
  import safetensors.numpy

  for path in sorted(output.rglob('*')):
    name = path.relative_to(output).as_posix()
    if path.suffix == '.safetensors':
      tensors = safetensors.numpy.load_file(path)
      found |= {f'{name}:{key}': _digest(value) for key, value in tensors.items()}
    elif path.is_file():
      found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
  return found


def _digest(array):
  described = f'{array.dtype} {array.shape} '.encode()
  return hashlib.sha256(described + np.ascontiguousarray(array).tobytes()).hexdigest()[:12]


def main(output):
  """Makes all of it in a temporary folder, and packs it."""
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
  os.environ['PYTHONPATH'] = os.getcwd()
  output = pathlib.Path(output).absolute()
  with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as compiled:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = compiled
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'
    os.chdir(folder)
    make_corpus()
    expected = {name: make_run(name) for name in STOPS}
    expected['exports'] = make_outputs()
    pathlib.Path('expected/expected.json').write_text(json.dumps(expected, indent=1))
    with tarfile.open(output, 'w:xz') as tar:
      for name in ('corpus', 'base', 'refine', 'cached', 'cache', 'expected'):
        tar.add(name)
  print(f'{output}: {output.stat().st_size:,} bytes')


def make_corpus():
  """corpus/, and the picture that videos are sampled from."""
  from PIL import Image

  from data_pipelines import demo_corpus, ingest

  demo_corpus.write('source', num_videos=6, num_validation=2, num_images=4, size=32)
  for name, part in (('videos', 'webvid'), ('images', 'images')):
    ingest.ingest(f'source/{part}', f'corpus/{name}', num_processes=1)
  picture, _, _ = demo_corpus.render_image(np.random.default_rng(0), size=32)
  pathlib.Path('expected').mkdir()
  Image.fromarray(picture).save('expected/image.png')


def make_run(name):
  """A stopped run, and the numbers of its other steps, which are done in a copy."""
  from i2vgen_jax import components, precompute, train

  components.RANDOM_SEED = FROZEN_SEED
  config = CONFIGS[name]()
  if config.data.cache:
    plain = config.copy_and_resolve_references()
    plain.data.cache = ''
    precompute.precompute(plain, config.data.cache, fps=8.0, max_frames=8)
  stop_at, num_steps = STOPS[name]
  with config.unlocked():
    config.train.stop_at = stop_at
  assert train.train(config, name) == 0
  shutil.copytree(name, f'{name}_finished')
  config.train.stop_at = 0
  assert train.train(config, f'{name}_finished') == 0
  later = {
    step: row for step, row in metrics(f'{name}_finished').items() if stop_at < step <= num_steps
  }
  return dict(metrics=later, norms=norms(f'{name}_finished', num_steps))


def make_outputs():
  """Videos into expected/; digests of the exports."""
  for name, stages in SAMPLES.items():
    arguments = sample_arguments(stages, f'expected/{name}')
    subprocess.run([sys.executable, *arguments], check=True)
  found = {}
  for name, (run, kind) in EXPORTS.items():
    subprocess.run([sys.executable, *export_arguments(run, kind, name)], check=True)
    found[name] = digests(name)
  return found


if __name__ == '__main__':
  main(*sys.argv[1:])
