"""Score: aesthetic, caption similarity and NSFW by CLIP, as new sidecars of a corpus.

Grain decodes three frames of each video (at 10, 50 and 90 % of its single shot, if curate was run)
in threads while the accelerator embeds the batch before. Shards are resumed as by jobs.py; to use
several hosts, give each its own corpora.
"""

import hashlib
import json
import pathlib
import time

import grain
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines import corpus, decode, jobs, schema, storage

VERSION = 1
STAGE = 'score'
POSITIONS = (0.1, 0.5, 0.9)


def score(
  directory: str,
  clip: str,
  aesthetic: str = '',
  nsfw: str = '',
  batch_size: int = 32,
  num_threads: int = 4,
) -> dict:
  """Writes sidecar/score/ of the corpus in `directory`.

  Args:
    clip: folder of a CLIPModel of transformers (clip_scorer.py).
    aesthetic, nsfw: files of heads (heads.py); without one its column is null.
    batch_size: examples per step, of three pictures each.
    num_threads: that decode.
  Returns:
    The stage's manifest.
  Raises:
    ValueError: if the folder holds no corpus, or weights are missing or do not fit.
  """
  from data_pipelines.score import clip_scorer, heads  # JAX: only here.

  output = epath.Path(directory)
  manifest = corpus.read_manifest(directory)
  scorer = clip_scorer.ClipScorer(clip)
  files = dict(clip=str(epath.Path(clip) / 'model.safetensors'), aesthetic=aesthetic, nsfw=nsfw)
  files = {name: storage.sha256(epath.Path(file)) for name, file in files.items() if file}
  found = {
    name: heads.Head(path, scorer.dim)
    for name, path in (('aesthetic', aesthetic), ('nsfw_score', nsfw))
    if path
  }
  shards = [shard for split in manifest['splits'].values() for shard in split['shards']]
  identity = json.dumps([VERSION, manifest['fingerprint'], files, _spans_digest(output, shards)])
  parts = output / '_scored'
  jobs.claim(parts, identity)
  work = _ScoreShard(output, scorer, found, batch_size, num_threads)
  results = jobs.run(work, shards, parts, num_processes=1)
  marker = output / 'sidecar' / STAGE / 'manifest.json'
  if marker.exists():  # While the sidecars change, there is none.
    marker.unlink()
  for index, shard in enumerate(shards):
    table = storage.read_table(jobs.part(parts, index) / 'scored.parquet')
    storage.write_table(output / schema.stage_sidecar(STAGE, shard['sidecar']), table)
  summary = dict(
    version=VERSION,
    corpus=manifest['fingerprint'],
    weights=files,
    num_examples=sum(result['num_examples'] for result in results),
    num_scored=sum(result['num_scored'] for result in results),
  )
  storage.write_bytes(marker, json.dumps(summary, indent=2).encode())
  return summary


def _spans_digest(output, shards):
  """Changes if curate chose other shots."""
  digest = hashlib.sha256()
  for shard in shards:
    path = output / schema.stage_sidecar('curate', shard['sidecar'])
    if path.exists():
      table = storage.read_table(path, ['span_start', 'span_end'])
      digest.update(json.dumps(table.to_pydict()).encode())
  return digest.hexdigest()


