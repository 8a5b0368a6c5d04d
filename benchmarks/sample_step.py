"""One denoising step of ours beside diffusers' I2VGenXLUNet in torch, guided, halves batched.

  python -m benchmarks.sample_step [--rounds=9]

A U-Net of mid size (block_channels 128, 256, 256; 8 frames of 16x16 latents), the same config on
both sides, float32, conditioning given. Both live in one process and take turns, so that whatever
else the machine does meets both. Printed are medians over rounds, of processor time, which a busy
machine changes least, and of the clock.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import I2VGenXLUNet

from configs import common
from i2vgen_jax import components
from i2vgen_jax.diffusion import guidance
from i2vgen_jax.pretrained import configs

FRAMES, SIDE, CONTEXT, TOKENS, SCALE = 8, 16, 64, 16, 9.0


def make_config():
  """The demo-like model of the middle."""
  config = common.release()
  config.dtype = 'float32'
  config.tokenizer = 'i2vgen_jax/demo/tokenizer'
  config.unet.update(
    block_channels=(128, 256, 256), attention_levels=(True, True, False), layers_per_block=1,
    head_dim=32, context_dim=CONTEXT, remat='none',
  )  # fmt: skip
  config.text_encoder.model.update(vocab_size=856, hidden_size=CONTEXT, max_length=TOKENS)
  config.image_encoder.model.update(projection_dim=CONTEXT)
  return config


def jax_step(config):
  """() -> guided prediction of ours."""
  unet = components.build(config).unet
  draw = np.random.default_rng(0).standard_normal
  latents = jnp.asarray(draw((1, FRAMES, SIDE, SIDE, 4)), jnp.float32)
  conditioning = dict(
    text=jnp.asarray(draw((1, TOKENS, CONTEXT)), jnp.float32),
    image_embedding=jnp.asarray(draw((1, CONTEXT)), jnp.float32),
    image_latents=latents[:, 0],
    fps=jnp.full((1,), 8.0),
  )
  without = conditioning | {'image_embedding': jnp.zeros((1, CONTEXT))}
  timesteps = jnp.full((1,), 500)
  init = components.jit_once(lambda key: unet.init(key, latents, timesteps, conditioning)['params'])
  params = init(jax.random.key(0))

  @jax.jit
  def step(params, latents):
    def denoise(noisy, timesteps, conditioning):
      return unet.apply({'params': params}, noisy, timesteps, conditioning)

    return guidance.guided(denoise, conditioning, without, SCALE)(latents, timesteps)

  return lambda: jax.block_until_ready(step(params, latents))


def torch_step(config):
  """() -> guided prediction of diffusers', eager."""
  torch.manual_seed(0)
  unet = I2VGenXLUNet.from_config(configs.unet_config(config)).eval()
  latents = torch.randn(2, 4, FRAMES, SIDE, SIDE)
  inputs = dict(
    fps=torch.tensor([8, 8]),
    image_latents=torch.randn(2, 4, FRAMES, SIDE, SIDE),
    image_embeddings=torch.randn(2, 1, CONTEXT),
    encoder_hidden_states=torch.randn(2, TOKENS, CONTEXT),
  )

  def step():
    with torch.no_grad():
      without, with_ = unet(latents, torch.tensor([500, 500]), **inputs).sample.chunk(2)
      return without + SCALE * (with_ - without)

  return step


def main(rounds):
  """Prints the medians and the ratio."""
  config = make_config()
  steps = {'ours': jax_step(config), 'diffusers': torch_step(config)}
  for step in steps.values():
    step()  # Compiles; warms up.
  found = {name: [] for name in steps}
  for _ in range(rounds):
    for name, step in steps.items():
      cpu, clock = time.process_time(), time.perf_counter()
      step()
      found[name].append((time.process_time() - cpu, time.perf_counter() - clock))
  medians = {
    name: [statistics.median(column) for column in zip(*rows, strict=True)]
    for name, rows in found.items()
  }
  for name, (cpu, clock) in medians.items():
    print(f'{name}: {cpu:.3f} s of processors, {clock:.3f} s of clock a step')
  ratios = [medians['diffusers'][i] / medians['ours'][i] for i in (0, 1)]
  print(f'diffusers / ours: {ratios[0]:.2f} by processors, {ratios[1]:.2f} by clock')


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=9)
  main(parser.parse_args().rounds)
