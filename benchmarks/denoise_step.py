"""One denoising step of the released base model, ours beside diffusers' in torch.

  python -m benchmarks.denoise_step [--rounds=9] [--width=320] [--size=8x8] [--frames=4]
      [--compiled]
  python -m benchmarks.denoise_step --side=jax|torch|torch_compile --steps=20 [--dtype=bfloat16]
      one of them alone, on an accelerator if there is one: a line of JSON

A step is what a sampler does once: the U-Net on one video with and without its conditions,
guidance, and DDIM's update; random weights, two threads. Each side is a process of its own with all
weights (5.3 GiB at full width in float32). Size is of the latents.
"""

import argparse

import numpy as np

from benchmarks import side_by_side

GUIDANCE, TOKENS, CONTEXT = 9.0, 77, 1024
ATTENTION = (True, True, True, False)


def channels(width, levels):
  """Of the first levels; the fourth, without attention, is as wide as the third."""
  return (width, 2 * width, 4 * width, 4 * width)[:levels]


def inputs(size, frames):
  """Standard normal arrays, channels last."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
  return dict(
    latents=normal(1, frames, *size, 4),
    text=normal(2, TOKENS, CONTEXT),
    image_embedding=normal(2, CONTEXT),
    image_latents=normal(2, *size, 4),
  )


def jax_step(width, size, frames, levels=4, dtype='float32'):
  """() -> latents, a step of ours."""
  import jax
  import jax.numpy as jnp

  from configs import common
  from i2vgen_jax import conditions
  from i2vgen_jax.diffusion import guidance, sampler, schedule
  from i2vgen_jax.models import lora, unet3d
  from i2vgen_jax.parallel import mesh as mesh_lib
  from i2vgen_jax.parallel import xla_profiles

  unet = unet3d.UNet3D(
    conditions.read(common.CONDITIONERS),
    block_channels=channels(width, levels),
    attention_levels=ATTENTION[:levels],
    dropout=0.0,
    dtype=jnp.dtype(dtype),
  )
  given = inputs(size, frames)
  latents = given.pop('latents')
  both = given | dict(fps=np.full(2, 16.0, np.float32))
  sides = [{name: value[i : i + 1] for name, value in both.items()} for i in range(2)]
  init = xla_profiles.jit_once(
    lambda key: unet.init(key, latents, jnp.zeros(1), sides[0])['params']
  )
  params = init(jax.random.key(0))
  if dtype != 'float32':
    params = lora.held(params, jnp.dtype(dtype))
  mesh = mesh_lib.make_mesh({'data': 1, 'fsdp': 1, 'tensor': 1}, jax.devices()[:1])
  noise_schedule = schedule.NoiseSchedule.create('cosine', 1000, True)
  table = {name: rows[:1] for name, rows in sampler.make_table(noise_schedule, 50).items()}

  def step(params, latents, conditional, unconditional):
    def denoise(noisy, timesteps, conditioning):
      return unet.apply({'params': params}, noisy, timesteps, conditioning)

    guided = guidance.guided(denoise, conditional, unconditional, GUIDANCE, 0.0)
    return sampler.sample(guided, latents, table)

  jitted = jax.jit(mesh_lib.within(mesh, step))  # Attention is chosen for the mesh's devices.
  return lambda: jitted(params, latents, *sides).block_until_ready()


def torch_step(width, size, frames, compiled, levels=4, dtype='float32'):
  """() -> latents, a step of diffusers' pipeline."""
  import diffusers
  import torch

  torch.set_num_threads(2)
  torch.manual_seed(0)
  unet = diffusers.I2VGenXLUNet(
    block_out_channels=channels(width, levels),
    down_block_types=tuple(f'{"CrossAttn" * a}DownBlock3D' for a in ATTENTION[:levels]),
    up_block_types=tuple(f'{"CrossAttn" * a}UpBlock3D' for a in ATTENTION[:levels][::-1]),
    cross_attention_dim=CONTEXT,
    attention_head_dim=64,
    num_attention_heads=None,
  ).eval()
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  unet.to(device, getattr(torch, dtype))
  unet = torch.compile(unet) if compiled else unet
  scheduler = diffusers.DDIMScheduler(
    beta_schedule='squaredcos_cap_v2', prediction_type='v_prediction', steps_offset=1,
    timestep_spacing='leading', rescale_betas_zero_snr=True, clip_sample=False,
  )  # fmt: skip
  scheduler.set_timesteps(50)
  given = {
    name: torch.from_numpy(value).to(device, getattr(torch, dtype))
    for name, value in inputs(size, frames).items()
  }
  latents = given['latents'].permute(0, 4, 1, 2, 3).contiguous()
  image_latents = given['image_latents'].permute(0, 3, 1, 2)[:, :, None]
  arguments = dict(
    encoder_hidden_states=given['text'],
    image_embeddings=given['image_embedding'][:, None],
    image_latents=image_latents.expand(-1, -1, frames, -1, -1),
    fps=torch.full((2,), 16, device=device),
  )
  timestep = scheduler.timesteps[0]

  @torch.no_grad()
  def run():
    without, with_them = unet(torch.cat([latents] * 2), timestep, **arguments).sample.chunk(2)
    prediction = without + GUIDANCE * (with_them - without)
    result = scheduler.step(prediction, timestep, latents).prev_sample
    if device == 'cuda':
      torch.cuda.synchronize()
    return result

  return run


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--width', type=int, default=320)
  parser.add_argument('--size', default='8x8')
  parser.add_argument('--frames', type=int, default=4)
  parser.add_argument('--levels', type=int, default=4, help='of the U-Net, from the top')
  parser.add_argument('--compiled', action='store_true', help='also torch.compile')
  parser.add_argument('--side', choices=('jax', 'torch', 'torch_compile'))
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
  parser.add_argument('--steps', type=int, default=0, help='of one side alone; 0: in turn')
  options = parser.parse_args()
  shape = options.width, tuple(map(int, options.size.split('x'))), options.frames
  if options.side:
    if options.side == 'jax':
      run = jax_step(*shape, options.levels, options.dtype)
    else:
      run = torch_step(*shape, options.side == 'torch_compile', options.levels, options.dtype)
    if options.steps:
      side_by_side.alone(run, None, lambda: 0, options.steps)
    else:
      side_by_side.work(run)
  else:
    side_by_side.compare(
      ('-m', 'benchmarks.denoise_step', f'--width={options.width}', f'--size={options.size}',
       f'--frames={options.frames}'),
      ('jax', 'torch') + ('torch_compile',) * options.compiled,
      options.rounds,
    )  # fmt: skip
