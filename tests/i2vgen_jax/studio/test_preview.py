"""The cheap look at latents resembles what the decoder makes of them."""

import io

import jax
import numpy as np
import PIL.Image
import pytest

from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.studio import preview as preview_lib
from tests import tiny


@pytest.fixture(scope='module')
def vae():
  """(autoencoder, frozen) of the demo, which is trained."""
  session = session_lib.build(tiny.get_config('unused'))
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
  networks = {'vae': session.networks['vae']}
  return session.autoencoder, frozen_lib.load(session.config, networks, mesh)


def test_a_look_is_near_to_the_decoded_picture_and_follows_its_places(vae):
  codec, frozen = vae
  side, number = preview_lib.LATENTS * codec.downsampling, preview_lib.NUM_PICTURES
  others = preview_lib.draw_pictures(2 * number, side)[number:]  # Not those that it is fitted to.
  latents, decoded = map(np.asarray, preview_lib.there_and_back(codec)(frozen, others))
  seen = preview_lib.fit(codec, frozen)(latents)
  small = preview_lib.LATENTS * preview_lib.SIDE
  assert seen.shape == (number, small, small, 3) and seen.dtype == np.uint8
  box = PIL.Image.Resampling.BOX
  wanted = [PIL.Image.fromarray(frame).resize((small, small), box) for frame in decoded]
  wanted = np.stack(wanted).astype(float)
  error = np.abs(seen - wanted).mean()
  flat = wanted.mean((1, 2), keepdims=True)  # The best that one colour could do.
  assert error < 0.6 * np.abs(wanted - flat).mean()  # 0.48 seen.
  assert error < 0.5 * np.abs(seen - wanted.swapaxes(1, 2)).mean()


def test_frames_become_an_animation_of_their_rate():
  frames = np.zeros((3, 8, 12, 3), np.uint8)
  frames[1:] = 200
  image = PIL.Image.open(io.BytesIO(preview_lib.webp(frames, fps=4)))
  assert image.n_frames >= 2 and image.size == (12, 8)
