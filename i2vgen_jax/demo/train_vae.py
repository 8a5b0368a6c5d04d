"""Trains the demo's autoencoder on frames of the demo corpus: vae.safetensors beside this file.

  python -m i2vgen_jax.demo.train_vae --output=i2vgen_jax/demo

Writes OUTPUT/vae.safetensors (diffusers' tensor names, float16) and OUTPUT/vae.json (the fields of
`models.vae.AutoencoderKL`, and the scaling factor that gives latents unit variance).
"""

import functools
import io
import json
import pathlib

import av
import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import safetensors.numpy
from absl import flags

from data_pipelines import demo_corpus
from i2vgen_jax import cli
from i2vgen_jax.models import vae
from i2vgen_jax.pretrained import tensors, vae_names

# 64x64 frames to 8x8x4 latents; encoding a frame takes 25 MFLOP.
MODEL = dict(
  in_channels=3, latent_channels=4, block_channels=(8, 8, 16, 32), layers_per_block=1, norm_groups=2
)
FRAME_SIZE = 64
FRAMES_PER_VIDEO = 8
# Columns: brightness, red against green, yellow against blue. Orthogonal, and hues weigh more, for
# they vary less and would be learnt late.
OPPONENT_COLORS = np.array([[1, 1, 1], [1, -1, 1], [1, 0, -2]]) / np.sqrt([3, 2, 6]) * [1, 2, 2]


def render_frames(seed: int, num_videos: int, num_images: int) -> np.ndarray:
  """Renders frames as training sees them: after H.264 or JPEG, at FRAME_SIZE.

  Returns:
    uint8 (num_videos * FRAMES_PER_VIDEO + num_images, FRAME_SIZE, FRAME_SIZE, 3).
  """
  rng = np.random.default_rng(seed)
  frames = []
  for _ in range(num_videos):
    video, _, _ = demo_corpus.render_video(rng)
    with av.open(io.BytesIO(demo_corpus.encode_video(video))) as container:
      decoded = [frame.to_image() for frame in container.decode(video=0)]
    picks = rng.choice(len(decoded), FRAMES_PER_VIDEO, replace=False)
    frames.extend(_resize(decoded[pick]) for pick in picks)
  for _ in range(num_images):
    image, _, _ = demo_corpus.render_image(rng)
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, 'jpeg', quality=95, subsampling=0)
    frames.append(_resize(PIL.Image.open(buffer)))
  return np.stack(frames)


def psnr(images: np.ndarray, references: np.ndarray) -> float:
  """Mean over images of the peak signal-to-noise ratio in dB; both uint8."""
  squares = (images.astype(np.float32) - references.astype(np.float32)) ** 2
  return float(np.mean(10 * np.log10(255**2 / np.maximum(squares.mean((1, 2, 3)), 1e-3))))


def to_pixels(images: np.ndarray) -> np.ndarray:
  """[-1, 1] to uint8."""
  return np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)


def loss_of(params, frames_NHWC, key, model, kl_weight):
  """Pixels' absolute and squared error, their differences' absolute error, and KL divergence."""
  images_NHWC = frames_NHWC.astype(jnp.float32) / 127.5 - 1
  mean_NHWC, logvar_NHWC = model.apply({'params': params}, images_NHWC, method='encode')
  noise_NHWC = jax.random.normal(key, mean_NHWC.shape)
  latents_NHWC = mean_NHWC + jnp.exp(0.5 * logvar_NHWC) * noise_NHWC
  error_NHWC = model.apply({'params': params}, latents_NHWC, method='decode') - images_NHWC
  error_NHWC = error_NHWC @ jnp.asarray(OPPONENT_COLORS, jnp.float32)
  absolute = jnp.mean(jnp.abs(error_NHWC))
  squared = jnp.mean(error_NHWC**2)
  # Outlines, which say what the shape is, are a small part of the picture.
  outline = sum(jnp.mean(jnp.abs(jnp.diff(error_NHWC, axis=axis))) for axis in (1, 2))
  kl = 0.5 * jnp.mean(mean_NHWC**2 + jnp.exp(logvar_NHWC) - 1 - logvar_NHWC)
  metrics = dict(absolute=absolute, squared=squared, outline=outline, kl=kl)
  return absolute + 4 * squared + outline + kl_weight * kl, metrics


