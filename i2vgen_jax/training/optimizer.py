"""AdamW or Muon with parameter groups, warm-up, decay and clipping, as one optax transformation."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
import optax.contrib

from i2vgen_jax.models import lora
from i2vgen_jax.parallel import sharding

KINDS = ('adamw', 'muon')
SCHEDULES = ('constant', 'cosine')  # Of the learning rate.
# The fields of config.optimizer that `make_optimizer` takes unchanged.
FIELDS = ('kind', 'b1', 'b2', 'eps', 'muon_rms', 'weight_decay', 'max_grad_norm')


def from_config(
  config: ml_collections.ConfigDict, abstract_params: Any
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """(update rule, step -> learning rate) of a run; see `make_optimizer`."""
  rates = config.optimizer
  learning_rate = learning_rate_schedule(
    rates.schedule, rates.peak_learning_rate, rates.warmup_steps, config.train.num_steps
  )
  fields = {name: rates[name] for name in FIELDS}
  groups = lora.groups(config)
  return make_optimizer(abstract_params, learning_rate, **fields, groups=groups), learning_rate


def learning_rate_schedule(
  kind: str, peak: float, warmup_steps: int, num_steps: int
) -> optax.Schedule:
  """step -> learning rate: linear warm-up to `peak`, then constant or a cosine to 0 at `num_steps`.

  Args:
    kind: one of SCHEDULES.
    peak: the highest learning rate.
    warmup_steps: steps of the warm-up; 0 has none.
    num_steps: steps of the run.

  Raises:
    ValueError: unknown `kind`, or a warm-up longer than the run.
  """
  if not 0 <= warmup_steps <= num_steps:
    raise ValueError(
      f'optimizer.warmup_steps={warmup_steps} must lie in 0..{num_steps} (num_steps).'
    )
  if kind == 'constant':
    after = optax.constant_schedule(peak)
  elif kind == 'cosine':
    after = optax.cosine_decay_schedule(peak, max(1, num_steps - warmup_steps))
  else:
    raise ValueError(f'optimizer.schedule={kind!r} is unknown; known: {str(SCHEDULES)[1:-1]}.')
  if not warmup_steps:
    return after
  # The first update already moves: step 0 trains at peak / warmup_steps.
  warmup = optax.linear_schedule(peak / warmup_steps, peak, max(1, warmup_steps - 1))
  return optax.join_schedules([warmup, after], [warmup_steps])


DEFAULT_GROUP = {'match': '', 'lr': 1.0, 'weight_decay': None, 'freeze': False}


def group_of(name: str, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The first group whose `match` fits the parameter's path, completed by the defaults."""
  for group in groups:
    if re.search(group['match'], name):
      return {**DEFAULT_GROUP, **group}
  return DEFAULT_GROUP


def trained(config: ml_collections.ConfigDict, abstract_params: Any) -> Any:
  """Tree of bools: which parameters a run trains."""
  groups = lora.groups(config)
  return jax.tree.map(lambda name: not group_of(name, groups)['freeze'], _names(abstract_params))


def _names(tree: Any) -> Any:
  return jax.tree_util.tree_map_with_path(lambda path, _: sharding.path_name(path), tree)


