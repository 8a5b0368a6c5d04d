"""One optimizer step as a pure function: encode, noise, predict, differentiate, update, average.

Paper Sec. 3; the order of the reconstructed training loop of the release. Every draw of a sample
is keyed by (seed, step, its row in the global batch): the same on any mesh, number of hosts and of
micro-batches.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from i2vgen_jax.diffusion import guidance, loss
from i2vgen_jax.models import video_parts
from i2vgen_jax.parallel import replicas, sharding

NUM_DRAWS = 6  # Keys of a sample in a step: posterior, image, drops, timestep, noise, dropout.


@flax.struct.dataclass
class TrainState:
  """All that training changes, plus the seed: what a checkpoint holds."""

  step: jax.Array  # int32 scalar: updates done.
  params: Any  # float32 master weights.
  ema_params: Any  # float32.
  opt_state: Any
  seed: jax.Array  # uint32 key data; never changes.


def make_init(unet, optimizer, example, seed):
  """() -> TrainState; to be jitted with sharded outputs, so that no device ever holds it whole.

  Args:
    unet: a UNet3D.
    optimizer: from optimizer.make_optimizer.
    example: (noisy_latents_BFHWC, timesteps_B, conditioning) shapes of any one batch.
    seed: int.
  """

  def init():
    key = jax.random.key(seed)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example)
    params = unet.init(jax.random.fold_in(key, 0), *zeros)['params']
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      ema_params=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
      seed=jax.random.key_data(jax.random.fold_in(key, 1)),
    )

  return init


def start_from(state, params):
  """The state of a new run with other first parameters, averaged from there on."""
  copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))  # A step donates each buffer once.
  return state.replace(params=params, ema_params=copy(params))


def sample_keys(seed, step, position_B, num):
  """`num` arrays of one key per sample, from (seed, step, global position)."""
  step_key = jax.random.fold_in(jax.random.wrap_key_data(seed), step)
  keys_BK = jax.vmap(lambda row: jax.random.split(jax.random.fold_in(step_key, row), num))(
    position_B
  )
  return [keys_BK[:, k] for k in range(num)]


def make_encode(encoders, condition_dropout):
  """(frozen, batch, seed, step) -> what the U-Net trains on: latents, conditioning, position."""

  def encode(frozen, batch, seed, step):
    posterior_B, image_B, drop_B, *_ = sample_keys(seed, step, batch['position'], NUM_DRAWS)
    latents_BFHWC, conditioning = encoders.encode_batch(frozen, batch, posterior_B, image_B)
    conditioning = guidance.drop_conditions(
      drop_B, conditioning, encoders.null_conditions(frozen), condition_dropout
    )
    return {
      'latents': latents_BFHWC,
      'conditioning': conditioning,
      'position': batch['position'],
    }

  return encode


def make_encoded_loss(
  unet,
  schedule,
  *,
  prediction_type,
  offset_noise,
  timestep_shift,
  timestep_range,
  min_snr_gamma,
):
  """(params, encoded, seed, step) -> mean loss of what `make_encode` makes of a batch."""

  apply = video_parts.split_videos(unet.apply)

  def encoded_loss(params, encoded, seed, step):
    *_, time_B, noise_B, dropout_B = sample_keys(seed, step, encoded['position'], NUM_DRAWS)
    latents_BFHWC, conditioning = jax.lax.stop_gradient(
      (encoded['latents'], encoded['conditioning'])
    )
    timesteps_B = loss.draw_timesteps(time_B, timestep_range, timestep_shift)
    noise_BFHWC = loss.draw_noise(noise_B, latents_BFHWC, offset_noise)

    def denoise(noisy_BFHWC, timesteps_B):
      return apply({'params': params}, noisy_BFHWC, timesteps_B, conditioning, dropout_B)

    loss_B = loss.denoising_loss(
      denoise, latents_BFHWC, noise_BFHWC, timesteps_B, schedule, prediction_type
    )
    if min_snr_gamma:
      loss_B *= loss.min_snr_weight(timesteps_B, schedule, prediction_type, min_snr_gamma)
    return loss_B.mean()

  return encoded_loss


def make_loss(unet, encoders, schedule, *, condition_dropout, **options):
  """(params, frozen, batch, seed, step) -> mean loss of the batch; one fresh draw for every sample.

  `options` are those of `make_encoded_loss`.
  """
  encode = make_encode(encoders, condition_dropout)
  encoded_loss = make_encoded_loss(unet, schedule, **options)

  def batch_loss(params, frozen, batch, seed, step):
    return encoded_loss(params, encode(frozen, batch, seed, step), seed, step)

  return batch_loss


def make_mean_gradient(batch_loss, accumulation):
  """(batch, params, frozen, seed, step) -> (loss, gradients), means over the rows of the batch.

  Args:
    batch_loss: from `make_loss`.
    accumulation: number of micro-batches that are taken one after the other; divides the batch.
  """
  gradient = jax.value_and_grad(batch_loss)

  @replicas.mean_over_replicas
  def mean_gradient(batch, params, frozen, seed, step):
    def of_part(part):
      return gradient(params, frozen, part, seed, step)

    def add_part(total, part):
      return jax.tree.map(jnp.add, total, of_part(part)), None

    if accumulation == 1:
      return of_part(batch)
    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add_part, zeros, split_batch(batch, accumulation))
    return jax.tree.map(lambda x: x / accumulation, total)

  return mean_gradient


def make_train_step(
  batch_loss, optimizer, learning_rate, *, accumulation, ema_decay, ema_warmup, offload_optimizer
):
  """(state, frozen, batch) -> (state, metrics); jit it with the state donated.

  Args:
    batch_loss: from `make_loss`.
    optimizer: from optimizer.make_optimizer.
    learning_rate: its schedule, for the metrics.
    accumulation: as of `make_mean_gradient`.
    ema_decay: weight of the past in the moving average of parameters.
    ema_warmup: if True, the decay starts low: min(ema_decay, (1 + step) / (10 + step)).
    offload_optimizer: if True, the optimizer's state comes from the memory of the host, where
      `state_shardings` puts it back.
  """

  mean_gradient = make_mean_gradient(batch_loss, accumulation)

  def step(state, frozen, batch):
    mean_loss, grads = mean_gradient(batch, state.params, frozen, state.seed, state.step)
    opt_state = state.opt_state
    if offload_optimizer:
      opt_state = jax.device_put(opt_state, jax.memory.Space.Device)
    updates, opt_state = optimizer.update(grads, opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema_decay
    if ema_warmup:
      decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
    ema_params = jax.tree.map(
      lambda average, param: decay * average + (1 - decay) * param, state.ema_params, params
    )
    metrics = {
      'loss': mean_loss,
      'grad_norm': optax.tree.norm(grads),
      'learning_rate': learning_rate(state.step),
    }
    state = state.replace(
      step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state
    )
    return state, metrics

  return step


def split_batch(batch, accumulation):
  """(B, ...) -> (accumulation, B / accumulation, ...); each device cuts up the rows that it
  holds."""

  def split(value):
    rows = value.reshape((-1, accumulation) + value.shape[1:])
    return jnp.swapaxes(rows, 0, 1)

  return jax.tree.map(split, batch)


def make_eval_loss(unet, encoders, schedule, *, prediction_type, timestep_range):
  """(params, frozen, batch, seed) -> loss_B at timesteps and noise that depend on the row alone.

  Timesteps are spread evenly over the rows by a multiplicative permutation, so that any prefix of
  rows covers all noise levels of the range, unweighted. Posterior means, no dropout: the number is
  the same at every call.
  """

  apply = video_parts.split_videos(unet.apply)

  def eval_loss(params, frozen, batch, seed):
    (noise_B,) = sample_keys(seed, 0, batch['position'], 1)
    latents_BFHWC = encoders.encode_video(frozen, batch['video'])
    conditioning = encoders.conditioning(
      frozen, batch['token_ids'], batch['video'][:, 0], batch['clip_image'], batch['fps']
    )
    # Golden-ratio steps fill [0, 1) evenly for any number of rows.
    fraction_B = jnp.mod((batch['position'] + 0.5) * 0.6180339887, 1.0)
    start, stop = timestep_range
    timesteps_B = start + (fraction_B * (stop - start)).astype(jnp.int32)
    noise_BFHWC = loss.draw_noise(noise_B, latents_BFHWC, 0.0)

    def denoise(noisy_BFHWC, timesteps_B):
      return apply({'params': params}, noisy_BFHWC, timesteps_B, conditioning)

    return loss.denoising_loss(
      denoise, latents_BFHWC, noise_BFHWC, timesteps_B, schedule, prediction_type
    )

  return eval_loss


def state_shardings(init, mesh, *, min_elements, offload_optimizer):
  """(abstract state, shardings) of what `init` makes, the optimizer's part in the memory of the
  hosts if it is to be offloaded; raises ValueError as sharding.spec_for."""
  abstract = jax.eval_shape(init)
  placed = sharding.shard_tree(abstract, mesh, min_elements)
  if offload_optimizer:
    to_host = lambda leaf, s: s.with_memory_kind('pinned_host') if leaf.ndim else s  # noqa: E731
    placed = placed.replace(opt_state=jax.tree.map(to_host, abstract.opt_state, placed.opt_state))
  return abstract, placed
