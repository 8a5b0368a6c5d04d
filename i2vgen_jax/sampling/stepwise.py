"""The computation of generate.make_generate, one network call at a time.

So whoever samples sees how far it is and what comes of it, and may stop. Each network call runs the
same compiled program, whatever the seed, the guidance and the number of steps: a new one is
compiled for a new shape alone. The numbers are those of the one program, to the bit on a CPU.
"""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import progress
from i2vgen_jax import session as session_lib
from i2vgen_jax.diffusion import guidance
from i2vgen_jax.diffusion import sampler as samplers
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.sampling import calls
from i2vgen_jax.sampling import generate as generate_lib

# (calls begun, calls in all, what the U-Net takes the clean latents for, float32 (B, F, H, W, C)):
# who reads the latents waits for the call. To stop the sampling, raise an error.
Watch = Callable[[int, int, jax.Array], None]


class Stepwise:
  """The programs of a session; its frozen weights may change from call to call.

  Attributes:
    session: on the mesh that samples.
  """

  def __init__(self, session: session_lib.Session):
    self.session = session
    # Latents lie alike before and after each call: else a second program is compiled.
    self._whole = mesh_lib.replicated(session.mesh)
    within = functools.partial(mesh_lib.within, session.mesh)
    jit = lambda function, *static: jax.jit(  # noqa: E731
      within(function), static_argnames=static, out_shardings=self._whole
    )
    self._schedules: dict[str, Any] = {}  # A program is compiled for each object.
    self._sides = jax.jit(within(self._both_sides))
    self._encode = jit(self._encode_start)
    self._add_noise = jit(generate_lib.with_noise, 'schedule')
    self._advance = jit(self._one_call, 'guidance_rescale', 'prediction_type')
    self._invert = jit(self._one_call_back, 'prediction_type')
    self._decode = jax.jit(within(session.autoencoder.decode_video))

  def __call__(
    self,
    weights: tuple[Any, Any],
    inputs: generate_lib.Inputs,
    noise_BFHWC: jax.Array,
    settings: dict[str, Any],
    seed: int,
    watch: Watch,
  ) -> jax.Array:
    """uint8 videos (B, F, H, W, 3).

    Args:
      weights: parameters of the U-Net, frozen.
      inputs: as of make_generate.
      noise_BFHWC: to start from.
      settings: of generate.settings.
      seed: of the noise that the sampler adds.
      watch: called after each network call.
    """
    params, frozen = weights
    own = {name: value for name, value in settings.items() if name in calls.SETTINGS}
    chosen = calls.tables(self.session, **own)
    prediction_type = settings['prediction_type']
    conditioning, unconditional = self._sides(frozen, inputs, noise_BFHWC)
    z_BFHWC, done = jax.device_put(jnp.asarray(noise_BFHWC, jnp.float32), self._whole), 0
    zeros_BFHWC = jax.device_put(jnp.zeros_like(z_BFHWC), self._whole)
    if settings['levels']:
      z_BFHWC = self._encode(frozen, inputs.video, noise_BFHWC)
    if chosen.inversion:
      x0_BFHWC = zeros_BFHWC
      for row in _rows(chosen.inversion):
        z_BFHWC, x0_BFHWC = self._invert(
          params, unconditional, z_BFHWC, x0_BFHWC, row, prediction_type
        )
        done += 1
        watch(done, chosen.num_calls, x0_BFHWC)
    elif settings['levels']:
      timestep = chosen.table['timestep'][0]
      schedule = self._schedules.setdefault(settings['schedule'], chosen.schedule)
      z_BFHWC = self._add_noise(z_BFHWC, noise_BFHWC, timestep, schedule)
    keys_B = None
    if samplers.adds_noise(chosen.table):
      keys_B = generate_lib.row_keys(seed, noise_BFHWC.shape[0])
    x0_BFHWC = zeros_BFHWC
    for row in _rows(chosen.table):
      z_BFHWC, x0_BFHWC = self._advance(
        params, (conditioning, unconditional), z_BFHWC, x0_BFHWC, row, keys_B,
        settings['guidance_scale'], settings['guidance_rescale'], prediction_type,
      )  # fmt: skip
      done += 1
      watch(done, chosen.num_calls, x0_BFHWC)
    return self._decode(frozen, z_BFHWC)

  # The programs.

  def _both_sides(self, frozen, inputs, noise_BFHWC):
    return generate_lib.both_sides(self.session, frozen, inputs, noise_BFHWC.shape[0])

  def _encode_start(self, frozen, video_BFHWC, noise_BFHWC):
    return generate_lib.encode_start(self.session, frozen, video_BFHWC, noise_BFHWC)

  def _one_call(
    self, params, sides, z, last_x0, row, keys_B, guidance_scale, guidance_rescale, prediction_type
  ):
    denoise = generate_lib.denoiser(self.session, params)
    conditioning, unconditional = sides
    guided = guidance.guided(denoise, conditioning, unconditional, guidance_scale, guidance_rescale)
    return samplers.advance(guided, z, last_x0, row, prediction_type, keys_B)

  def _one_call_back(self, params, unconditional, z, last_x0, row, prediction_type):
    denoise = generate_lib.denoiser(self.session, params)
    without = lambda z, timesteps_B: denoise(z, timesteps_B, unconditional)  # noqa: E731
    return samplers.advance(without, z, last_x0, row, prediction_type)


def _rows(table: samplers.Table) -> Iterator[dict[str, np.ndarray]]:
  return (samplers.row(table, index) for index in range(len(table['timestep'])))


@contextlib.contextmanager
def bar() -> Generator[Watch, None, None]:
  """A Watch that shows a bar, or lines, of how far one video is."""
  with contextlib.ExitStack() as stack:
    shown: list[progress.Progress] = []

    def watch(done: int, total: int, x0_BFHWC: jax.Array) -> None:
      if not shown:
        shown.append(stack.enter_context(progress.Progress(total, 'step', 'denoising')))
      jax.block_until_ready(x0_BFHWC)
      shown[0].update()

    yield watch
