"""The U-Net computes what diffusers' I2VGenXLUNet does with the same, all random, weights."""

import jax
import numpy as np
import pytest

from i2vgen_jax.diffusion import loss, schedule
from i2vgen_jax.models import unet3d
from i2vgen_jax.pretrained import tensors, unet_names
from tests import tiny

diffusers = pytest.importorskip('diffusers')
torch = pytest.importorskip('torch')

# Tiny programs: LLVM's optimisation would take longer than it saves.
FAST_COMPILE = {'xla_backend_optimization_level': 0}
NARROW = dict(
  block_channels=(32, 64),
  attention_levels=(True, False),
  layers_per_block=1,
  head_dim=16,
  norm_groups=8,
  context_dim=24,
)
WIDE = dict(
  block_channels=(48, 96, 96),
  attention_levels=(True, True, False),
  layers_per_block=2,
  head_dim=24,
  norm_groups=16,
  context_dim=40,
)
# As many levels as the release, with its heads, groups and widths by 1/5.
DEEP = dict(
  block_channels=(64, 128, 256, 256),
  attention_levels=(True, True, True, False),
  layers_per_block=2,
  head_dim=64,
  norm_groups=32,
  context_dim=64,
)
SWEEP = [
  (sizes, (1, num_frames, height, width))
  for sizes, width in ((NARROW, 14), (WIDE, 9), (DEEP, 16))
  for num_frames, height in ((1, 90), (1, 45), (5, 90), (5, 45), (5, 23), (16, 45), (16, 23))
]


def make_torch_unet(sizes):
  down = ['CrossAttnDownBlock3D' if has else 'DownBlock3D' for has in sizes['attention_levels']]
  up = ['CrossAttnUpBlock3D' if has else 'UpBlock3D' for has in sizes['attention_levels'][::-1]]
  return diffusers.I2VGenXLUNet(
    down_block_types=down,
    up_block_types=up,
    block_out_channels=sizes['block_channels'],
    layers_per_block=sizes['layers_per_block'],
    norm_num_groups=sizes['norm_groups'],
    cross_attention_dim=sizes['context_dim'],
    attention_head_dim=sizes['head_dim'],
  ).eval()


def random_params(unet, inputs, rng):
  """Kernels of variance 1/fan_in; norm scales about 1; biases small. None is zero."""
  shapes = jax.eval_shape(unet.init, jax.random.key(0), *inputs)['params']

  def draw(path, leaf):
    value = rng.standard_normal(leaf.shape)
    if leaf.ndim == 1:
      value = 0.1 * value + (path[-1].key == 'scale')
    else:
      value /= np.sqrt(np.prod(leaf.shape[:-1]))
    return value.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def random_inputs(batch_size, num_frames, height, width, context_dim, rng):
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
  conditioning = dict(
    text=normal(batch_size, 7, context_dim),
    image_embedding=normal(batch_size, context_dim),
    image_latents=normal(batch_size, height, width, 4),
    fps=np.arange(batch_size, dtype=np.int32) + 8,
  )
  timesteps = np.linspace(3, 990, batch_size).astype(np.int32)
  return normal(batch_size, num_frames, height, width, 4), timesteps, conditioning


def apply_torch(torch_unet, noisy_latents, timesteps, conditioning):
  """Calls the model as diffusers' pipeline does, which is what appends the position frames."""
  num_frames = noisy_latents.shape[1]
  first = torch.from_numpy(conditioning['image_latents']).permute(0, 3, 1, 2)[:, :, None]
  marks = [torch.full_like(first, k / (num_frames - 1)) for k in range(1, num_frames)]
  prediction = torch_unet(
    torch.from_numpy(noisy_latents).permute(0, 4, 1, 2, 3),
    torch.from_numpy(timesteps),
    fps=torch.from_numpy(conditioning['fps']),
    image_latents=torch.cat([first, *marks], dim=2),
    image_embeddings=torch.from_numpy(conditioning['image_embedding'])[:, None],
    encoder_hidden_states=torch.from_numpy(conditioning['text']),
  ).sample
  return prediction.permute(0, 2, 3, 4, 1)


def make_pair(sizes, video_shape, seed):
  rng = np.random.default_rng(seed)
  inputs = random_inputs(*video_shape, sizes['context_dim'], rng)
  unet = unet3d.UNet3D(tiny.RELEASED, **sizes)
  params = random_params(unet, inputs, rng)
  torch_unet = make_torch_unet(sizes)
  named = tensors.to_torch(params, unet_names.name_of)
  torch_unet.load_state_dict({name: torch.from_numpy(value) for name, value in named.items()})
  return unet, params, torch_unet, inputs


