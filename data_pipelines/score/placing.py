"""A stage's sidecars, from the parts of its job."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data_pipelines.corpus import jobs, schema, storage


def place(
  output: epath.Path,
  stage: str,
  parts: epath.Path,
  name: str,
  shards: Sequence[Mapping[str, Any]],
) -> epath.Path:
  """Writes sidecar/<stage>/ of a corpus.

  Args:
    output: the corpus.
    stage: one of schema.STAGES.
    parts: of the job.
    name: of the table in each part.
    shards: of the manifest, in the order of the parts.
  Returns:
    Where the stage's manifest is to be written: while the sidecars change, there is none.
  """
  marker = output / 'sidecar' / stage / 'manifest.json'
  marker.unlink(missing_ok=True)
  for index, shard in enumerate(shards):
    table = storage.read_table(jobs.part(parts, index) / name)
    storage.write_table(output / schema.stage_sidecar(stage, shard['sidecar']), table)
  return marker
