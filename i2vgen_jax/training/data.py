"""A run's batches: a stream, and a position in it to resume from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from data_pipelines.corpus import json_lines, reader
from data_pipelines.stream import carry, history
from data_pipelines.stream import stream as stream_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.stored import run_config


def make_stream(
  session: session_lib.Session, corpora: reader.Corpora | None = None
) -> stream_lib.TrainStream:
  """This host's rows of a session's training batches.

  Args:
    session: of the run.
    corpora: those of its config, as they were.

  Raises:
    ValueError: the corpora do not fit the config.
  """
  host_index, host_count = mesh_lib.batch_reader(session.mesh)
  return stream_lib.from_config(
    run_config.plain(session.config),
    session.fields(),
    corpora,
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
  position: dict[str, Any] = {
    'step': step,
    'fingerprint': stream.fingerprint,
    'examples': {'seen': seen, 'bad': bad},
  }
  if stream.origin is not None:
    position['origin'] = dataclasses.asdict(stream.origin)
  return position


def of_checkpoint(
  position: Mapping[str, Any], config: ml_collections.ConfigDict, workdir: epath.PathLike
) -> tuple[ml_collections.ConfigDict, reader.Corpora | None]:
  """(config, corpora) with the data that a checkpoint was trained on, for `make_stream`.

  Args:
    position: as the checkpoint holds it.
    config: of the run as it is now.
    workdir: of the run.

  Raises:
    ValueError: they are gone.
  """
  if 'origin' not in position:  # Of an earlier version.
    return config, None
  origin, now = history.Origin(**position['origin']), run_config.plain(config)['data']
  side, origin = history.reopened(origin, workdir, now)
  found = config.copy_and_resolve_references()
  with found.unlocked():
    found.data = origin.config['data']
  return found, side.corpora


def resume(
  position: Mapping[str, Any],
  stream: stream_lib.TrainStream,
  workdir: epath.PathLike,
  data: Mapping[str, Any],
  writes: bool = True,
) -> history.Change | None:
  """Makes the stream go on from a checkpoint: with its changes of the data, or with a new one.

  Args:
    position: of `data_position`, as the checkpoint holds it.
    stream: of the resumed run; it is changed.
    workdir: of the run.
    data: config.data of the run. accept_changed: a change is no error; exact_epochs: and each row
      is drawn once per epoch across it, else all epochs begin anew.
    writes: False writes nothing into the workdir.

  Returns:
    The newest change, if there is any.

  Raises:
    ValueError: the data changed; or a change before, or what an exact one needs, is gone.
  """
  # Earlier versions stored none.
  origin = history.Origin(**position['origin']) if 'origin' in position else None
  is_ordered = origin is not None and origin.order == stream.order.fingerprint
  change = None
  if origin and origin.change and is_ordered:
    change = history.read(workdir, origin.change)
    stream.go_on(change)
  if position['fingerprint'] == stream.fingerprint:
    counts = position.get('examples', {'seen': 0, 'bad': 0})  # Earlier versions kept none.
    stream.health.before = (counts['seen'], counts['bad'])
  else:
    _accept(position, stream, data['accept_changed'])
    if not is_ordered:  # Else captions or a cache changed alone.
      change = _change(position, origin, stream, workdir, data)
      stream.go_on(change)
      if writes and jax.process_index() == 0:
        history.write(workdir, change)
  if writes and jax.process_index() == 0:
    history.set_newest(workdir, change.name if change else '')
  return change


def _accept(position: Mapping[str, Any], stream: stream_lib.TrainStream, accepts: bool) -> None:
  """Logs that the data changed, or raises ValueError."""
  change = (
    f'The corpora, their index or the buckets changed: checkpoint step {position["step"]} has data '
    f'fingerprint {position["fingerprint"]}, now it is {stream.fingerprint}.'
  )
  if not accepts:
    raise ValueError(
      f'{change} Restore them, use another --workdir, or go on with what is there now: '
      '--config.data.accept_changed=True.'
    )
  logging.warning('%s Going on with what is there now.', change)


def _change(
  position: Mapping[str, Any],
  origin: history.Origin | None,
  stream: stream_lib.TrainStream,
  workdir: epath.PathLike,
  data: Mapping[str, Any],
) -> history.Change:
  """The change from what a checkpoint was trained on to a stream; the same on all hosts."""
  step, after = position['step'], stream.order.fingerprint
  if not data['exact_epochs']:
    logging.warning(
      'All epochs begin anew at step %d: rows that those under way have drawn come again, others '
      'may wait for as long as two epochs take (data.exact_epochs=False).', step,
    )  # fmt: skip
    return history.Change(step, origin, after, {})
  try:
    if origin is None:
      raise ValueError('the checkpoint is of a version that did not store what it was made from')
    before, origin = history.reopened(origin, workdir, data)
  except ValueError as error:
    raise ValueError(
      f'The data of before the change are gone, so that what their epochs have left is not known: '
      f'{error}. Put them back; or let all epochs begin anew: --config.data.exact_epochs=False.'
    ) from error
  return carry.between(before, origin, history.Side(stream.order, stream.corpora), step)