def train(model, frames, num_steps, batch_size, peak_lr, kl_weight, seed):
  """Returns parameters after `num_steps` of AdamW on batches drawn from `frames` (uint8)."""
  key = jax.random.key(seed)
  params = jax.jit(model.init)(key, jnp.zeros((1, FRAME_SIZE, FRAME_SIZE, 3)))['params']
  schedule = optax.warmup_cosine_decay_schedule(0, peak_lr, num_steps // 20, num_steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))
  opt_state = optimizer.init(params)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step_fn(params, opt_state, batch, key):
    gradient = jax.grad(loss_of, has_aux=True)
    grads, metrics = gradient(params, batch, key, model, kl_weight)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, metrics

  rng = np.random.default_rng(seed)
  for step in range(num_steps):
    batch = frames[rng.integers(len(frames), size=batch_size)]
    params, opt_state, metrics = step_fn(params, opt_state, batch, jax.random.fold_in(key, step))
    if step % 100 == 0 or step == num_steps - 1:
      print(step, {name: round(float(value), 5) for name, value in metrics.items()}, flush=True)
  return params


def measure(model, params, frames):
  """Returns dict(psnr, latent_std, posterior_std, latent_mean) of `frames` (uint8)."""
  encode = jax.jit(functools.partial(model.apply, method='encode'))
  decode = jax.jit(functools.partial(model.apply, method='decode'))
  images_NHWC = frames.astype(np.float32) / 127.5 - 1
  mean_NHWC, logvar_NHWC = encode({'params': params}, images_NHWC)
  restored_NHWC = to_pixels(decode({'params': params}, mean_NHWC))
  return dict(
    psnr=psnr(restored_NHWC, frames),
    latent_std=float(jnp.std(mean_NHWC)),
    latent_mean=[round(float(x), 3) for x in jnp.mean(mean_NHWC, axis=(0, 1, 2))],
    posterior_std=float(jnp.mean(jnp.exp(0.5 * logvar_NHWC))),
  )


def main():
  """Renders, trains, measures on other frames, writes."""
  model = vae.AutoencoderKL(**MODEL)
  frames = render_frames(flags.FLAGS.seed, num_videos=700, num_images=2500)
  print(f'{len(frames)} frames', flush=True)
  params = train(
    model,
    frames,
    flags.FLAGS.num_steps,
    flags.FLAGS.batch_size,
    flags.FLAGS.peak_lr,
    flags.FLAGS.kl_weight,
    flags.FLAGS.seed,
  )
  # Measured as stored.
  params = jax.tree.map(lambda leaf: np.float32(np.float16(leaf)), params)
  report = measure(
    model, params, render_frames(flags.FLAGS.seed + 1, num_videos=32, num_images=128)
  )
  print(report)

  output = pathlib.Path(flags.FLAGS.output)
  output.mkdir(parents=True, exist_ok=True)
  named = tensors.to_torch(jax.tree.map(np.float16, params), vae_names.name_of)
  safetensors.numpy.save_file(named, output / 'vae.safetensors')
  fields = dict(MODEL, scaling_factor=round(1 / report['latent_std'], 4))
  (output / 'vae.json').write_text(json.dumps(fields, indent=2) + '\n')


def _resize(image: PIL.Image.Image) -> np.ndarray:
  return np.asarray(image.resize((FRAME_SIZE, FRAME_SIZE), PIL.Image.Resampling.BOX))


if __name__ == '__main__':
  flags.DEFINE_string('output', None, 'folder for vae.safetensors and vae.json')
  flags.DEFINE_integer('num_steps', 3000, 'optimizer steps')
  flags.DEFINE_integer('batch_size', 16, 'frames per step')
  flags.DEFINE_float('peak_lr', 3e-3, 'learning rate after warm-up; cosine to 0')
  flags.DEFINE_float('kl_weight', 1e-4, 'weight of the mean KL divergence per latent')
  flags.DEFINE_integer('seed', 0, 'of data, weights and batches')
  cli.require('output')
  cli.run(main)
