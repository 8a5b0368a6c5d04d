"""Our train step beside diffusers' I2VGenXLUNet in torch, eager and compiled; same model, batch
and update.

  python -m benchmarks.train_step [--rounds=9]

Each side is a process of its own with two threads and float32 (ours: two CPU devices of one core
each, as launch/quickstart.sh sets up, the batch split over them); one step of each in turn. A step
is forward, mean squared error, backward and AdamW on one small U-Net (block_channels 64, 128; 8
frames of 8x8 latents; batch 8) without dropout, conditioning given.
"""

import argparse

from benchmarks import side_by_side

SIDES = ('jax', 'torch', 'torch_compile')
CHANNELS, HEAD_DIM, GROUPS, LAYERS, CONTEXT = (64, 128), 32, 32, 1, 64
BATCH, FRAMES, SIDE, TOKENS = 8, 8, 8, 16


def jax_step():
  """() -> loss, one step of ours."""
  import jax
  import jax.numpy as jnp
  import optax

  from configs import common
  from i2vgen_jax import conditions
  from i2vgen_jax.models import unet3d
  from i2vgen_jax.parallel import mesh as mesh_lib

  unet = unet3d.UNet3D(
    conditions.read(common.CONDITIONERS),
    block_channels=CHANNELS,
    attention_levels=(True,) * len(CHANNELS),
    layers_per_block=LAYERS,
    head_dim=HEAD_DIM,
    norm_groups=GROUPS,
    context_dim=CONTEXT,
    dropout=0.0,
  )
  keys = jax.random.split(jax.random.key(0), 6)
  latents = jax.random.normal(keys[0], (BATCH, FRAMES, SIDE, SIDE, 4))
  target = jax.random.normal(keys[1], latents.shape)
  timesteps = jnp.arange(BATCH) * 100
  conditioning = {
    'text': jax.random.normal(keys[2], (BATCH, TOKENS, CONTEXT)),
    'image_embedding': jax.random.normal(keys[3], (BATCH, CONTEXT)),
    'image_latents': jax.random.normal(keys[4], (BATCH, SIDE, SIDE, 4)),
    'fps': jnp.full((BATCH,), 8.0),
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

  jitted = jax.jit(step, donate_argnums=0, out_shardings=(whole, whole))
  state = [jax.jit(init, out_shardings=whole)()]
  batch = jax.device_put((latents, target, timesteps, conditioning), mesh_lib.batch_sharding(mesh))

  def run():
    state[0], value = jitted(state[0], *batch)
    return float(value)

  return run


def torch_step(compiled):
  """() -> loss, one step of diffusers'."""
  import diffusers
  import torch

  torch.set_num_threads(2)
  torch.manual_seed(0)
  unet = diffusers.I2VGenXLUNet(
    block_out_channels=CHANNELS,
    layers_per_block=LAYERS,
    down_block_types=('CrossAttnDownBlock3D',) * len(CHANNELS),
    up_block_types=('CrossAttnUpBlock3D',) * len(CHANNELS),
    cross_attention_dim=CONTEXT,
    attention_head_dim=HEAD_DIM,
    num_attention_heads=None,
    norm_num_groups=GROUPS,
  ).eval()  # Without dropout, as ours.
  optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
  latents, target, image_latents = torch.randn(3, BATCH, 4, FRAMES, SIDE, SIDE)
  arguments = dict(
    timestep=torch.arange(BATCH) * 100,
    fps=torch.full((BATCH,), 8),
    image_latents=image_latents,
    image_embeddings=torch.randn(BATCH, 1, CONTEXT),
    encoder_hidden_states=torch.randn(BATCH, TOKENS, CONTEXT),
  )
  model = torch.compile(unet) if compiled else unet

  def run():
    optimizer.zero_grad(set_to_none=True)
    loss = torch.mean(torch.square(model(latents, **arguments).sample - target))
    loss.backward()
    optimizer.step()
    return float(loss.detach())

  return run


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--side', choices=SIDES)
  options = parser.parse_args()
  if options.side:
    compiled = options.side == 'torch_compile'
    side_by_side.work(jax_step() if options.side == 'jax' else torch_step(compiled))
  else:
    side_by_side.compare(
      ('-m', 'benchmarks.train_step'),
      SIDES,
      options.rounds,
      XLA_FLAGS='--xla_force_host_platform_device_count=2',
    )
