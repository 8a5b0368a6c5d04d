"""Memory that decoding a video takes, beside that of the one chunk of frames that is decoded at a
time, as XLA lays it out: compiled, not run.

  python -m benchmarks.decode [--size=1280x720] [--frames=16] [--chunk=1] [--tile=0]

Stable Diffusion's VAE, float32, weights (0.2 GB) not counted. --tile is in latents, 0 for none.
"""

import argparse

import jax
import jax.numpy as jnp

from configs import common
from i2vgen_jax import session

OVERLAP = 16


def peak_bytes(width, height, frames, chunk, tile):
  """Of scratch memory, input and output of a decode in chunks of so many frames."""
  config = common.release()
  config.dtype = 'float32'
  config.vae.update(frames_per_chunk=chunk, tile=tile, tile_overlap=OVERLAP)
  built = session.build(config, reads_captions=False).autoencoder
  key = jax.eval_shape(lambda: jax.random.key(0))
  frozen = {'vae': jax.eval_shape(built.vae.init, key, jnp.zeros((1, 16, 16, 3)))['params']}
  factor, channels = built.downsampling, built.vae.latent_channels
  latents = jax.ShapeDtypeStruct(
    (1, frames, height // factor, width // factor, channels), jnp.float32
  )
  lowered = jax.jit(built.decode_video).lower(frozen, latents)
  # The layout of memory is the same; only the machine code is slower.
  compiled = lowered.compile(compiler_options={'xla_backend_optimization_level': 0})
  memory = compiled.memory_analysis()
  return memory.temp_size_in_bytes + memory.output_size_in_bytes + latents.size * 4


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', default='1280x720')
  parser.add_argument('--frames', type=int, default=16)
  parser.add_argument('--chunk', type=int, default=1)
  parser.add_argument('--tile', type=int, default=0)
  options = parser.parse_args()
  size = tuple(map(int, options.size.split('x')))
  whole = peak_bytes(*size, options.frames, options.chunk, options.tile)
  part = peak_bytes(*size, options.chunk, options.chunk, options.tile)
  print(
    f'{options.size}, {options.frames} frames: {whole / 1e9:.2f} GB; a chunk of {options.chunk}: '
    f'{part / 1e9:.2f} GB; ratio {whole / part:.3f}'
  )
