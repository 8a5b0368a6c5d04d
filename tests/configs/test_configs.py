"""Every shipped config builds, and the tiny form of its training takes a step; every mesh can
be."""

import functools
import importlib
import json
import math
import pathlib

import jax
import pytest

from configs import common, meshes, refine, refine_demo
from data_pipelines.corpus import buckets
from data_pipelines.index import command as index
from i2vgen_jax import session as session_lib
from i2vgen_jax import train
from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import frozen as frozen_lib
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
FILES = {path.stem for path in (ROOT / 'configs').glob('*.py')}
CONFIGS = {
  name: importlib.import_module(f'configs.{name}').get_config
  # What configs/finetune.py gives follows its arguments: test_finetune.py.
  for name in sorted(FILES - {'__init__', 'common', 'finetune', 'meshes'})
}
RELEASED, TEXT = 1_420_469_224, 1_411_233_860  # Parameters; the second are VGen's UNetSD_SR600's.
PARAMETERS = dict(
  t2v=TEXT,
  i2v=RELEASED,
  base=RELEASED,
  release=RELEASED,
  refine=TEXT,
  refine_hq=TEXT,
  sr600=TEXT,
  # Of the release's, global_image_tokens has the encoder of the latents, and CLIP's four tokens;
  # its first convolution has no channels of the image, whose adapter (3,780) is gone.
  paper_base=RELEASED - 3_780 - 4 * 9 * 320,
  base_t5=RELEASED + 4096 * 1024,
)
IMAGES = {'base', 'base_t5', 'demo', 'i2v', 'paper_base', 'scenes', 't2v'}


@functools.cache
def abstract(unet_json):
  """Shapes of the U-Net's parameters of a block config.unet, in a config that has all networks."""
  config = common.release()
  config.unet = json.loads(unet_json)
  config.t5 = common.t5('xxl')
  built = session_lib.build(config, reads_captions=False)
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(built.unet.init, key, *built.smallest_unet_inputs())['params']


def shapes(config):
  unet = json.loads(config.to_json())['unet'] | dict(row_margin=0, free_u=())  # No parameters.
  return abstract(json.dumps(unet, sort_keys=True))


@pytest.mark.parametrize('name', CONFIGS)
def test_config_round_trips_through_json(name):
  config = CONFIGS[name]()
  assert json.loads(config.to_json())['train']['num_steps'] == config.train.num_steps


@pytest.mark.parametrize('name', CONFIGS)
def test_every_bucket_is_one_that_can_be(name):
  config = CONFIGS[name]('images=1') if name == 'demo' else CONFIGS[name]()
  made = [buckets.Bucket(name=name, **fields) for name, fields in config.data.buckets.items()]
  assert all((bucket.fps == 1) == (bucket.media == 'image') for bucket in made)
  assert ('image' in [bucket.media for bucket in made]) == (name in IMAGES)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_session_of_the_config_takes_its_buckets_and_samples(name):
  built = session_lib.build(CONFIGS[name](), reads_captions=False)
  assert built.sample_bucket().media == 'video'  # Raises for a size that the model cannot take.
  assert set(built.networks) >= {'vae'}


@pytest.mark.parametrize('name', PARAMETERS)
def test_the_model_of_the_config_has_so_many_parameters(name):
  made = shapes(CONFIGS[name]())
  assert sum(leaf.size for leaf in jax.tree.leaves(made)) == PARAMETERS[name]


def test_a_stage_changes_no_part_of_the_model_that_it_takes_over():
  """Each link of the chain: what both have is of one shape, but for the first convolution."""
  for before, after in (
    ('t2v', 'i2v'), ('t2v', 'paper_base'), ('i2v', 'release'), ('i2v', 'refine'),
    ('paper_base', 'refine'), ('refine', 'refine_hq'),
  ):  # fmt: skip
    old, new = (sharding.by_path(shapes(CONFIGS[name]())) for name in (before, after))
    changed = {name for name in set(old) & set(new) if old[name].shape != new[name].shape}
    assert changed <= {'conv_in/kernel'}, (before, after)
    new_blocks = {name.partition('/')[0] for name in set(new) - set(old)}
    kinds = {line['kind'] for line in CONFIGS[after]().unet.conditioners}
    assert new_blocks <= kinds, (before, after)