class _ScoreShard:
  """(shard of the manifest, folder) -> scored.parquet, one row per record."""

  def __init__(self, output, scorer, heads, batch_size, num_threads):
    self._output = output
    self._scorer = scorer
    self._heads = heads
    self._batch_size = batch_size
    self._num_threads = num_threads

  def __call__(self, shard: dict, folder: pathlib.Path) -> dict:
    rows = storage.read_table(self._output / shard['sidecar']).to_pylist()
    spans = self._output / schema.stage_sidecar('curate', shard['sidecar'])
    if spans.exists():
      table = storage.read_table(spans, ['span_start', 'span_end']).to_pylist()
      rows = [row | span for row, span in zip(rows, table, strict=True)]
    scored = []
    with storage.fetched(self._output / shard['records']) as records:
      load = _Load(str(records), rows, self._scorer.image_size)
      options = grain.ReadOptions(self._num_threads, 2 * self._num_threads)
      examples = grain.MapDataset.range(len(rows)).map(load).to_iter_dataset(options)
      batches = examples.batch(self._batch_size, drop_remainder=False, batch_fn=list)
      for batch in batches:
        scored += self._score(batch)
    table = pa.Table.from_pylist(scored, schema.SCORE)
    pa.parquet.write_table(table, folder / 'scored.parquet')
    good = sum('clip_similarity' in row for row in scored)
    return dict(num_examples=len(scored), num_scored=good)

  def _score(self, batch):
    # Always of one size: another one would compile again.
    filler = [batch[0]] * (self._batch_size - len(batch))
    pixels_BFHWC = np.stack([example['pixels'] for example in batch + filler])
    size = pixels_BFHWC.shape[:2]
    images_ND = self._scorer.images(pixels_BFHWC.reshape(-1, *pixels_BFHWC.shape[2:]))
    images_BFD = images_ND.reshape(*size, -1)
    texts_BD = self._scorer.texts([example['caption'] for example in batch + filler])
    similarity_B = np.einsum('bfd,bd->bf', images_BFD, texts_BD).mean(axis=1)
    scores = {name: head(images_ND).reshape(size) for name, head in self._heads.items()}
    rows = []
    for index, example in enumerate(batch):
      row = dict(key=example['key'])
      if example['is_good']:
        row['clip_similarity'] = float(similarity_B[index])
        if 'aesthetic' in scores:
          row['aesthetic'] = float(scores['aesthetic'][index].mean())
        if 'nsfw_score' in scores:  # One frame is enough.
          row['nsfw_score'] = float(scores['nsfw_score'][index].max())
      rows.append(row)
    return rows


class _Load:
  """Place in the shard -> key, caption, pixels uint8 (3, S, S, 3), is_good."""

  def __init__(self, records, rows, image_size):
    self._source = grain.sources.ArrayRecordDataSource([records])
    self._features = schema.features()
    self._rows = rows
    self._image_size = image_size

  def __call__(self, index):
    row, size = self._rows[index], self._image_size
    pixels = np.zeros((len(POSITIONS), size, size, 3), np.uint8)
    loaded = dict(key=row['key'], caption='', pixels=pixels, is_good=False)
    try:
      record = self._features.deserialize_example_np(self._source[index])
      loaded['caption'] = record['caption'].decode('utf-8', errors='replace')
      if row['media'] == 'image':
        pixels[:] = _square(decode.decode_image(record['data']), size)
      else:
        start, end = _span(row)
        times = np.array([start + position * (end - start) for position in POSITIONS])
        pixels[:] = decode.decode_video(record['data'], times, size, size)[0]
    except (decode.DecodeError, RuntimeError, OSError):  # A null score; curate names the reason.
      return loaded
    return dict(loaded, is_good=True)


def _span(row):
  if row.get('span_end'):
    return row['span_start'], row['span_end']
  return row['first_time'], row['first_time'] + row['duration']


def _square(image, size):
  from data_pipelines import transforms

  return np.asarray(transforms.center_crop_resize(image, size, size))


def add_command(commands) -> None:
  """Adds `score` to the command line."""
  text = 'Score a corpus with CLIP on the accelerator: aesthetic, caption similarity, NSFW.'
  parser = commands.add_parser('score', help=text, description=text)
  parser.add_argument('--corpus', dest='directory', required=True, help='folder that ingest wrote')
  parser.add_argument('--clip', required=True, help='folder of a CLIPModel of transformers')
  parser.add_argument('--aesthetic', default='', help='safetensors file of the head')
  parser.add_argument('--nsfw', default='', help='safetensors file of the head')
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--num_threads', type=int, default=4, help='that decode')
  parser.add_argument('--dry_run', action='store_true', help='only say what would be done')
  parser.set_defaults(run=_run_command)


def _run_command(directory, dry_run, **options):
  start = time.monotonic()
  if dry_run:
    manifest = corpus.read_manifest(directory)
    num = sum(split['num_examples'] for split in manifest['splits'].values())
    print(f'{directory}: {num:,} examples to score; nothing was written')
    return
  summary = score(directory, **options)
  print(
    f'{directory}: {summary["num_scored"]:,} of {summary["num_examples"]:,} scored, '
    f'{time.monotonic() - start:.1f} s'
  )