def make_optimizer(
  abstract_params: Any,
  learning_rate: optax.ScalarOrSchedule,
  *,
  kind: str = 'adamw',
  b1: float,
  b2: float,
  eps: float,
  muon_rms: float = 0.2,
  weight_decay: float,
  max_grad_norm: float,
  groups: Sequence[Mapping[str, Any]],
) -> optax.GradientTransformation:
  """The update rule.

  Args:
    abstract_params: tree of arrays or ShapeDtypeStructs; only paths are read.
    learning_rate: step -> learning rate.
    kind: one of KINDS; 'muon' updates kernels by Muon and the rest by Adam.
    b1, b2, eps: Adam's.
    muon_rms: root mean square of Muon's updates, in units of the learning rate.
    weight_decay: decoupled, applied to kernels (tensors of rank 2 and more).
    max_grad_norm: gradients of trained parameters are scaled down to this global norm; 0 leaves
      them.
    groups: dicts with `match` (regex on the path; the first match wins), `lr` (multiplier),
      `weight_decay` (None: the default above) and `freeze` (no update, no optimizer state).

  Raises:
    ValueError: an unknown `kind`, a group that matches no parameter, or everything is frozen.
  """
  names = _names(abstract_params)
  for group in groups:
    unknown = sorted(set(group) - set(DEFAULT_GROUP))
    if unknown or 'match' not in group:
      raise ValueError(
        f'optimizer.groups: {dict(group)} needs `match` and takes {sorted(DEFAULT_GROUP)}; '
        f'unknown: {unknown}.'
      )
    for field in ('lr', 'weight_decay'):
      value = group.get(field)
      if value is not None and not 0 <= value < math.inf:
        raise ValueError(
          f'optimizer.groups: {field}={value} of {dict(group)} must lie in [0, inf).'
        )
    if not any(re.search(group['match'], name) for name in jax.tree.leaves(names)):
      raise ValueError(
        f'optimizer.groups: match={group["match"]!r} fits no parameter, e.g. '
        f'{jax.tree.leaves(names)[0]}.'
      )
  labels = jax.tree.map(
    lambda name: 'frozen' if group_of(name, groups)['freeze'] else 'trained', names
  )
  if 'trained' not in jax.tree.leaves(labels):
    raise ValueError('optimizer.groups freeze every parameter: nothing is left to train.')

  def decay_of(name, leaf):
    own = group_of(name, groups)['weight_decay']
    return (weight_decay if own is None else own) if len(leaf.shape) >= 2 else 0.0

  decay_tree = jax.tree.map(decay_of, names, abstract_params)
  scale_tree = jax.tree.map(lambda name: float(group_of(name, groups)['lr']), names)
  trained = optax.chain(
    optax.clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity(),
    _direction(kind, b1, b2, eps, muon_rms),
    _to_each(lambda update, param, decay: update + decay * param if decay else update, decay_tree),
    _to_each(lambda update, _, scale: update if scale == 1 else update * scale, scale_tree),
    optax.scale_by_learning_rate(learning_rate),
  )
  return optax.partition({'trained': trained, 'frozen': optax.set_to_zero()}, labels)


def _direction(
  kind: str, b1: float, b2: float, eps: float, muon_rms: float
) -> optax.GradientTransformation:
  """Turns gradients into steps of about unit size."""
  if kind == 'adamw':
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
  if kind == 'muon':
    # Jordan et al. 2024; kernels of any rank are matrices from inputs to outputs.
    muon = optax.contrib.muon(
      1.0,
      consistent_rms=muon_rms,
      adam_learning_rate=1.0,
      adam_b1=b1,
      adam_b2=b2,
      eps=eps,
      muon_weight_dimension_numbers=_kernels_as_matrices,
    )
    # Muon's updates descend already; the end of our chain turns the sign of all.
    return optax.chain(_by_shape(muon), optax.scale(-1.0))
  raise ValueError(f'optimizer.kind={kind!r} is unknown; known: {str(KINDS)[1:-1]}.')


def _kernels_as_matrices(stacks: Any) -> Any:
  """Stacks (n, ..., inputs, outputs) of kernels are n matrices each; None for stacks of vectors."""

  def dims(stack):
    last = stack.ndim - 1
    return optax.contrib.MuonDimensionNumbers(tuple(range(1, last)), (last,)) if last > 1 else None

  return jax.tree.map(dims, stacks)


def _by_shape(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
  """Lets a transformation see tensors of one shape as one stack.

  Muon's matrix iterations then compile once per shape, some fifty, and not once per tensor.
  """

  def shape_name(leaf: jax.Array) -> str:
    return 'x'.join(map(str, leaf.shape))

  def stack(tree: Any) -> dict[str, dict[str, jax.Array]]:
    groups = {}
    for leaf in jax.tree.leaves(tree):
      groups.setdefault(shape_name(leaf), []).append(leaf)
    # Named so that the sharding rules take a stack for the kernels that it is made of.
    return {name: {'kernel': jnp.stack(leaves)} for name, leaves in groups.items()}

  def unstack(stacks: Any, like: Any) -> Any:
    leaves, structure = jax.tree.flatten(like)
    rows = {name: iter(jnp.unstack(group['kernel'])) for name, group in stacks.items()}
    return structure.unflatten([next(rows[shape_name(leaf)]) for leaf in leaves])

  def update(updates, state, params=None):
    stacks, state = transformation.update(stack(updates), state, stack(params))
    return unstack(stacks, updates), state

  return optax.GradientTransformation(lambda params: transformation.init(stack(params)), update)


def _to_each(function: Callable[..., Any], constants: Any) -> optax.GradientTransformation:
  """function(update, parameter, constant), but for the frozen, which optax.partition masks out."""
  masked = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
  of_leaf = lambda update, *others: update if masked(update) else function(update, *others)  # noqa: E731
  return optax.stateless(
    lambda updates, params: jax.tree.map(of_leaf, updates, params, constants, is_leaf=masked)
  )
