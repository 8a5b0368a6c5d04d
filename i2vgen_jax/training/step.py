"""One optimizer step as a pure function: differentiate the objective, update, average."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from i2vgen_jax import session as session_lib
from i2vgen_jax.diffusion import loss as loss_lib
from i2vgen_jax.models import lora, unet3d
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import replicas, sharding
from i2vgen_jax.training import examine, objective, optimizer
from i2vgen_jax.training import guard as guard_lib

# The fields of config.train that `make_train_step` takes unchanged.
FIELDS = ('accumulation', 'ema_decay', 'ema_warmup', 'skip_norm', 'norms_every')


@flax.struct.dataclass
class TrainState:
  """All that training changes, plus the seed: what a checkpoint holds."""

  step: jax.Array  # int32 scalar: steps done, also those skipped: the position in the data.
  params: Any  # float32 master weights; frozen kernels as config.lora.frozen_dtype says.
  ema_params: Any  # float32: the average of all parameters, or of those branches that it has.
  opt_state: Any
  seed: jax.Array  # uint32 key data; never changes.
  guard: guard_lib.Guard

  @property
  def averaged(self) -> Any:
    """All parameters, averaged where they are."""
    return self.params | self.ema_params


def make_init(
  unet: unet3d.UNet3D | lora.AdaptedUNet,
  optimizer: optax.GradientTransformation,
  example: tuple,
  seed: int,
  averages_all: bool = True,
) -> Callable[[], TrainState]:
  """() -> TrainState; jit it with sharded outputs, so that no device ever holds the state whole.

  Args:
    unet: to be trained.
    optimizer: from optimizer.make_optimizer.
    example: ShapeDtypeStructs of (noisy_latents_BFHWC, timesteps_B, conditioning) of any batch.
    seed: of the run, config.seed.
    averages_all: False averages adapters alone.
  """

  def init() -> TrainState:
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example)
    params = unet.init(jax.random.fold_in(jax.random.key(seed), 0), *zeros)['params']
    averaged = params if averages_all else {lora.KEY: params[lora.KEY]}
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      ema_params=jax.tree.map(jnp.copy, averaged),
      opt_state=optimizer.init(params),
      seed=objective.data_seed(seed),
      guard=guard_lib.start(),
    )

  return init


def start_from(state: TrainState, params: Any) -> TrainState:
  """The state of a new run with other first parameters, which its average starts from too."""
  copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))  # A step donates each buffer once.
  averaged = {name: params[name] for name in state.ema_params}
  return dataclasses.replace(state, params=params, ema_params=copy(averaged))


def moving(tree: Any, trained: Any) -> Any:
  """The tree with a scalar for each leaf that is not trained: it takes no gradient and no memory.

  Args:
    tree: of parameters.
    trained: tree of bools; None trains all.
  """
  if trained is None:
    return tree
  return jax.tree.map(lambda leaf, moves: leaf if moves else jnp.zeros(()), tree, trained)


def rejoined(moved: Any, tree: Any, trained: Any) -> Any:
  """What `moving` left out put back, from the tree."""
  if trained is None:
    return moved
  return jax.tree.map(lambda new, old, moves: new if moves else old, moved, tree, trained)


def make_mean_gradient(
  batch_loss: objective.Loss, accumulation: int, trained: Any = None
) -> Callable[..., tuple[tuple[jax.Array, jax.Array], Any]]:
  """(batch, params, frozen, seed, step) -> ((loss, levels), gradients): means over the rows of the
  batch; levels over replicas and micro-batches, so that its losses divided by its numbers are means
  over rows.

  Args:
    batch_loss: from `make_loss`.
    accumulation: how many micro-batches are taken one after the other; it divides the batch.
    trained: tree of bools, as of `moving`.
  """

  def gradient(params, *others):
    def of_moved(moved):
      return batch_loss(rejoined(moved, params, trained), *others)

    return jax.value_and_grad(of_moved, has_aux=True)(moving(params, trained))

  @replicas.mean_over_replicas
  def mean_gradient(batch, params, frozen, seed, step):
    def of_part(part):
      return gradient(params, frozen, part, seed, step)

    def add_part(total, part):
      return jax.tree.map(jnp.add, total, of_part(part)), None

    if accumulation == 1:
      return of_part(batch)
    losses = jnp.zeros(()), jnp.zeros((2, loss_lib.NUM_LEVELS))
    zeros = losses, jax.tree.map(jnp.zeros_like, moving(params, trained))
    total, _ = jax.lax.scan(add_part, zeros, split_batch(batch, accumulation))
    return jax.tree.map(lambda x: x / accumulation, total)

  return mean_gradient


def make_train_step(
  batch_loss: objective.Loss,
  optimizer: optax.GradientTransformation,
  learning_rate: optax.Schedule,
  *,
  accumulation: int,
  ema_decay: float,
  ema_warmup: bool,
  skip_norm: float = 0.0,
  norms_every: int = 0,
  offload_optimizer: bool,
  trained: Any = None,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]:
  """(state, frozen, batch) -> (state, metrics); jit it with the state donated.

  Args:
    batch_loss: from `make_loss`.
    optimizer: from optimizer.make_optimizer.
    learning_rate: its schedule, for the metrics.
    accumulation: as of `make_mean_gradient`.
    ema_decay: weight of the past in the moving average of parameters.
    ema_warmup: if True, the decay starts low: min(ema_decay, (1 + n) / (10 + n)) after n updates.
    skip_norm: as of `guard.judge`: a step that it judges bad moves `step` and `guard` alone. What
      follows a schedule counts updates, as the optimizer does.
    norms_every: not 0 if the metrics have the gradients' norms by block, for `examine.Examined`.
    offload_optimizer: if True, the optimizer's state comes from the memory of the host, where
      `state_shardings` puts it back.
    trained: tree of bools: the parameters that are updated and averaged; None for all.
  """

  mean_gradient = make_mean_gradient(batch_loss, accumulation, trained)

  def step(state, frozen, batch):
    (mean_loss, levels), grads = mean_gradient(batch, state.params, frozen, state.seed, state.step)
    norm = optax.tree.norm(grads)
    keep, guard = guard_lib.judge(state.guard, state.step, mean_loss, norm, skip_norm)
    num_updates = state.step - state.guard.num_skipped
    averaged = trained and {name: trained[name] for name in state.ema_params}
    before = dict(
      params=moving(state.params, trained),
      ema_params=moving(state.ema_params, averaged),
      opt_state=state.opt_state,
    )
    if offload_optimizer:
      before['opt_state'] = jax.device_put(state.opt_state, jax.memory.Space.Device)
    decay = ema_decay
    if ema_warmup:
      decay = jnp.minimum(ema_decay, (1.0 + num_updates) / (10.0 + num_updates))

    def update(before: dict[str, Any], grads: Any) -> dict[str, Any]:
      updates, opt_state = optimizer.update(grads, before['opt_state'], before['params'])
      params: Any = optax.apply_updates(before['params'], updates)
      ema_params = jax.tree.map(
        lambda average, param: decay * average + (1 - decay) * param,
        before['ema_params'],
        {name: params[name] for name in before['ema_params']},
      )
      return dict(params=params, ema_params=ema_params, opt_state=opt_state)

    after = jax.lax.cond(keep, update, lambda before, grads: before, before, grads)
    after['params'] = rejoined(after['params'], state.params, trained)
    after['ema_params'] = rejoined(after['ema_params'], state.ema_params, averaged)
    metrics: dict[str, Any] = {
      'loss': mean_loss,
      'levels': levels,
      'grad_norm': norm,
      'learning_rate': learning_rate(num_updates),
      'num_skipped_steps': guard.num_skipped,
    }
    if norms_every:
      metrics['grad_norms'] = examine.norms_by_block(grads)
    state = state.replace(step=state.step + 1, guard=guard, **after)
    return state, metrics

  return step


def split_batch(batch: Any, accumulation: int) -> Any:
  """(B, ...) -> (accumulation, B / accumulation, ...); each device cuts up the rows that it
  holds."""

  return jax.tree.map(
    lambda value: value.reshape((-1, accumulation) + value.shape[1:]).swapaxes(0, 1), batch
  )


def from_config(
  session: session_lib.Session,
) -> tuple[Any, Any, Callable[[], TrainState], Callable[..., jax.stages.Wrapped]]:
  """(abstract state, shardings, init, batch_loss -> train step) of a run; see the functions below
  and above; raises ValueError as they do."""
  config = session.config
  guard_lib.check(config)
  abstract_params = session.abstract_params()
  rule, learning_rate = optimizer.from_config(config, abstract_params)
  trained = optimizer.trained(config, abstract_params) if lora.groups(config) else None
  init = make_init(
    session.unet, rule, session.smallest_unet_inputs(), config.seed, lora.averages_all(config)
  )
  abstract, shardings = state_shardings(init, session.mesh, **config.sharding)

  def of_loss(batch_loss: objective.Loss) -> jax.stages.Wrapped:
    """The train step, jitted, with the state donated."""
    function = make_train_step(
      batch_loss,
      rule,
      learning_rate,
      **{name: config.train[name] for name in FIELDS},
      offload_optimizer=config.sharding.offload_optimizer,
      trained=trained,
    )
    return jax.jit(
      mesh_lib.within(session.mesh, function),
      donate_argnums=0,
      out_shardings=(shardings, mesh_lib.replicated(session.mesh)),
    )

  return abstract, shardings, init, of_loss


def by_bucket(
  session: session_lib.Session, of_loss: Callable[..., jax.stages.Wrapped]
) -> Callable[[str], jax.stages.Wrapped]:
  """Name of a bucket -> its train step, the same object for buckets that drop signals alike.

  Args:
    session: of the run, with its frozen weights.
    of_loss: from `from_config`.
  """
  groups = {bucket.name: bucket.group for bucket in session.buckets()}

  @functools.cache
  def make_step(rates: tuple) -> jax.stages.Wrapped:
    return of_loss(objective.make_loss(session, dict(rates)))

  return lambda name: make_step(tuple(sorted(session.dropout_rates(groups[name]).items())))


def state_shardings(
  init: Callable[[], TrainState],
  mesh: jax.sharding.Mesh,
  *,
  min_elements: int,
  offload_optimizer: bool,
) -> tuple[Any, Any]:
  """(abstract state, shardings) of what `init` makes.

  Args:
    init: of `make_init`.
    mesh: of the run.
    min_elements: tensors with fewer elements are whole on each device.
    offload_optimizer: if True, the optimizer's state is in the memory of the hosts.

  Raises:
    ValueError: as sharding.spec_for.
  """
  abstract = jax.eval_shape(init)
  placed = sharding.shard_tree(abstract, mesh, min_elements)
  if offload_optimizer:
    to_host = lambda leaf, s: s.with_memory_kind('pinned_host') if leaf.ndim else s  # noqa: E731
    placed = placed.replace(opt_state=jax.tree.map(to_host, abstract.opt_state, placed.opt_state))
  return abstract, placed
