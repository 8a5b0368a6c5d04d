"""A run's batches: a stream, and a position in it to resume from."""

import json

from absl import logging

from data_pipelines.stream import stream as stream_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib


def make_stream(session: session_lib.Session) -> stream_lib.TrainStream:
  """The training batches of a session, this host's rows; raises ValueError for an unfit corpus."""
  host_index, host_count = mesh_lib.batch_reader(session.mesh)
  return stream_lib.from_config(
    json.loads(session.config.to_json()),
    session.fields(),
    kept=session.kept(),
    host_index=host_index,
    host_count=host_count,
  )


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
