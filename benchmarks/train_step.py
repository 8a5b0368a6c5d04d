"""Our train step beside diffusers' I2VGenXLUNet in torch, eager and compiled; same model, batch
and update.

  python -m benchmarks.train_step [--rounds=9]
  python -m benchmarks.train_step --side=jax|torch|torch_compile --steps=10 [--size=base]
      [--batch=4] [--remat=block]            one of them alone, on an accelerator if there is one

Beside each other, each side is a process of its own with two threads (ours: two CPU devices of one
core each, as launch/quickstart.sh sets up, the batch split over them); one step of each in turn. A
step is forward, mean squared error, backward and AdamW, without dropout, conditioning given: at
--size=small of a U-Net of 64 and 128 channels on 8 frames of 8x8 latents in float32, at base of the
released one on 16 frames of 448x256 with products in bfloat16. Alone, a side prints a line of JSON;
--remat computes blocks twice in the backward pass, which is gradient checkpointing in torch.
"""

import argparse
import dataclasses

from benchmarks import side_by_side

SIDES = ('jax', 'torch', 'torch_compile')


@dataclasses.dataclass(frozen=True)
class Size:
  """A model and its batch; height and width are of the latents."""

  channels: tuple[int, ...]
  attention: tuple[bool, ...]
  head_dim: int
  groups: int
  layers: int
  context: int
  batch: int
  frames: int
  height: int
  width: int
  tokens: int
  dtype: str


SIZES = {
  'tiny': Size((32,), (True,), 32, 8, 1, 32, 2, 2, 8, 8, 4, 'float32'),
  'small': Size((64, 128), (True, True), 32, 32, 1, 64, 8, 8, 8, 8, 16, 'float32'),
  'base': Size(
    (320, 640, 1280, 1280), (True, True, True, False), 64, 32, 2, 1024, 4, 16, 32, 56, 77,
    'bfloat16',
  ),
}  # fmt: skip


