"""Trains a demo's autoencoder on frames of the demo corpus.

  python -m i2vgen_jax.demo.train_vae --output=i2vgen_jax/demo

Writes OUTPUT/vae.safetensors (diffusers' tensor names, float16) and OUTPUT/vae.json (the fields of
`models.vae.AutoencoderKL`, and the scaling factor: 1, for latents have unit variance as they are).

A larger one for larger frames, which the demo's refinement stage takes:

  python -m i2vgen_jax.demo.train_vae --output=quickstart/vae_128 --frame_size=128 \
      --block_channels=8,16,32,64 --num_steps=1400

And that of the shipped model, for the corpus's scenes:

  python -m i2vgen_jax.demo.train_vae --output=i2vgen_jax/demo/scenes --kind=scenes
"""

from absl import flags

from i2vgen_jax.process import cli, tables

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  flags.DEFINE_string('output', None, 'Folder to write vae.safetensors and vae.json to.')
  known = tables.names('data_pipelines/demo_corpus/kinds.py', 'KINDS')
  flags.DEFINE_enum('kind', 'shapes', known, 'Kind of demo corpus that it is for.')
  flags.DEFINE_integer('frame_size', None, 'Side of a frame in pixels; default FRAME_SIZE.')
  flags.DEFINE_list(
    'block_channels', None, 'Channels of the levels, such as 8,16,32,64; default BLOCK_CHANNELS.'
  )
  flags.DEFINE_integer('num_steps', 3000, 'Number of optimizer steps.')
  flags.DEFINE_integer('batch_size', 8, 'Frames per step.')
  flags.DEFINE_float('peak_lr', 0.02, 'Learning rate of kernels after warm-up.')
  flags.DEFINE_float('kl_weight', 3e-4, 'Weight of the mean KL divergence per latent.')
  flags.DEFINE_integer('seed', 0, 'Seed of data, weights and batches.')
  flags.mark_flags_as_required(['output'])
  cli.run(__file__)

import functools
import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import av
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import PIL.Image
import safetensors.numpy

from data_pipelines import demo_corpus
from data_pipelines.demo_corpus import kinds
from i2vgen_jax.models import vae
from i2vgen_jax.pretrained import tensors, vae_names

# 64x64 frames to 8x8x4 latents, by 31 MFLOP a frame. Of scenes, whose shapes are to be told apart,
# to 16x16x4 (docs/evaluation.md).
BLOCK_CHANNELS = {'shapes': (8, 16, 16, 32), 'scenes': (16, 32, 32)}
MODEL: dict[str, Any] = dict(in_channels=3, latent_channels=4, layers_per_block=1, norm_groups=2)
FRAME_SIZE = 64
FRAMES_PER_VIDEO = 8
HELD_OUT = 100_000  # Number of the first example that is measured, beyond all that are seen.
WINDOW_SHARE = 0.5  # Share of a frame's side.
WINDOWS_STEPS = 0.85  # Share of the steps; the last see whole frames, whose norms differ.
ADAM_LR_SHARE = 0.15  # Share of the kernels' learning rate, for biases and norms.
# Columns: brightness, red against green, yellow against blue. Orthogonal, and hues weigh more, for
# they vary less and would be learnt late.
OPPONENT_COLORS = np.array([[1, 1, 1], [1, -1, 1], [1, 0, -2]]) / np.sqrt([3, 2, 6]) * [1, 2, 2]


def render_frames(
  kind: str, first: int, num_videos: int, num_images: int, size: int = FRAME_SIZE
) -> np.ndarray:
  """Renders frames as training sees them: after H.264 or JPEG, at `size`.

  Args:
    kind: of demo corpus.
    first: number of the first example, beyond the corpus's own where frames are held out.
    num_videos: clips, of each of which FRAMES_PER_VIDEO frames are taken.
    num_images: single pictures.
    size: side of a frame in pixels.

  Returns:
    uint8 (num_videos * FRAMES_PER_VIDEO + num_images, size, size, 3).
  """
  made = kinds.KINDS[kind]
  source_size = max(size, made.size)
  frames = []
  for number in range(first, first + num_videos):
    video = made.clip(0, number, source_size).frames
    with av.open(io.BytesIO(demo_corpus.encode_video(video)), 'r') as container:
      decoded = [frame.to_image() for frame in container.decode(video=0)]
    picks = np.random.default_rng(number).choice(len(decoded), FRAMES_PER_VIDEO, replace=False)
    frames.extend(_resize(decoded[pick], size) for pick in picks)
  for number in range(first, first + num_images):
    image = made.picture(0, number, source_size).frames[0]
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, 'jpeg', quality=95, subsampling=0)
    frames.append(_resize(PIL.Image.open(buffer), size))
  return np.stack(frames)


def psnr(images: np.ndarray, references: np.ndarray) -> float:
  """Mean over images of the peak signal-to-noise ratio in dB; both uint8."""
  squares = (images.astype(np.float32) - references.astype(np.float32)) ** 2
  return float(np.mean(10 * np.log10(255**2 / np.maximum(squares.mean((1, 2, 3)), 1e-3))))


