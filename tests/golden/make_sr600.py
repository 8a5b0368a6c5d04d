"""Records what VGen's own UNetSD_SR600 computes, for tests/i2vgen_jax/pretrained/test_sr600.py.

  git clone https://github.com/ali-vilab/VGen      # at 4014d1f
  python -m tests.golden.make_sr600 VGen tests/golden/sr600.npz

Its class is run as it is; what stands in for libraries is attention by torch and no checkpointing.
Weights follow from VGen's names, see tests/i2vgen_jax/models/test_golden.py. Arrays are in torch's
order.
"""

import contextlib
import json
import pathlib
import sys
import types

import numpy as np
import torch

from tests.i2vgen_jax.models.test_golden import draw

# Widths and depths: the released one at a tenth of its width, and one that compiles in seconds.
RELEASED = dict(
  dim=320, head_dim=64, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[1.0, 0.5, 0.25]
)
NARROW = RELEASED | dict(dim=32, head_dim=16)
MODELS = {
  'small': NARROW | dict(dim_mult=[1, 2], num_res_blocks=1, attn_scales=[1.0]),
  'deep': NARROW,
}
# (B, 4, F, h, w); heights 10 -> 6 and 18 -> 10 -> 6 -> 4.
SHAPES = {'small': (2, 4, 3, 10, 8), 'deep': (1, 4, 3, 18, 16)}


def load_class(folder):
  """UNetSD_SR600 out of a copy of VGen."""
  identity = lambda module, *_, **__: module  # noqa: E731
  attention = lambda q, k, v, **_: torch.nn.functional.scaled_dot_product_attention(q, k, v)  # noqa: E731
  for name, members in {
    'xformers': {},
    'xformers.ops': dict(memory_efficient_attention=attention),
    'open_clip': {},
    'rotary_embedding_torch': dict(RotaryEmbedding=None),
    'fairscale': {},
    'fairscale.nn': {},
    'fairscale.nn.checkpoint': dict(checkpoint_wrapper=identity),
  }.items():
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)
  sys.modules['xformers'].ops = sys.modules['xformers.ops']
  # Packages without their __init__, which would import all of VGen.
  for name in ('tools', 'tools.modules', 'tools.modules.unet'):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(pathlib.Path(folder, *name.split('.')))]
  sys.path.insert(0, str(folder))
  torch.Tensor.cuda = lambda tensor: tensor  # Its FreeU makes a mask on a GPU.
  with contextlib.redirect_stdout(sys.stderr):
    from tools.modules.unet.unet_sr600 import UNetSD_SR600
  return UNetSD_SR600


def build(cls, sizes):
  released = dict(in_dim=4, out_dim=4, y_dim=1024, context_dim=1024, num_heads=8, dropout=0.1)
  return cls(**released, **sizes).eval()


def record(model, shape):
  """Inputs, output, loss and gradient norms by name of VGen's tensors."""
  model.load_state_dict(
    {name: torch.from_numpy(draw(name, value.shape)) for name, value in model.state_dict().items()}
  )
  rng = np.random.default_rng(0)
  batch_size = shape[0]
  normal = lambda *dims: rng.standard_normal(dims).astype(np.float32)  # noqa: E731
  inputs = dict(
    x=normal(*shape), t=rng.integers(0, 1000, batch_size), y=normal(batch_size, 5, 1024)
  )
  target = normal(*shape)
  output = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
  loss = torch.mean((output - torch.from_numpy(target)) ** 2)
  loss.backward()
  norms = {name: value.grad.norm().item() for name, value in model.named_parameters()}
  return inputs | dict(
    target=target,
    output=output.detach().numpy(),
    loss=loss.item(),
    grad_keys=np.array(list(norms)),
    grad_norms=np.array(list(norms.values())),
  )


def main(folder, output):
  cls = load_class(folder)
  with torch.device('meta'):
    released = build(cls, RELEASED).state_dict()
  arrays = {'released': json.dumps({name: list(value.shape) for name, value in released.items()})}
  for name, sizes in MODELS.items():
    found = record(build(cls, sizes), SHAPES[name])
    arrays |= {f'{name}/{key}': value for key, value in found.items()}
  np.savez_compressed(output, **arrays)


if __name__ == '__main__':
  main(*sys.argv[1:])