def jax_step(size, remat='none'):
  """(() -> loss, one step of ours; its FLOPs as MFU counts them; () -> bytes at the peak)."""
  import jax
  import jax.numpy as jnp
  import optax

  from configs import common
  from i2vgen_jax import conditions
  from i2vgen_jax.models import unet3d
  from i2vgen_jax.parallel import flops
  from i2vgen_jax.parallel import mesh as mesh_lib

  unet = unet3d.UNet3D(
    conditions.read(common.CONDITIONERS),
    block_channels=size.channels,
    attention_levels=size.attention,
    layers_per_block=size.layers,
    head_dim=size.head_dim,
    norm_groups=size.groups,
    context_dim=size.context,
    dropout=0.0,
    remat=remat,
    dtype=jnp.dtype(size.dtype),
  )
  keys = jax.random.split(jax.random.key(0), 6)
  latents = jax.random.normal(keys[0], (size.batch, size.frames, size.height, size.width, 4))
  target = jax.random.normal(keys[1], latents.shape)
  timesteps = jnp.arange(size.batch) * 100
  conditioning = {
    'text': jax.random.normal(keys[2], (size.batch, size.tokens, size.context)),
    'image_embedding': jax.random.normal(keys[3], (size.batch, size.context)),
    'image_latents': jax.random.normal(keys[4], (size.batch, size.height, size.width, 4)),
    'fps': jnp.full((size.batch,), 8.0),
  }
  rule = optax.adamw(1e-4)
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1})
  whole = mesh_lib.replicated(mesh)

  def init():
    params = unet.init(keys[5], latents, timesteps, conditioning)['params']
    return params, rule.init(params)

  def step(state, latents, target, timesteps, conditioning):
    params, opt_state = state

    def loss(params):
      prediction = unet.apply({'params': params}, latents, timesteps, conditioning)
      return jnp.mean(jnp.square(prediction - target))

    value, grads = jax.value_and_grad(loss)(params)
    updates, opt_state = rule.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), value

  # Within the mesh, so that attention is chosen for its devices.
  jitted = jax.jit(mesh_lib.within(mesh, step), donate_argnums=0, out_shardings=(whole, whole))
  state = [jax.jit(init, out_shardings=whole)()]
  batch = jax.device_put((latents, target, timesteps, conditioning), mesh_lib.batch_sharding(mesh))
  variables = {'params': jax.eval_shape(init)[0]}

  def run():
    state[0], value = jitted(state[0], *batch)
    return float(value)

  def peak_bytes():
    return (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use', 0)

  num_flops = 3 * flops.count(unet.apply, variables, latents, timesteps, conditioning)
  return run, num_flops, peak_bytes


def torch_step(size, compiled, remat='none'):
  """(() -> loss, one step of diffusers'; None, its FLOPs being ours; () -> bytes at the peak)."""
  import diffusers
  import torch

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.set_num_threads(2)
  torch.manual_seed(0)
  unet = diffusers.I2VGenXLUNet(
    block_out_channels=size.channels,
    layers_per_block=size.layers,
    down_block_types=tuple('CrossAttnDownBlock3D' if a else 'DownBlock3D' for a in size.attention),
    up_block_types=tuple(
      'CrossAttnUpBlock3D' if a else 'UpBlock3D' for a in reversed(size.attention)
    ),
    cross_attention_dim=size.context,
    attention_head_dim=size.head_dim,
    num_attention_heads=None,
    norm_num_groups=size.groups,
  ).eval()  # Without dropout, as ours.
  unet.to(device)
  if remat != 'none':
    checkpoint_layers(unet)
  optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
  shape = (size.batch, 4, size.frames, size.height, size.width)
  latents, target, image_latents = torch.randn(3, *shape, device=device)
  arguments = dict(
    timestep=torch.arange(size.batch, device=device) * 100,
    fps=torch.full((size.batch,), 8, device=device),
    image_latents=image_latents,
    image_embeddings=torch.randn(size.batch, 1, size.context, device=device),
    encoder_hidden_states=torch.randn(size.batch, size.tokens, size.context, device=device),
  )
  model = torch.compile(unet) if compiled else unet
  half = size.dtype == 'bfloat16'

  def run():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16, enabled=half):
      prediction = model(latents, **arguments).sample
    loss = torch.mean(torch.square(prediction.float() - target))
    loss.backward()
    optimizer.step()
    return float(loss.detach())

  return run, None, torch.cuda.max_memory_allocated if device == 'cuda' else lambda: 0


def checkpoint_layers(unet):
  """Lets each layer of diffusers' U-Net, which has no switch for it, keep its input alone."""
  import functools

  from torch.utils import checkpoint

  for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
    for kind in ('resnets', 'temp_convs', 'attentions', 'temp_attentions'):
      for layer in getattr(block, kind, ()):
        layer.forward = functools.partial(checkpoint.checkpoint, layer.forward, use_reentrant=False)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--side', choices=SIDES)
  parser.add_argument('--steps', type=int, default=0, help='of one side alone; 0: in turn')
  parser.add_argument('--size', choices=SIZES, default='small')
  parser.add_argument('--batch', type=int, default=0, help='videos; 0: those of the size')
  parser.add_argument('--remat', choices=('none', 'block'), default='none')
  options = parser.parse_args()
  size = SIZES[options.size]
  if options.batch:
    size = dataclasses.replace(size, batch=options.batch)
  if options.side:
    if options.side == 'jax':
      step = jax_step(size, options.remat)
    else:
      step = torch_step(size, options.side == 'torch_compile', options.remat)
    if options.steps:
      side_by_side.alone(*step, options.steps, batch=size.batch)
    else:
      side_by_side.work(step[0])
  else:
    side_by_side.compare(
      ('-m', 'benchmarks.train_step', f'--size={options.size}', f'--batch={options.batch}',
       f'--remat={options.remat}'),
      SIDES,
      options.rounds,
      XLA_FLAGS='--xla_force_host_platform_device_count=2',
    )  # fmt: skip
