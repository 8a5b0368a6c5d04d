"""Scores shards: aesthetic, caption similarity and NSFW by CLIP, the subject by a saliency network.

Grain decodes three frames of each video (at 10, 50 and 90 % of its single shot, if curate was run)
in threads while the accelerator embeds the batch before. Shards are resumed as by jobs.py. On Ray
actors share them: what they are given is where the networks lie, which each loads once. CLIP needs
JAX and comes as an argument: the command is `python -m i2vgen_jax.score`.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines.corpus import jobs, reader, schema, storage
from data_pipelines.engines import choice
from data_pipelines.media import crops, decode, failures
from data_pipelines.score import heads as heads_lib
from data_pipelines.score import placing
from data_pipelines.score import saliency as saliency_lib

VERSION = 2  # Of what is scored: another one is scored again.
STAGE = 'score'
POSITIONS = (0.1, 0.5, 0.9)


class Scorer(Protocol):
  """CLIP, as `i2vgen_jax.evaluation.clip_scorer` has it.

  Attributes:
    image_size: side of the pictures.
    dim: length of the vectors.
    weights: the file that they came from.
  """

  image_size: int
  dim: int
  weights: epath.Path

  def images(self, pixels_BHWC: np.ndarray) -> np.ndarray:
    """Unit vectors, float32 (B, dim), of uint8 RGB pictures of image_size."""

  def texts(self, captions: Sequence[str]) -> np.ndarray:
    """Unit vectors, float32 (B, dim)."""


def score(
  directory: str,
  scorer: Scorer | None = None,
  aesthetic: str = '',
  nsfw: str = '',
  saliency: str = '',
  batch_size: int = 32,
  num_threads: int = 4,
  engine: choice.Engine | None = None,
) -> dict:
  """Writes sidecar/score/ of the corpus in `directory`.

  Args:
    directory: of the corpus, as ingest wrote it.
    scorer: CLIP; None scores by the saliency network alone.
    aesthetic: file of a head (heads.py) on CLIP's vectors.
    nsfw: likewise.
    saliency: file of a saliency network (saliency.py). A column without its network is null.
    batch_size: examples per step, of three pictures each.
    num_threads: that decode.
    engine: see jobs.run; None is this process.
  Returns:
    The stage's manifest.
  Raises:
    ValueError: if the folder holds no corpus, or weights are missing or do not fit.
  """
  if scorer is None and (aesthetic or nsfw or not saliency):
    raise ValueError('nothing to score with: give --clip (heads need it) or --saliency.')
  output, manifest = epath.Path(directory), reader.read_manifest(directory)
  heads = {
    name: heads_lib.Head(path, scorer.dim)
    for name, path in (('aesthetic', aesthetic), ('nsfw_score', nsfw))
    if scorer and path
  }
  network = saliency_lib.Saliency(saliency) if saliency else None
  files = dict(
    aesthetic=aesthetic, nsfw=nsfw, saliency=saliency, clip=scorer.weights if scorer else ''
  )
  digests = {name: storage.sha256(epath.Path(file)) for name, file in files.items() if file}
  shards = [shard for _, shard in reader.shards_of(manifest)]
  identity = json.dumps([VERSION, reader.first_fingerprint(manifest), digests])
  parts = output / '_scored'
  with jobs.claimed(parts, identity, stamps=[_stamp(output, shard) for shard in shards]):
    method = digests.get('saliency', '')[:12]
    work = _ScoreShard(output, scorer, heads, network, method, batch_size, num_threads)
    results = jobs.run(work, shards, parts, 1, engine)
    failed = jobs.failures_of(results, parts)
    marker = placing.place(output, STAGE, parts, 'scored.parquet', shards)
    summary = dict(
      version=VERSION,
      corpus=manifest['fingerprint'],
      weights=digests,
      num_examples=sum(result['num_examples'] for result in results),
      num_scored=sum(result['num_scored'] for result in results),
      failed=failed,
    )
    storage.write_bytes(marker, json.dumps(summary, indent=2).encode())
    return summary


def _stamp(output: epath.Path, shard: Mapping) -> str:
  """Changes with the shard, and if curate chose other shots of it."""
  digest = hashlib.sha256(shard['sha256'].encode())
  path = output / schema.stage_sidecar('curate', shard['sidecar'])
  if path.exists():
    table = storage.read_table(path, ['span_start', 'span_end'])
    digest.update(json.dumps(table.to_pydict()).encode())
  return digest.hexdigest()


@dataclasses.dataclass
class _ScoreShard:
  """(shard of the manifest, folder) -> scored.parquet, one row per record."""

  output: epath.Path
  scorer: Scorer | None
  heads: Mapping[str, heads_lib.Head]
  network: saliency_lib.Saliency | None
  method: str
  batch_size: int
  num_threads: int

  def __call__(self, shard: dict, folder: pathlib.Path) -> dict:
    rows = storage.read_table(self.output / shard['sidecar']).to_pylist()
    spans = self.output / schema.stage_sidecar('curate', shard['sidecar'])
    if spans.exists():
      table = storage.read_table(spans, ['span_start', 'span_end']).to_pylist()
      rows = [row | span for row, span in zip(rows, table, strict=True)]
    scored, num_good, example = [], 0, ''
    failed: collections.Counter = collections.Counter()
    with storage.fetched(self.output / shard['records']) as records:
      sizes = [part.image_size if part else 0 for part in (self.scorer, self.network)]
      load = _Load(str(records), rows, *sizes)
      options = grain.ReadOptions(self.num_threads, 2 * self.num_threads)
      examples = grain.MapDataset.range(len(rows)).map(load).to_iter_dataset(options)
      batches = examples.batch(self.batch_size, drop_remainder=False, batch_fn=list)
      for batch in batches:
        scored += [dict(key=example['key']) for example in batch]
        if self.scorer:
          self._score(self.scorer, batch, scored[-len(batch) :])
        if self.network:
          self._find_subjects(self.network, batch, scored[-len(batch) :])
        num_good += sum(loaded['is_good'] for loaded in batch)
        for loaded in batch:
          if loaded['lost']:
            failed[loaded['lost'].reason] += 1
            example = f'{loaded["key"]}: {loaded["lost"]}'
    table = pa.Table.from_pylist(scored, schema.SCORE)
    pa.parquet.write_table(table, folder / 'scored.parquet', write_page_checksum=True)
    return dict(num_examples=len(scored), num_scored=num_good, failed=failed, example=example)

  def _score(self, scorer: Scorer, batch: list[dict], rows: list[dict]) -> None:
    # Always of one size: another one would compile again.
    filler = [batch[0]] * (self.batch_size - len(batch))
    pixels_BFHWC = np.stack([example['pixels'] for example in batch + filler])
    size = pixels_BFHWC.shape[:2]
    images_ND = scorer.images(pixels_BFHWC.reshape(-1, *pixels_BFHWC.shape[2:]))
    images_BFD = images_ND.reshape(*size, -1)
    texts_BD = scorer.texts([example['caption'] for example in batch + filler])
    similarity_B = np.einsum('bfd,bd->bf', images_BFD, texts_BD).mean(axis=1)
    scores = {name: head(images_ND).reshape(size) for name, head in self.heads.items()}
    for index, (example, row) in enumerate(zip(batch, rows, strict=True)):
      if example['is_good']:
        row['clip_similarity'] = float(similarity_B[index])
        if 'aesthetic' in scores:
          row['aesthetic'] = float(scores['aesthetic'][index].mean())
        if 'nsfw_score' in scores:  # One frame is enough.
          row['nsfw_score'] = float(scores['nsfw_score'][index].max())

  def _find_subjects(
    self, network: saliency_lib.Saliency, batch: list[dict], rows: list[dict]
  ) -> None:
    for example, row in zip(batch, rows, strict=True):
      shares = network(example['whole']) if example['is_good'] else []
      shares = [share for share in shares if share is not None]
      if shares:
        row['network_subject'] = float(np.median(shares))
        row['network_subject_method'] = self.method


class _Load:
  """Place in the shard -> key, caption, is_good, lost, and three pictures for each network.

  pixels uint8 (3, S, S, 3) are the central squares for CLIP; whole uint8 (3, N, N, 3) the whole
  frames for the saliency network. For a network that is not there, S or N is 0.
  """

  def __init__(self, records: str, rows: Sequence[Mapping], image_size: int, whole_size: int):
    self._shard, self._records = records, reader.Records()
    self._rows = rows
    self._image_size = image_size
    self._whole_size = whole_size

  def __call__(self, index: int) -> dict[str, Any]:
    row, size = self._rows[index], self._image_size
    pixels, whole = (
      np.zeros((len(POSITIONS), side, side, 3), np.uint8) for side in (size, self._whole_size)
    )
    loaded = dict(key=row['key'], caption='', pixels=pixels, whole=whole, is_good=False, lost=None)
    try:
      record = self._records.read(self._shard, index)
      loaded['caption'] = record['caption']
      if row['media'] == 'image':
        image = decode.decode_image(record['data'])
        if size:
          pixels[:] = np.asarray(crops.center_crop_resize(image, size, size))
        if self._whole_size:
          whole[:] = _squeezed(image, self._whole_size)
      else:
        start, end = row['first_time'], row['first_time'] + row['duration']
        if row.get('span_end'):  # Of curate: the single shot.
          start, end = row['span_start'], row['span_end']
        times = np.array([start + position * (end - start) for position in POSITIONS])
        if size:
          pixels[:] = decode.decode_video(record['data'], times, size, size)[0]
        if self._whole_size:
          frames, _ = decode.decode_video(record['data'], times, row['height'], row['width'])
          for frame, target in zip(frames, whole, strict=True):
            target[:] = _squeezed(PIL.Image.fromarray(frame), self._whole_size)
    except Exception as error:  # A null score: one example never ends a command.
      return dict(loaded, lost=failures.of(error))
    return dict(loaded, is_good=True)


def _squeezed(image: PIL.Image.Image, size: int) -> np.ndarray:
  return np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR))