def to_pixels(images: np.ndarray) -> np.ndarray:
  """[-1, 1] to uint8."""
  return np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)


def loss_of(
  params: tensors.Params,
  frames_NHWC: jax.Array,
  key: jax.Array,
  model: vae.AutoencoderKL,
  kl_weight: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Pixels' absolute and squared error, their differences' absolute error, and KL divergence.

  Args:
    params: parameters of the autoencoder.
    frames_NHWC: uint8.
    key: draws from the posterior.
    model: the autoencoder.
    kl_weight: weight of the mean KL divergence per latent.
  """
  images_NHWC = frames_NHWC.astype(jnp.float32) / 127.5 - 1
  apply: Callable[..., Any] = model.apply
  mean_NHWC, logvar_NHWC = apply({'params': params}, images_NHWC, method='encode')
  noise_NHWC = jax.random.normal(key, mean_NHWC.shape)
  latents_NHWC = mean_NHWC + jnp.exp(0.5 * logvar_NHWC) * noise_NHWC
  error_NHWC = apply({'params': params}, latents_NHWC, method='decode') - images_NHWC
  error_NHWC = error_NHWC @ jnp.asarray(OPPONENT_COLORS, jnp.float32)
  absolute = jnp.mean(jnp.abs(error_NHWC))
  squared = jnp.mean(error_NHWC**2)
  # Outlines, which say what the shape is, are a small part of the picture.
  outline: Any = sum(jnp.mean(jnp.abs(jnp.diff(error_NHWC, axis=axis))) for axis in (1, 2))
  kl = 0.5 * jnp.mean(mean_NHWC**2 + jnp.exp(logvar_NHWC) - 1 - logvar_NHWC)
  metrics = dict(absolute=absolute, squared=squared, outline=outline, kl=kl)
  return absolute + 4 * squared + outline + kl_weight * kl, metrics


def windows(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Cuts a window from each frame (uint8), of WINDOW_SHARE of its side.

  A window costs a quarter of a frame. Where a shape stands on a plain ground, it holds part of it:
  four times as much of it is outline. In front of a texture it is anywhere.
  """
  size = int(WINDOW_SHARE * frames.shape[1])
  corners = frames[:, :1, :1].astype(np.int16)
  is_shape = np.abs(frames - corners).sum(-1) > 90
  places = np.arange(frames.shape[1])
  starts = []
  for axis in (2, 1):
    occupied = is_shape.any(axis)
    center = (occupied * places).sum(1) / np.maximum(occupied.sum(1), 1)
    start = center - size / 2 + rng.uniform(-0.4, 0.4, len(frames)) * size
    starts.append(np.clip(start, 0, frames.shape[1] - size).astype(int))
  return np.stack(
    [frame[y : y + size, x : x + size] for frame, y, x in zip(frames, *starts, strict=True)]
  )


def make_optimizer(num_steps: int, peak_lr: float) -> optax.GradientTransformation:
  """Muon on kernels, Adam on the rest; warm-up, then cosine to 0.

  Muon (Jordan et al. 2024) reaches in 200 steps what Adam does in 300 and more.
  """

  def schedule(peak: float) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(0, peak, num_steps // 50, num_steps)

  def kernels_as_matrices(params: tensors.Params) -> Any:
    def dims(leaf):
      last = leaf.ndim - 1
      return optax.contrib.MuonDimensionNumbers(tuple(range(last)), (last,)) if last else None

    return jax.tree.map(dims, params)

  return optax.contrib.muon(
    schedule(peak_lr),
    adam_learning_rate=schedule(ADAM_LR_SHARE * peak_lr),
    adam_b2=0.99,
    muon_weight_dimension_numbers=kernels_as_matrices,
  )


def train(
  model: vae.AutoencoderKL,
  params: tensors.Params,
  frames: np.ndarray,
  num_steps: int,
  batch_size: int,
  peak_lr: float,
  kl_weight: float,
  seed: int,
) -> tensors.Params:
  """Returns `params` after `num_steps` more on batches drawn from `frames` (uint8).

  A batch is `batch_size` frames, or as many pixels in windows.

  Args:
    model: the autoencoder.
    params: initial ones.
    frames: uint8 (N, H, W, 3).
    num_steps: steps of the optimizer.
    batch_size: frames.
    peak_lr: learning rate of kernels after warm-up.
    kl_weight: weight of the KL divergence, see `loss_of`.
    seed: seed of batches and of the posterior's draws.
  """
  key = jax.random.key(seed)
  optimizer = make_optimizer(num_steps, peak_lr)
  opt_state = optimizer.init(params)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step_fn(params, opt_state, batch, key):
    gradient = jax.grad(loss_of, has_aux=True)
    grads, metrics = gradient(params, batch, key, model, kl_weight)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, metrics

  rng = np.random.default_rng(seed)
  windows_per_frame = round(WINDOW_SHARE**-2)
  for step in range(num_steps):
    if step < WINDOWS_STEPS * num_steps:
      picks = rng.integers(len(frames), size=batch_size * windows_per_frame)
      batch = windows(frames[picks], rng)
    else:
      batch = frames[rng.integers(len(frames), size=batch_size)]
    params, opt_state, metrics = step_fn(params, opt_state, batch, jax.random.fold_in(key, step))
    if step % 100 == 0 or step == num_steps - 1:
      print(step, {name: round(float(value), 5) for name, value in metrics.items()}, flush=True)
  return params


def normalize(params: tensors.Params, mean_C: np.ndarray, std_C: np.ndarray) -> tensors.Params:
  """Rewrites the autoencoder so that latents of the given moments get mean 0 and variance 1.

  The two 1x1 convolutions around the latents take up the change: reconstructions stay the same.

  Args:
    params: parameters of the autoencoder.
    mean_C: mean of each latent channel.
    std_C: standard deviation of each latent channel.
  """
  encoded, decoded = params['quant_conv'], params['post_quant_conv']
  channels = len(mean_C)
  scale = np.concatenate([1 / std_C, np.ones(channels)])
  shift = np.concatenate([-mean_C / std_C, -2 * np.log(std_C)])
  bias = decoded['bias'] + mean_C @ decoded['kernel'][0, 0]
  return dict(
    params,
    quant_conv=dict(kernel=encoded['kernel'] * scale, bias=encoded['bias'] * scale + shift),
    post_quant_conv=dict(kernel=decoded['kernel'] * std_C[:, None], bias=bias),
  )


def measure(model: vae.AutoencoderKL, params: tensors.Params, frames: np.ndarray) -> dict[str, Any]:
  """Returns dict(psnr, latent_mean, latent_std, posterior_std) of `frames` (uint8).

  PSNR is in dB, the others are per latent channel.

  Args:
    model: the autoencoder.
    params: its parameters.
    frames: uint8 (N, H, W, 3).
  """
  encode = jax.jit(functools.partial(model.apply, method='encode'))
  decode = jax.jit(functools.partial(model.apply, method='decode'))
  images_NHWC = frames.astype(np.float32) / 127.5 - 1
  mean_NHWC, logvar_NHWC = encode({'params': params}, images_NHWC)
  restored_NHWC = to_pixels(decode({'params': params}, mean_NHWC))
  return dict(
    psnr=psnr(restored_NHWC, frames),
    latent_mean=np.mean(mean_NHWC, axis=(0, 1, 2)),
    latent_std=np.std(mean_NHWC, axis=(0, 1, 2)),
    posterior_std=np.mean(np.exp(0.5 * logvar_NHWC), axis=(0, 1, 2)),
  )


def main() -> None:
  """Renders, trains, measures on other frames, writes."""
  output = pathlib.Path(flags.FLAGS.output)
  output.mkdir(parents=True, exist_ok=True)  # Before minutes of training.
  kind, channels = flags.FLAGS.kind, flags.FLAGS.block_channels
  fields: dict[str, Any] = MODEL | dict(block_channels=BLOCK_CHANNELS[kind])
  if channels:
    fields['block_channels'] = tuple(map(int, channels))
  model = vae.AutoencoderKL(**fields)
  size = flags.FLAGS.frame_size or FRAME_SIZE
  frames = render_frames(kind, 0, num_videos=1000, num_images=2500, size=size)
  print(f'{len(frames)} frames', flush=True)
  params = train(
    model,
    jax.jit(model.init)(jax.random.key(flags.FLAGS.seed), jnp.zeros((1, 64, 64, 3)))['params'],
    frames,
    flags.FLAGS.num_steps,
    flags.FLAGS.batch_size,
    flags.FLAGS.peak_lr,
    flags.FLAGS.kl_weight,
    flags.FLAGS.seed,
  )
  params = jax.tree.map(np.asarray, params)
  moments = measure(model, params, frames[::16])
  params = normalize(params, moments['latent_mean'], moments['latent_std'])
  params = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), params)
  held_out = render_frames(kind, HELD_OUT, num_videos=32, num_images=128, size=size)
  report = measure(model, params, held_out)  # As stored, in half precision.
  print({name: np.round(np.float64(value), 3).tolist() for name, value in report.items()})

  named = tensors.to_torch(jax.tree.map(np.float16, params), vae_names.name_of)
  safetensors.numpy.save_file(named, output / 'vae.safetensors')
  (output / 'vae.safetensors').chmod(0o644)  # safetensors lets only the owner read.
  fields['scaling_factor'] = 1.0
  (output / 'vae.json').write_text(json.dumps(fields, indent=2) + '\n')


def _resize(image: PIL.Image.Image, size: int) -> np.ndarray:
  return np.asarray(image.resize((size, size), PIL.Image.Resampling.BOX))
