"""The networks together, and the way from a caption and a picture to a video."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from i2vgen_jax.exports.torch_model.clip import ClipText, ClipVision
from i2vgen_jax.exports.torch_model.pictures import center_crop, central_square, cover, to_pixels
from i2vgen_jax.exports.torch_model.samplers import Table, inversion_table, make_table, run_table
from i2vgen_jax.exports.torch_model.t5 import T5Encoder
from i2vgen_jax.exports.torch_model.tokenizers import ClipTokenizer, T5Tokenizer
from i2vgen_jax.exports.torch_model.unet import UNet3D
from i2vgen_jax.exports.torch_model.vae import AutoencoderKL


class VideoModel(nn.Module):
  """The networks of a folder, and the way from a caption and a picture to a video.

  Attributes:
    config: config.json.
    settings: what `sample` does if it is not told otherwise.
    alphas_cumprod: float64 (T,): 'trained', and 'sampled', which may be another schedule.
    tokenizers: by signal.
  """

  NETWORKS = {
    'unet': UNet3D,
    'vae': AutoencoderKL,
    'text_encoder': ClipText,
    'image_encoder': ClipVision,
    't5': T5Encoder,
  }

  unet: UNet3D
  vae: AutoencoderKL
  text_encoder: ClipText
  image_encoder: ClipVision
  t5: T5Encoder

  def __init__(self, config: Mapping[str, Any], folder: pathlib.Path) -> None:
    super().__init__()
    self.config, self.settings = config, dict(config['sample'])
    for name, network in self.NETWORKS.items():
      if name in config:
        self.add_module(name, network(config[name]))
    self.alphas_cumprod = safetensors.torch.load_file(folder / 'schedule.safetensors')
    self.tokenizers: dict[str, Callable[[Sequence[str]], Tensor]] = {}
    if 'text_encoder' in config:
      options = config['tokenizer']
      self.tokenizers['text'] = ClipTokenizer(folder / 'tokenizer', **options)
    if 't5' in config:
      path = folder / 't5_tokenizer.json'
      self.tokenizers['t5_text'] = T5Tokenizer(path, config['t5']['max_length'])

  @property
  def device(self) -> torch.device:
    """Where the U-Net is."""
    return self.unet.conv_in.weight.device

  @torch.no_grad()
  def sample(
    self,
    caption: str,
    image: Any = None,
    *,
    last_image: Any = None,
    video: Tensor | None = None,
    seed: int = 0,
    noise: Tensor | None = None,
    **settings: Any,
  ) -> Tensor:
    """A video as uint8 (F, H, W, 3), on the CPU.

    Args:
      caption: what happens.
      image: the first frame, of any size: uint8 (H, W, 3), or a picture of Pillow.
      last_image: likewise, for models that are conditioned on the last frame.
      video: uint8 (F, H, W, 3), of any size; a refinement starts from it.
      seed: of the noise, which is drawn on the CPU: the same on all devices.
      noise: (1, C, F, h, w) to start from in place of the seed's.
      **settings: in place of those of `self.settings`: num_steps, guidance_scale, guidance_rescale,
        sampler, spacing, eta, set_alpha_to_one, frames, height, width, fps, negative_prompt,
        levels, inversion_steps; and, of models that are conditioned on it, motion: frame diagonals
        per second, None where it is unknown.

    Raises:
      ValueError: something that the model needs is missing, or a setting is unknown or invalid.
    """
    chosen, table = self._checked(settings, video)
    size = (chosen['height'], chosen['width'])
    generator = torch.Generator().manual_seed(seed)
    if noise is None:
      shape = (chosen['frames'], *(side // self.vae.downsampling for side in size))
      channels = self.config['vae']['latent_channels']
      noise = torch.randn((1, channels, *shape), generator=generator)
    conditioning = self.condition(
      caption, image, last_image, *size, chosen['fps'], chosen.get('motion')
    )
    unconditional = self.unconditional(conditioning, chosen['negative_prompt'])
    z = noise.to(self.device, torch.float32)
    if chosen['levels']:
      z = self._noisy(video, z, table, chosen, unconditional)
    denoise = self._guided(conditioning, unconditional, chosen)
    latents = run_table(denoise, z, table, self.config['prediction_type'], generator)
    return self.vae.decode_video(latents)[0].cpu()

  def _checked(
    self, settings: Mapping[str, Any], video: Tensor | None
  ) -> tuple[dict[str, Any], Table]:
    """All settings, and the sampler's table; raises ValueError as `sample`."""
    unknown = sorted(set(settings) - set(self.settings))
    if unknown:
      raise ValueError(f'unknown settings {unknown}; known: {", ".join(self.settings)}.')
    chosen = {**self.settings, **settings}
    if chosen['levels']:
      if video is None:
        raise ValueError('this model refines a video: give video=.')
      chosen['frames'] = len(video)
    size, factor = (chosen['height'], chosen['width']), self.vae.downsampling
    if any(side < factor or side % factor for side in size):
      raise ValueError(f'height and width {size} must be multiples of {factor}.')
    names = ('num_steps', 'sampler', 'spacing', 'eta', 'set_alpha_to_one')
    options = {name: chosen[name] for name in names}
    levels = chosen['levels'] or None
    return chosen, make_table(self.alphas_cumprod['sampled'], levels=levels, **options)

  def condition(
    self,
    caption: str,
    image: Any,
    last_image: Any,
    height: int,
    width: int,
    fps: float,
    motion: float | None = None,
  ) -> dict[str, Tensor]:
    """`conditioning` of the U-Net, of one row; raises ValueError for a picture that is missing."""
    found = {}
    for name in self.unet.signals:
      if name in self.tokenizers:
        found[name] = self.encode_text(name, caption)
      elif name == 'fps':
        found[name] = torch.tensor([float(fps)], device=self.device)
      elif name == 'motion':
        known = motion is not None
        found[name] = torch.tensor([[float(motion or 0), float(known)]], device=self.device)
      else:
        which = 'last_image' if name == 'last_frame_latents' else 'image'
        picture = last_image if which == 'last_image' else image
        if picture is None:
          raise ValueError(f'this model is conditioned on {name}: give {which}=.')
        picture = to_pixels(picture)
        covering = cover(picture, height, width)
        if name == 'image_embedding':
          square_HWC = central_square(picture, self.image_encoder.image_size, covering)
          found[name] = self.image_encoder(square_HWC[None].to(self.device))
        else:
          frame_HWC = center_crop(covering, height, width).to(self.device)
          found[name] = self.vae.encode_video(frame_HWC[None, None])[:, :, 0]
    return found

  def unconditional(
    self, conditioning: Mapping[str, Tensor], negative_prompt: str
  ) -> dict[str, Tensor]:
    """What guidance moves away from: the negative prompt, and zeros for CLIP's image vector."""
    found = dict(conditioning)
    for name in conditioning:
      if name in self.tokenizers:
        found[name] = self.encode_text(name, negative_prompt)
      elif name == 'image_embedding':
        found[name] = torch.zeros_like(conditioning[name])
    return found

  def encode_text(self, signal: str, caption: str) -> Tensor:
    """(1, L, D) of a caption, by CLIP ('text') or T5 ('t5_text')."""
    network = self.text_encoder if signal == 'text' else self.t5
    return network(self.tokenizers[signal]([caption]).to(self.device))

  def _guided(
    self,
    conditioning: Mapping[str, Tensor],
    unconditional: Mapping[str, Tensor],
    chosen: Mapping[str, Any],
  ) -> Callable[[Tensor, Tensor], Tensor]:
    """Classifier-free guidance: Ho & Salimans 2022, arXiv:2207.12598."""
    both = {name: torch.cat([unconditional[name], conditioning[name]]) for name in conditioning}
    scale, rescale = chosen['guidance_scale'], chosen['guidance_rescale']

    def denoise(z: Tensor, timesteps_B: Tensor) -> Tensor:
      prediction = self.unet(torch.cat([z, z]), torch.cat([timesteps_B] * 2), both)
      without, towards = prediction.chunk(2)
      guided = without + scale * (towards - without)
      if rescale:
        # Lin et al. 2023, arXiv:2305.08891, Sec. 3.4.
        spread = lambda x: x.std(tuple(range(1, x.ndim)), correction=0, keepdim=True)  # noqa: E731
        guided = guided * (rescale * spread(towards) / spread(guided) + 1 - rescale)
      return guided

    return denoise

  def _noisy(
    self,
    video_FHWC: Any,
    noise: Tensor,
    table: Table,
    chosen: Mapping[str, Any],
    unconditional: Mapping[str, Tensor],
  ) -> Tensor:
    """z at the table's first timestep, of a video brought to size: by noise, or DDIM backwards."""
    frames_FCHW = torch.as_tensor(video_FHWC).permute(0, 3, 1, 2).to(self.device, torch.float32)
    size = (chosen['height'], chosen['width'])
    frames_FCHW = functional.interpolate(frames_FCHW, size, mode='bilinear', antialias=True)
    frames_FHWC = frames_FCHW.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    latents = self.vae.encode_video(frames_FHWC[None])
    if chosen['inversion_steps']:
      trained = self.alphas_cumprod['trained']
      inversion = inversion_table(trained, chosen['inversion_steps'], chosen['levels'])
      denoise = lambda z, timesteps_B: self.unet(z, timesteps_B, unconditional)  # noqa: E731
      return run_table(denoise, latents, inversion, self.config['prediction_type'])
    alpha_squared = self.alphas_cumprod['sampled'][table['timestep'][0]].item()
    return alpha_squared**0.5 * latents + (1 - alpha_squared) ** 0.5 * noise


