"""The released networks in PyTorch, with weights drawn by name, on inputs drawn likewise.

  python -m tests.full_size unet|vae|text_encoder|image_encoder FOLDER

writes weights, inputs and outputs as FOLDER/*.safetensors. A process of its own, so that two models
of 6 GB are never in memory at once. Sizes are those of the release's own JSON files.
"""

import os
import sys
import zlib

import diffusers
import numpy as np
import safetensors.torch
import torch
import transformers


def normal(name, *shape):
  """Standard normal values that depend on the name alone."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  return torch.from_numpy(rng.standard_normal(shape, np.float32))


def weight(name, shape):
  """Kernels of variance 1/fan_in; norm scales about 1; biases small. None is zero."""
  value = normal(name, *shape)
  if len(shape) == 1:
    return value.mul_(0.1).add_(name.endswith('weight'))
  return value.div_(np.prod(shape[1:]) ** 0.5)


def materialize(model):
  """Gives a model, perhaps built on the meta device, its weights."""
  values = {name: weight(name, tensor.shape) for name, tensor in model.state_dict().items()}
  model.load_state_dict(values, assign=True)
  return model.eval()


def unet():
  """Four frames of 12x20 latents, which halve to 6x10, 3x5 and 2x3."""
  with torch.device('meta'):
    model = diffusers.I2VGenXLUNet(
      block_out_channels=(320, 640, 1280, 1280),
      down_block_types=('CrossAttnDownBlock3D',) * 3 + ('DownBlock3D',),
      up_block_types=('UpBlock3D',) + ('CrossAttnUpBlock3D',) * 3,
      layers_per_block=2,
      norm_num_groups=32,
      cross_attention_dim=1024,
      attention_head_dim=64,
    )
  model = materialize(model)
  first = normal('image_latents', 1, 4, 1, 12, 20)
  marks = [torch.full_like(first, k / 3) for k in (1, 2, 3)]
  inputs = dict(
    sample=normal('sample', 1, 4, 4, 12, 20),
    timestep=torch.tensor([601]),
    fps=torch.tensor([8]),
    image_latents=torch.cat([first, *marks], 2),
    image_embeddings=normal('image_embedding', 1, 1, 1024),
    encoder_hidden_states=normal('text', 1, 77, 1024),
  )
  return model, inputs, dict(prediction=model(**inputs).sample)


def vae():
  """Three images of 64x96 encoded, and their posterior means decoded."""
  with torch.device('meta'):
    model = diffusers.AutoencoderKL(
      block_out_channels=(128, 256, 512, 512),
      down_block_types=('DownEncoderBlock2D',) * 4,
      up_block_types=('UpDecoderBlock2D',) * 4,
      layers_per_block=2,
      norm_num_groups=32,
      latent_channels=4,
    )
  model = materialize(model)
  images = torch.tanh(normal('images', 3, 3, 64, 96))
  posterior = model.encode(images).latent_dist
  outputs = dict(mean=posterior.mean, logvar=posterior.logvar)
  return model, dict(images=images), outputs | dict(decoded=model.decode(posterior.mean).sample)


def text_encoder():
  """Two captions of 77 tokens; the states that diffusers' clip_skip=1 conditions on."""
  config = transformers.CLIPTextConfig(
    vocab_size=49408,
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    hidden_act='gelu',
  )
  model = transformers.CLIPTextModel(config)  # Not on meta: it has buffers of positions.
  model = materialize(model)
  token_ids = torch.from_numpy(np.random.default_rng(0).integers(0, 49408, (2, 77)))
  states = model(token_ids, output_hidden_states=True).hidden_states[-2]
  outputs = dict(states=model.text_model.final_layer_norm(states))
  return model, dict(token_ids=token_ids), outputs


def image_encoder():
  """Two pictures of 224x224, pooled and projected."""
  config = transformers.CLIPVisionConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
    image_size=224,
    projection_dim=1024,
    hidden_act='gelu',
  )
  model = transformers.CLIPVisionModelWithProjection(config)
  model = materialize(model)
  pixels = normal('pixels', 2, 3, 224, 224)
  return model, dict(pixels=pixels), dict(embedding=model(pixels).image_embeds)


NETWORKS = dict(unet=unet, vae=vae, text_encoder=text_encoder, image_encoder=image_encoder)

if __name__ == '__main__':
  network, folder = sys.argv[1:]
  with torch.no_grad():
    model, inputs, outputs = NETWORKS[network]()
  os.makedirs(folder, exist_ok=True)
  files = dict(weights=model.state_dict(), inputs=inputs, outputs=outputs)
  for name, values in files.items():
    values = {key: value.contiguous() for key, value in values.items()}
    safetensors.torch.save_file(values, os.path.join(folder, f'{name}.safetensors'))
