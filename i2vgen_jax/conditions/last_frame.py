"""The last frame beside the first: from a first and a last picture to the video between them.

Its latents enter as those of the first do (image_latents.py): as channels beside the noise, here
the last frame of a sequence whose other frames mark positions. In training it is the clip's own.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.media import pictures
from i2vgen_jax.conditions import base, image_latents, signals


class LastFrameLatents(signals.FrameLatents):
  """The last frame by the VAE: scaled latents, (B, H, W, C), a draw of their own."""

  name = 'last_frame_latents'
  flags = {'last_image': 'Last frame: any picture file; for models that are conditioned on it.'}
  dropout = 0.1
  drop_slot = None  # And draws that are not the first frame's.
  frame = slice(-1, None)
  field = 'last_image'

  def of_request(self, request: base.Request) -> dict[str, np.ndarray]:
    """The picture of --last_image for every video; raises ValueError without one."""
    path = request.more.get('last_image')
    if not path:
      raise ValueError('this model goes from a first to a last frame: give --last_image=FILE.')
    images = [pictures.read_image(path)] * len(request.captions)
    return super().of_request(dataclasses.replace(request, images=images))


class LastFrame(image_latents.ImageLatents):
  """Last frame's latents, (B, H, W, C), as the last of a sequence whose others mark positions."""

  signals = (LastFrameLatents,)
  ablated = 'last frame'

  def sequence(self, image_latents_BHWC: jax.Array, num_frames: int) -> jax.Array:
    """(B, H, W, C) -> (B, F, H, W, C): as ImageLatents has it, backwards."""
    return jnp.flip(super().sequence(image_latents_BHWC, num_frames), axis=1)
