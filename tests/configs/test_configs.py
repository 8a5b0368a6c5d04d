"""Every shipped config builds, and the tiny form of its training takes a step; every mesh can
be."""

import json
import math
import pathlib

import jax
import pytest

from configs import base, base_t5, common, demo, meshes, refine, refine_demo, sr600
from data_pipelines.corpus import buckets
from data_pipelines.index import command as index
from i2vgen_jax import frozen as frozen_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax import train
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = {
  'base': base.get_config,
  'base_t5': base_t5.get_config,
  'demo': demo.get_config,
  'refine': refine.get_config,
  'refine_demo': refine_demo.get_config,
  'sr600': sr600.get_config,
}


def test_every_config_file_is_covered():
  files = {path.stem for path in (ROOT / 'configs').glob('*.py')}
  # What configs/finetune.py gives follows its arguments: test_finetune.py.
  assert files - {'__init__', 'common', 'finetune', 'meshes'} == set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
def test_config_round_trips_through_json(name):
  config = CONFIGS[name]()
  assert json.loads(config.to_json())['train']['num_steps'] == config.train.num_steps


@pytest.mark.parametrize('name', CONFIGS)
def test_every_bucket_is_one_that_can_be(name):
  config = CONFIGS[name]('images=1') if name == 'demo' else CONFIGS[name]()
  made = [buckets.Bucket(name=name, **fields) for name, fields in config.data.buckets.items()]
  assert all((bucket.fps == 1) == (bucket.media == 'image') for bucket in made)
  assert ('image' in [bucket.media for bucket in made]) == (name in ('base', 'base_t5', 'demo'))


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in CONFIGS if name != 'refine_demo'])
def test_a_shrunk_run_of_the_config_takes_a_step(name, demo_corpus, t5_tokenizer, tmp_path):
  """The config as shipped, with the sizes, corpora and frozen weights of the tiny one. (The demo's
  refinement is trained in test_stages.py.)"""
  config, small = CONFIGS[name](), tiny.get_config(demo_corpus, num_steps=1)
  sizes = ('block_channels', 'attention_levels', 'layers_per_block', 'head_dim', 'norm_groups')
  for field in (*sizes, 'temporal_in_heads', 'context_dim'):
    config.unet[field] = small.unet[field]
  for block in ('vae', 'text_encoder', 'image_encoder', 'tokenizer', 'train', 'mesh', 'sharding'):
    config[block] = small[block]
  if name == 'base_t5':
    config.t5 = tiny.t5(t5_tokenizer)
  config.data.directories = small.data.directories
  if config.data.index:
    config.data.index = str(tmp_path / 'index')
    index.index(dict(small.data.directories), config.data.index)
  config.data.buckets = small.data.buckets
  config.sample.bucket = 'videos'
  config.optimizer.warmup_steps = 0
  assert train.train(config, tmp_path / 'run') == 0


def test_base_config_is_the_released_model():
  config = base.get_config()
  config.tokenizer = str(ROOT / demo.DEMO / 'tokenizer')
  config.text_encoder.model.vocab_size = 856
  config.text_encoder.model.max_length = 16
  built = session_lib.build(config)
  mesh = mesh_lib.make_mesh(dict(data=8, fsdp=1, tensor=1))
  shapes = jax.tree.leaves(built.on(mesh).abstract_params())
  assert sum(leaf.size for leaf in shapes) == 1_420_469_224


@pytest.fixture(scope='module')
def released():
  """Shapes of the released U-Net and of its frozen encoders."""
  config = base.get_config()
  config.tokenizer = str(ROOT / demo.DEMO / 'tokenizer')
  config.text_encoder.model.update(vocab_size=856, max_length=16)
  built = session_lib.build(config)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(built.unet.init, key, *built.smallest_unet_inputs())['params']
  return params, frozen_lib.abstract(built.networks), config.sharding.min_elements


@pytest.mark.parametrize('name', [name for name in meshes.MESHES if '-' in name])
def test_the_released_model_divides_over_every_shipped_mesh(name, released):
  params, frozen, min_elements = released
  sizes = meshes.get(name)
  mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
  sharding.shard_tree(frozen, mesh, min_elements)  # Raises if one does not.
  placed = sharding.shard_tree(params, mesh, min_elements)
  per_device = sum(
    math.prod(place.shard_shape(leaf.shape))
    for leaf, place in zip(jax.tree.leaves(params), jax.tree.leaves(placed), strict=True)
  )
  # What stays whole on each device, being small, is a small part.
  assert per_device < 1_420_469_224 / sizes['fsdp'] + 6_000_000


def test_refine_config_is_the_base_model_without_its_image_and_fps():
  config = refine.get_config()
  config.tokenizer = str(ROOT / demo.DEMO / 'tokenizer')
  config.text_encoder.model.update(vocab_size=856, max_length=16)
  built = session_lib.build(config)
  inputs = built.unet_inputs(frames=2, height=720, width=1280)  # 90 -> 45 -> 23 -> 12.
  key = jax.eval_shape(lambda: jax.random.key(0))
  output, variables = jax.eval_shape(built.unet.init_with_output, key, *inputs)
  assert output.shape == (1, 2, 90, 160, 4)
  # VGen's UNetSD_SR600, which is the same trunk.
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 1_411_233_860


def test_context_is_split_off_data_or_else_fsdp():
  assert meshes.get('v5p-128', context=2) == dict(slice=1, data=8, fsdp=4, context=2, tensor=1)
  assert meshes.get('v6e-64', context=4) == dict(slice=1, data=1, fsdp=16, context=4, tensor=1)
  assert meshes.get('fsdp', context=2)['fsdp'] == -1
  with pytest.raises(ValueError, match='context=3 divides neither data nor fsdp'):
    meshes.get('v5p-128', context=3)
  assert refine.get_config('mesh=v5p-128,context=2').mesh.context == 2


def test_unknown_mesh_and_argument_list_the_known_ones():
  with pytest.raises(ValueError, match='v5e-256'):
    meshes.get('v5e-255')
  with pytest.raises(ValueError, match='known: corpus'):
    common.parse_arg('corpse=x', corpus='')
  with pytest.raises(ValueError, match='must be a int'):
    common.parse_arg('steps=many', steps=3)


def test_the_demos_refinement_takes_the_autoencoder_of_a_folder(tmp_path):
  fields = dict(block_channels=(8, 16, 32, 64), scaling_factor=2.0)
  (tmp_path / 'vae.json').write_text(json.dumps(fields))
  taken = refine_demo.get_config(f'vae={tmp_path}').vae
  assert taken.model.block_channels == (8, 16, 32, 64) and taken.scaling_factor == 2.0
  assert taken.weights == f'{tmp_path}/vae.safetensors'
  with pytest.raises(ValueError, match='vae=nowhere has no vae.json: .*train_vae makes it'):
    refine_demo.get_config('vae=nowhere')
