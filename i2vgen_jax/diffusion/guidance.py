"""Classifier-free guidance: conditions dropped in training, extrapolated along in sampling.

Ho & Salimans 2022 (arXiv:2207.12598). `conditioning` is a dict of arrays with a leading batch dim.
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

DROP_SLOTS = 4  # The first release draws for three conditions that can be dropped, and 'all'.
# Latent pixels of a batch up to which both sides of guidance are one call: 32 frames of 448x256
# have 57,344. More fill a device by themselves, and both sides would only take more memory.
MOST_AT_ONCE = 2**16


def drop_conditions(
  keys_B: jax.Array,
  conditioning: Mapping[str, jax.Array],
  null_conditioning: Mapping[str, jax.Array],
  rates: Mapping[str, float],
  slots: Mapping[str, int | None],
) -> dict[str, jax.Array]:
  """Replaces whole conditions by their null value, each sample and condition on its own draw.

  Args:
    keys_B: one key per sample.
    conditioning: name -> (B, ...).
    null_conditioning: name -> array broadcastable to (B, ...); the names that can be dropped.
    rates: name -> probability in [0, 1]; 'all' drops every droppable condition together.
    slots: name -> its place among DROP_SLOTS; None draws by the name, whatever else is drawn.

  Returns:
    `conditioning` with the same names and shapes.
  """
  draws_BK = jax.vmap(lambda key: jax.random.uniform(key, (DROP_SLOTS,)))(keys_B)
  drop_all_B = draws_BK[:, -1] < rates['all']
  dropped = dict(conditioning)
  for name in sorted(null_conditioning):
    value = conditioning[name]
    if slots[name] is None:
      number = zlib.crc32(name.encode())
      draw_B = jax.vmap(lambda key, n=number: jax.random.uniform(jax.random.fold_in(key, n)))(
        keys_B
      )
    else:
      draw_B = draws_BK[:, slots[name]]
    drop_B = (draw_B < rates[name]) | drop_all_B
    drop = drop_B.reshape((-1,) + (1,) * (value.ndim - 1))
    dropped[name] = jnp.where(drop, null_conditioning[name].astype(value.dtype), value)
  return dropped


def guided(
  denoise: Callable[[jax.Array, jax.Array, Mapping[str, jax.Array]], jax.Array],
  conditioning: Mapping[str, jax.Array],
  unconditional: Mapping[str, jax.Array],
  guidance_scale: float,
  rescale: float = 0.0,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """A denoiser that moves from the unconditional prediction to the conditional one, and past it.

  Args:
    denoise: (noisy_latents_BFHWC, timesteps_B, conditioning) -> prediction_BFHWC.
    conditioning: what to follow.
    unconditional: what to move away from; same names and shapes.
    guidance_scale: 1 is the conditional prediction itself; 9 in the release.
    rescale: share in [0, 1] of the result that is brought back to the conditional prediction's
      standard deviation, which guidance inflates (Lin et al. 2023, arXiv:2305.08891, Sec. 3.4).

  Returns:
    (noisy_latents_BFHWC, timesteps_B) -> prediction_BFHWC; one call of `denoise` on a doubled
    batch, or of more than MOST_AT_ONCE two calls, one after the other.
  """
  join = lambda joined: {  # noqa: E731
    name: joined([unconditional[name], value]) for name, value in conditioning.items()
  }

  def denoise_guided(noisy_latents_BFHWC: jax.Array, timesteps_B: jax.Array) -> jax.Array:
    if math.prod(noisy_latents_BFHWC.shape[:-1]) > MOST_AT_ONCE:
      side = functools.partial(denoise, noisy_latents_BFHWC, timesteps_B)
      without_BFHWC, with_BFHWC = jax.lax.map(side, join(jnp.stack))
    else:
      twice = lambda x: jnp.concatenate([x] * 2)  # noqa: E731
      both = denoise(twice(noisy_latents_BFHWC), twice(timesteps_B), join(jnp.concatenate))
      without_BFHWC, with_BFHWC = jnp.split(both, 2)
    guided_BFHWC = without_BFHWC + guidance_scale * (with_BFHWC - without_BFHWC)
    if rescale:
      spread = lambda x: jnp.std(x, axis=range(1, x.ndim), keepdims=True)  # noqa: E731
      guided_BFHWC *= rescale * spread(with_BFHWC) / spread(guided_BFHWC) + (1 - rescale)
    return guided_BFHWC

  return denoise_guided
