"""TransNetV2 computes what its authors' code does, and is loaded from their names.

golden/transnet.npz was recorded of the PyTorch port by golden/make_transnet.py.
"""

import jax
import numpy as np
import pytest
import safetensors.numpy

from i2vgen_jax.evaluation import shot_network
from i2vgen_jax.models import transnet
from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import tensors, transnet_names
from tests.golden import recorded
from tests.i2vgen_jax.models.test_golden import draw

NARROW = dict(width=2, hidden=8)


def draw_weights(shapes):
  """Weights by the port's names; variances are positive."""
  weights = {name: draw(name, shape) for name, shape in shapes.items() if shape}
  return {
    name: np.abs(value) + 0.5 if name.endswith('running_var') else value
    for name, value in weights.items()
  }


def film():
  """120 frames of two still pictures with noise, a dissolve in between: uint8 (120, 27, 48, 3)."""
  rng = np.random.default_rng(0)
  before, after = rng.uniform(0, 255, (2, 27, 48, 3))
  share_F = np.clip((np.arange(120) - 70) / 15, 0, 1)[:, None, None, None]
  noise = rng.normal(0, 8, (120, 27, 48, 3))
  return np.clip(before * (1 - share_F) + after * share_F + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """(file, tensors by the port's names) of the narrow network."""
  module = transnet.TransNetV2(**NARROW)
  frames = np.zeros((1, 100, 27, 48, 3), np.uint8)
  params = jax.eval_shape(module.init, jax.random.key(0), frames)['params']
  shapes = {
    transnet_names.name_of(path): tensors._torch_shape(path, leaf.shape)
    for path, leaf in sharding.by_path(params).items()
  }
  path = tmp_path_factory.mktemp('transnet') / 'weights.safetensors'
  drawn = draw_weights(shapes)
  counts = {'SDDCNN.0.DDCNN.0.bn.num_batches_tracked': np.zeros((), np.int64)}
  safetensors.numpy.save_file(drawn | counts, path)
  return str(path), drawn


def test_probabilities_are_those_of_the_authors_code(weights):
  path, drawn = weights
  golden = np.load(recorded.FOLDER / 'transnet.npz')
  assert sorted(golden['names'].tolist()) == sorted(drawn)
  network = shot_network.ShotNetwork(path, 2, transnet.TransNetV2(**NARROW))
  found = network(film())
  assert found.shape == (2, 120) and np.ptp(golden['probabilities']) > 0.05
  np.testing.assert_allclose(found, golden['probabilities'], atol=1e-5)


def test_weights_of_another_network_are_refused(weights, tmp_path):
  _, drawn = weights
  file = tmp_path / 'other.safetensors'
  safetensors.numpy.save_file({name: drawn[name] for name in list(drawn)[1:]}, file)
  with pytest.raises(ValueError, match='1 missing'):
    shot_network.ShotNetwork(str(file), 1, transnet.TransNetV2(**NARROW))
  with pytest.raises(ValueError, match='misshapen'):
    shot_network.ShotNetwork(weights[0], 1, transnet.TransNetV2(width=4, hidden=8))