def from_pretrained(
  folder: str | pathlib.Path,
  device: str | torch.device = 'cpu',
  dtype: torch.dtype | None = None,
  lora_scale: float = 1.0,
) -> VideoModel:
  """The model of a folder that `python -m i2vgen_jax.export --format=torch` wrote, in eval mode.

  Args:
    folder: with config.json, the weights and the tokenizers.
    device: where the networks go.
    dtype: of the weights and of the computation; as stored by default.
    lora_scale: strength of adapters that lie beside the weights; 0 leaves them out.
  """
  folder = pathlib.Path(folder)
  with torch.device('meta'):
    config = json.loads((folder / 'config.json').read_text('utf-8'))
    model = VideoModel(config, folder)
  for name, network in model.named_children():
    state = safetensors.torch.load_file(folder / f'{name}.safetensors', device=str(device))
    if name == 'unet' and config['lora'] and lora_scale:
      adapters = safetensors.torch.load_file(folder / 'lora.safetensors', device=str(device))
      merge_lora(state, adapters, lora_scale * config['lora']['alpha'] / config['lora']['rank'])
    state = {key: value.to(dtype or value.dtype) for key, value in state.items()}
    network.load_state_dict(state, assign=True)
  return model.eval()


def merge_lora(state: dict[str, Tensor], adapters: Mapping[str, Tensor], scale: float) -> None:
  """Adds scale * B A to each weight of a state that has adapters (Hu et al. 2021,
  arXiv:2106.09685)."""
  for name, down in adapters.items():
    layer, _, side = name.rpartition('.lora_')
    if side == 'A.weight':
      product = adapters[f'{layer}.lora_B.weight'].flatten(1).float() @ down.flatten(1).float()
      weight = state[f'{layer}.weight']
      state[f'{layer}.weight'] = (weight.float() + scale * product.view_as(weight)).to(weight.dtype)
