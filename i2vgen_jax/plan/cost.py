"""What the steps of a run compute, by bucket: from it follow hours and price."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines.corpus import buckets as buckets_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import lora
from i2vgen_jax.parallel import flops
from i2vgen_jax.training import abstract


def bucket_rows(
  session: session_lib.Session, buckets: Sequence[buckets_lib.Bucket]
) -> list[dict[str, Any]]:
  """Name, batch, share of steps and TFLOP per step of each bucket: of the U-Net (three forward
  passes), of what its backward pass computes again to save memory, and of the encoders that make
  latents and conditions of pixels and captions."""
  total = sum(bucket.weight for bucket in buckets)
  by_shape = {}
  rows = []
  again = recomputed_share(session, max(buckets, key=lambda bucket: bucket.frames))
  for bucket in buckets:
    shape = (bucket.frames, bucket.height, bucket.width)
    if shape not in by_shape:
      trained = flops.train_step(session, bucket) / bucket.batch_size
      by_shape[shape] = trained, encoding_flops(session, bucket)
    trained, encoded = by_shape[shape]
    rows.append(
      dict(
        name=bucket.name,
        batch_size=bucket.batch_size,
        share=bucket.weight / total,
        step_tflops=trained * bucket.batch_size / 1e12,
        again_tflops=again * trained * bucket.batch_size / 1e12,
        encode_tflops=encoded * bucket.batch_size / 1e12,
      )
    )
  return rows


def recomputed_share(session: session_lib.Session, bucket: buckets_lib.Bucket) -> float:
  """What the backward pass computes a second time, as a share of a step's three forward passes.

  It hardly depends on the bucket.
  """
  unet = lora.bare(session.unet)
  if unet.remat in ('none', 'products'):  # They keep the results of all products.
    return 0.0
  inputs = session.unet_inputs(bucket.frames, bucket.height, bucket.width)
  params = jax.eval_shape(unet.init, jax.random.key(0), *inputs)
  step = jax.value_and_grad(lambda *given: unet.apply(*given).astype(jnp.float32).sum())
  return flops.count(step, params, *inputs) / (3 * flops.count(unet.apply, params, *inputs)) - 1


def encoding_flops(session: session_lib.Session, bucket: buckets_lib.Bucket) -> int:
  """FLOPs of the frozen encoders for one example; none if all they make is in a cache."""
  if session.config.data.cache:
    return 0
  batch = abstract.batch(session, bucket, batch_size=1)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
  return flops.count(session.encode, abstract.frozen(session), batch, keys, keys)


def num_programs(session: session_lib.Session, buckets: Sequence[buckets_lib.Bucket]) -> int:
  """How many different train steps the buckets need: by shape of batch and rates of dropout."""
  return len(
    {
      (b.batch_size, b.frames, *b.size, *sorted(session.dropout_rates(b.group).items()))
      for b in buckets
    }
  )
