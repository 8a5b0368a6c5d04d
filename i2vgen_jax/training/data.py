"""A run's batches: from the data block of its config to buckets, a stream, and a position to
resume."""

import json

from absl import logging

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.stream import stream as stream_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.sampling import generate


def make_buckets(config, components):
  """The shapes of batches that a config draws from.

  Raises:
    ValueError: no corpus, no buckets, or a size that the model cannot take.
  """
  if not config.data.directories or not config.data.buckets:
    raise ValueError(
      'The config names no corpus: give data.directories (name -> ingested folder, see '
      '`python -m data_pipelines ingest --help`) and data.buckets.'
    )
  buckets = [
    buckets_lib.Bucket(name=name, **bucket) for name, bucket in config.data.buckets.items()
  ]
  for bucket in buckets:
    generate.check_size(components, bucket.frames, bucket.height, bucket.width)
  return buckets


def make_stream(config, components, mesh):
  """The training batches of a config, this host's rows; raises ValueError for an unfit corpus."""
  host_index, host_count = mesh_lib.batch_reader(mesh)
  return stream_lib.from_config(
    json.loads(config.to_json()), components.tokenize, host_index=host_index, host_count=host_count
  )


def sample_bucket(config, buckets):
  """The bucket that is held out and sampled: sample.bucket, or the first with most frames."""
  by_name = {bucket.name: bucket for bucket in buckets}
  if not config.sample.bucket:
    return max(buckets, key=lambda bucket: bucket.frames)
  if config.sample.bucket not in by_name:
    raise ValueError(
      f'sample.bucket={config.sample.bucket!r} is unknown; known: {", ".join(by_name)}.'
    )
  return by_name[config.sample.bucket]


def data_position(step, stream):
  """What a checkpoint remembers of the data."""
  return {'step': step, 'fingerprint': stream.fingerprint}


def check_data_position(position, stream, accept_changed=False):
  """Raises ValueError if the stream is not the one that the checkpoint was trained on.

  With accept_changed it is logged: the run goes on at the same step of the new stream, whose epochs
  begin anew in another order.
  """
  if position['fingerprint'] == stream.fingerprint:
    return
  change = (
    f'The corpora, their index or the buckets changed: checkpoint step {position["step"]} has data '
    f'fingerprint {position["fingerprint"]}, now it is {stream.fingerprint}.'
  )
  if not accept_changed:
    raise ValueError(
      f'{change} Restore them, use another --workdir, or go on with what is there now: '
      '--config.data.accept_changed=True.'
    )
  logging.warning('%s Going on with what is there now.', change)
