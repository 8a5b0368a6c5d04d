"""A run's batches: a stream, and a position in it to resume from."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from data_pipelines.corpus import json_lines
from data_pipelines.stream import stream as stream_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.stored import run_config


def make_stream(session: session_lib.Session) -> stream_lib.TrainStream:
  """This host's rows of a session's training batches.

  Raises:
    ValueError: the corpora do not fit the config.
  """
  host_index, host_count = mesh_lib.batch_reader(session.mesh)
  return stream_lib.from_config(
    run_config.plain(session.config),
    session.fields(),
    kept=session.kept(),
    host_index=host_index,
    host_count=host_count,
  )


class Replacements:
  """What a run's stream replaced, in workdir/replaced: a resumed run replaces the same.

  A file for each host, of lines with step, row of the global batch, key and reason.

  Args:
    workdir: of the run.
    stream: of this host.
  """

  def __init__(self, workdir: epath.PathLike, stream: stream_lib.TrainStream):
    folder = epath.Path(workdir) / 'replaced'
    self._stream = stream
    self._log = json_lines.Log(folder / f'host-{jax.process_index():05d}.jsonl')
    if folder.is_dir():
      for path in sorted(folder.iterdir()):
        stream.replace_again(json_lines.read(path))

  def record(self, step: int) -> None:
    """Writes what was replaced in the batch of a step, once it is taken from the stream."""
    for found in self._stream.replaced_at(step):
      self._log.append(found)


def data_position(step: int, stream: stream_lib.TrainStream) -> dict[str, Any]:
  """The position in the data that a checkpoint stores; all processes call it at the same step."""
  health = stream.health
  counted = multihost_utils.process_allgather(np.array(health.counted)).reshape(-1, 2).sum(axis=0)
  seen, bad = (before + int(more) for before, more in zip(health.before, counted, strict=True))
  return {'step': step, 'fingerprint': stream.fingerprint, 'examples': {'seen': seen, 'bad': bad}}


def resume(
  position: Mapping[str, Any], stream: stream_lib.TrainStream, accept_changed: bool = False
) -> None:
  """Compares the stream with the one that the checkpoint was trained on; counts go on from there.

  Args:
    position: of `data_position`, as the checkpoint holds it.
    stream: of the resumed run.
    accept_changed: only log a change: the run goes on at the same step of the new stream, whose
      epochs begin anew in another order.

  Raises:
    ValueError: the streams differ.
  """
  if position['fingerprint'] == stream.fingerprint:
    counts = position.get('examples', {'seen': 0, 'bad': 0})  # Earlier versions kept none.
    stream.health.before = (counts['seen'], counts['bad'])
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
