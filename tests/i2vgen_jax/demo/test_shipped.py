"""The model that is shipped with the code: builtin:demo."""

import pathlib

import numpy as np
import PIL.Image
import pytest
from absl import flags

from i2vgen_jax.demo import shipped
from i2vgen_jax.process import cli, paths
from i2vgen_jax.sampling import stages

DEMO = paths.ROOT / 'i2vgen_jax' / 'demo'


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """A user's cache, in which the model is unpacked."""
  folder = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(folder))
    yield pathlib.Path(shipped.folder('builtin:demo'))


def test_all_that_is_shipped_is_small():
  sizes = {path.name: path.stat().st_size for path in DEMO.rglob('*.safetensors')}
  assert set(sizes) == {f'{part}.safetensors' for part in (*shipped.NETWORKS, 'vae')}
  assert sum(path.stat().st_size for path in DEMO.rglob('*') if path.is_file()) <= 12e6


def test_it_is_unpacked_once(cache):
  assert cache.name == 'demo' and cache.parent.parent.name == 'i2vgen_jax'
  before = (cache / 'config.json').stat().st_mtime_ns
  assert shipped.folder('builtin:demo') == str(cache)
  assert (cache / 'config.json').stat().st_mtime_ns == before


def test_it_goes_on_from_a_picture(cache):
  """Two steps of sampling: the first frame is near the picture, as noise is not."""
  stage = stages.load(cache, num_steps=2)
  picture = PIL.Image.new('RGB', (64, 64), (200, 190, 180))
  video = stage.run(picture, 'a red circle moves left', seed=0)
  assert video.shape == (8, 64, 64, 3) and video.dtype == np.uint8
  assert np.abs(video[0].astype(float) - np.asarray(picture)).mean() < 40


def test_its_name_stands_for_the_folder_in_lists_and_arguments_of_configs(cache):
  found = flags.FlagValues()
  flags.DEFINE_multi_string('workdir', None, '', flag_values=found)
  flags.DEFINE_string('weights', None, '', flag_values=found)
  found(['', '--workdir=builtin:demo', '--workdir=other', '--weights=builtin:demo'])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(flags, 'FLAGS', found)
    cli.unpack_shipped()
  assert found.workdir == [str(cache), 'other'] and found.weights == str(cache)
  for before in ('--config=', ''):  # Or the flag is a word of its own.
    word = before + 'configs/finetune.py:start=builtin:demo,steps=9'
    assert cli.unpack_argument(word) == before + f'configs/finetune.py:start={cache},steps=9'
  with pytest.raises(ValueError, match='builtin:none is unknown'):
    cli.unpack_argument('--config=configs/finetune.py:start=builtin:none')


def test_another_name_is_refused():
  with pytest.raises(ValueError, match='builtin:none is unknown; known: builtin:demo'):
    shipped.folder('builtin:none')