def test_the_paper_trains_on_its_shares_of_frames_and_rates():
  """1:1:1:5 of 1, 8, 16 and 32 frames, 1:2:4:1 of 1, 4, 8 and 16 frames per second."""
  buckets_of = CONFIGS['paper_base']().data.buckets.values()
  total = sum(bucket.weight for bucket in buckets_of)

  def shares(field):
    found = {}
    for bucket in buckets_of:
      found[bucket[field]] = found.get(bucket[field], 0) + bucket.weight / total
    return found

  assert shares('frames') == pytest.approx({1: 1 / 8, 8: 1 / 8, 16: 1 / 8, 32: 5 / 8})
  assert shares('fps') == pytest.approx({1: 1 / 8, 4: 2 / 8, 8: 4 / 8, 16: 1 / 8})


def test_the_high_quality_part_is_an_index_of_the_refinements_corpus():
  hq, whole = CONFIGS['refine_hq']('corpus=gs://b/c'), CONFIGS['refine']('corpus=gs://b/c')
  assert (hq.data.index, whole.data.index) == ('gs://b/c/hq_index', 'gs://b/c/refine_index')
  assert hq.data.directories == whole.data.directories


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(set(CONFIGS) - {'base', 'refine_demo'}))
def test_a_shrunk_run_of_the_config_takes_a_step(name, demo_corpus, t5_tokenizer, tmp_path):
  """The config as shipped, with the sizes, corpora and frozen weights of the tiny one. (The demo's
  refinement is trained in test_stages.py.)"""
  config = tiny.shrunk(CONFIGS[name](), demo_corpus)
  if name == 'base_t5':
    config.t5 = tiny.t5(t5_tokenizer)
  if config.data.index:
    config.data.index = str(tmp_path / 'index')
    index.index(dict(config.data.directories), config.data.index)
  assert train.train(config, tmp_path / 'run') == 0


@pytest.fixture(scope='module')
def released():
  """Shapes of the released U-Net and of its frozen encoders."""
  config = CONFIGS['i2v']()
  built = session_lib.build(config, reads_captions=False)
  return shapes(config), frozen_lib.abstract(built.networks), config.sharding.min_elements


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


def test_the_refinement_takes_720_rows():
  built = session_lib.build(refine.get_config(), reads_captions=False)
  inputs = built.unet_inputs(frames=2, height=720, width=1280)  # 90 -> 45 -> 23 -> 12.
  params = shapes(built.config)
  output = jax.eval_shape(built.unet.apply, {'params': params}, *inputs)
  assert output.shape == (1, 2, 90, 160, 4)


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
  with pytest.raises(ValueError, match='must be a whole number'):
    common.parse_arg('steps=many', steps=3)


def test_the_demo_warms_up_for_no_more_steps_than_it_has():
  for steps, warmup in ((3, 3), (320, 20)):
    assert CONFIGS['demo'](f'steps={steps}').optimizer.warmup_steps == warmup


def test_the_demos_refinement_takes_the_autoencoder_of_a_folder(tmp_path):
  fields = dict(block_channels=(8, 16, 32, 64), scaling_factor=2.0)
  (tmp_path / 'vae.json').write_text(json.dumps(fields))
  taken = refine_demo.get_config(f'vae={tmp_path}').vae
  assert taken.model.block_channels == (8, 16, 32, 64) and taken.scaling_factor == 2.0
  assert taken.weights == f'{tmp_path}/vae.safetensors'
  with pytest.raises(ValueError, match='vae=nowhere has no vae.json: .*train_vae makes it'):
    refine_demo.get_config('vae=nowhere')