def label(value):
  return 'x'.join(map(str, value['block_channels'] if isinstance(value, dict) else value))


def check_prediction(sizes, video_shape):
  """Only the order of sums differs: float32 agrees to 2e-5 of the largest value."""
  unet, params, torch_unet, inputs = make_pair(sizes, video_shape, seed=0)
  apply = jax.jit(unet.apply, compiler_options=FAST_COMPILE)
  prediction = np.asarray(apply({'params': params}, *inputs))
  with torch.no_grad():
    expected = apply_torch(torch_unet, *inputs).numpy()
  error = np.abs(prediction - expected).max() / np.abs(expected).max()
  print(f'{label(sizes)} on {label(video_shape)}: {error:.1e} of the largest output')
  assert error <= 2e-5


@pytest.mark.parametrize(
  'sizes, video_shape',
  [
    (NARROW, (2, 5, 16, 12)),
    (NARROW, (2, 1, 45, 10)),
    pytest.param(WIDE, (1, 16, 23, 9), marks=pytest.mark.slow),
    pytest.param(WIDE, (2, 1, 90, 13), marks=pytest.mark.slow),
  ],
  ids=label,
)
def test_prediction_equals_diffusers(sizes, video_shape):
  check_prediction(sizes, video_shape)


@pytest.mark.slow
@pytest.mark.parametrize('sizes, video_shape', SWEEP, ids=label)
def test_prediction_equals_diffusers_for_widths_lengths_and_odd_sizes(sizes, video_shape):
  check_prediction(sizes, video_shape)


def check_gradients(sizes, video_shape):
  """Of the v-loss, dropout off, per tensor, relative in L2."""
  unet, params, torch_unet, inputs = make_pair(sizes, video_shape, seed=1)
  latents, timesteps, conditioning = inputs
  noise = np.random.default_rng(2).standard_normal(latents.shape).astype(np.float32)
  released = schedule.NoiseSchedule.create('cosine', 1000, zero_terminal_snr=True)

  def mean_loss(params):
    def denoise(noisy_latents, timesteps):
      return unet.apply({'params': params}, noisy_latents, timesteps, conditioning)

    return loss.denoising_loss(denoise, latents, noise, timesteps, released, 'v').mean()

  gradient = jax.jit(jax.grad(mean_loss), compiler_options=FAST_COMPILE)
  gradients = tensors.to_torch(gradient(params), unet_names.name_of)

  oracle = diffusers.DDIMScheduler(beta_schedule='squaredcos_cap_v2', rescale_betas_zero_snr=True)
  at = [torch.from_numpy(x) for x in (latents, noise, timesteps)]
  noisy, velocity = oracle.add_noise(*at).numpy(), oracle.get_velocity(*at)
  (apply_torch(torch_unet, noisy, timesteps, conditioning) - velocity).square().mean().backward()
  expected = {name: value.grad.numpy() for name, value in torch_unet.named_parameters()}

  assert gradients.keys() == expected.keys()
  norms = {name: np.linalg.norm(g) for name, g in expected.items()}
  # Queries and keys of a softmax over one frame have no gradient but rounding.
  rounding = 1e-7 * max(norms.values())
  some = [name for name, norm in norms.items() if norm > rounding]
  none = norms.keys() - some
  for name in none:
    assert video_shape[1] == 1 and name.endswith(('to_q.weight', 'to_k.weight')), name
    assert np.linalg.norm(gradients[name]) <= rounding, name
  errors = {name: np.linalg.norm(gradients[name] - expected[name]) / norms[name] for name in some}
  worst = max(errors, key=errors.get)
  print(f'{label(sizes)} on {label(video_shape)}: {errors[worst]:.1e} of {worst}')
  assert errors[worst] <= 1e-4, f'{worst}: {errors[worst]}'


def test_gradients_equal_diffusers():
  check_gradients(NARROW, (2, 5, 6, 10))


@pytest.mark.slow
@pytest.mark.parametrize(
  'sizes, video_shape',
  [(NARROW, (2, 1, 90, 8)), (WIDE, (1, 16, 23, 9)), (DEEP, (1, 5, 45, 16))],
  ids=label,
)
def test_gradients_equal_diffusers_for_widths_lengths_and_odd_sizes(sizes, video_shape):
  check_gradients(sizes, video_shape)
