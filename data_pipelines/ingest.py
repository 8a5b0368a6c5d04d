"""Ingest: a corpus in any public layout becomes ArrayRecord shards that training streams from.

Every file is decoded once, to measure it and to find what is damaged; its bytes are kept as they
are. Work goes shard by shard: a finished shard is marked, so that a run that was stopped goes on
where it was. The manifest is written last.
"""

import concurrent.futures
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import pathlib
import shutil

import pyarrow as pa
import pyarrow.parquet

from data_pipelines import corpus, decode, schema, sources
from data_pipelines.sources import raw

HASH_RANGE = 2**32


def ingest(
  path: str,
  output: str,
  layout: str | None = None,
  validation_fraction: float = 0.01,
  num_processes: int = 2,
) -> dict:
  """Ingests the corpus at `path` into the folder `output`; does nothing if that is done already.

  Args:
    path: a corpus in one of sources.LAYOUTS.
    output: a new folder, or one that an earlier run with the same arguments left.
    layout: of the input; detected if None.
    validation_fraction: share of examples, chosen by a hash of their keys, that is held out for
      validation; at least one. Not used if the source tells its validation split.
    num_processes: which decode. 1 stays in this process.
  Returns:
    The manifest (see schema.py).
  Raises:
    ValueError: if the input is in no known layout, no example of it can be used, or `output` holds
      another corpus.
  """
  if not 0 <= validation_fraction < 1:
    raise ValueError(f'validation_fraction={validation_fraction} should be in [0, 1).')
  source = sources.open_source(path, layout)
  shards = source.shards()
  told = any(shard.split == 'validation' for shard in shards)
  threshold = 0 if told else int(validation_fraction * HASH_RANGE)
  output = pathlib.Path(output)
  identity = _identity(source, shards, threshold)
  if _is_done(output, identity):
    return corpus.read_manifest(output)
  parts = output / '_parts'
  _claim(parts, identity)
  results = _run(source, shards, parts, threshold, num_processes)
  if threshold and not any('validation' in result['splits'] for result in results):
    # A small corpus: the example with the smallest hash is held out.
    results = _hold_out_one(source, shards, parts, results)
  manifest = _finish(output, parts, results, type(source).__name__, identity)
  shutil.rmtree(parts)
  return manifest


def _identity(source, shards, threshold):
  """Changes if the source's listing or an option that matters changes."""
  digest = hashlib.sha256(f'{schema.VERSION} {threshold}'.encode())
  for shard in shards:
    digest.update(json.dumps(source.describe(shard)).encode())
  return digest.hexdigest()[:16]


def _is_done(output, identity):
  if not (output / 'manifest.json').exists():
    return False
  if corpus.read_manifest(output)['identity'] != identity:
    raise ValueError(
      f'{output} holds a corpus of other input or options. Give another --output, or delete it.'
    )
  logging.info('%s is ingested already.', output)
  return True


def _claim(parts, identity):
  """Prepares the working folder; what a run with other input left there is dropped."""
  marker = parts / 'identity'
  if parts.exists() and (not marker.exists() or marker.read_text() != identity):
    shutil.rmtree(parts)
  try:
    parts.mkdir(parents=True, exist_ok=True)
    marker.write_text(identity)
  except OSError as error:
    raise ValueError(f'{parts.parent} is not writable: {error}') from error


def _run(source, shards, parts, threshold, num_processes):
  work = functools.partial(_ingest_shard, source, parts, threshold)
  numbered = list(enumerate(shards))
  if num_processes == 1 or len(shards) == 1:
    return [work(item) for item in numbered]
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(num_processes, mp_context=context) as pool:
    return list(pool.map(work, numbered))


def _hold_out_one(source, shards, parts, results):
  smallest = min(result['smallest_hash'] for result in results)
  if sum(result['splits'].get('train', {}).get('num_examples', 0) for result in results) < 2:
    return results
  redone = []
  for index, result in enumerate(results):
    if result['smallest_hash'] == smallest:
      shutil.rmtree(_part(parts, index))
      result = _ingest_shard(source, parts, smallest + 1, (index, shards[index]))
    redone.append(result)
  return redone


def _part(parts, index):
  return parts / f'{index:05d}'


def _ingest_shard(source, parts, threshold, numbered_shard):
  """Reads, probes and writes one shard into parts/IIIII; result.json marks it complete."""
  index, shard = numbered_shard
  part = _part(parts, index)
  if (part / 'result.json').exists():
    return json.loads((part / 'result.json').read_text())
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir()
  writers: dict[str, _SplitWriter] = {}
  rejected = []
  smallest_hash = HASH_RANGE
  for example in source.read(shard):
    if isinstance(example, raw.RawExample):
      try:
        row = decode.probe(example.data, example.media)
      except decode.DecodeError as error:
        example = raw.Rejected(example.key, error.reason, error.detail)
    if isinstance(example, raw.Rejected):
      rejected.append(vars(example))
      continue
    key_hash = _hash(example.key)
    smallest_hash = min(smallest_hash, key_hash)
    split = shard.split or ('validation' if key_hash < threshold else 'train')
    if split not in writers:
      writers[split] = _SplitWriter(part, split)
    writers[split].write(example, row)
  result = dict(
    splits={split: writer.close() for split, writer in writers.items()},
    rejected=rejected,
    smallest_hash=smallest_hash,
  )
  partial = part / 'result.json.partial'
  partial.write_text(json.dumps(result))
  os.replace(partial, part / 'result.json')
  return result


def _hash(key):
  return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], 'big')


class _SplitWriter:
  """Writes the records of one split of one shard, and their sidecar."""

  def __init__(self, part, split):
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    self.features = schema.features()
    self.serializer = tfds.core.example_serializer.ExampleSerializer(
      self.features.get_serialized_info()
    )
    self.records = part / f'{split}.array_record'
    self.sidecar = part / f'{split}.parquet'
    # One record per group: random access reads no neighbours. Media is compressed already.
    options = 'group_size:1,uncompressed'
    self.writer = array_record_module.ArrayRecordWriter(str(self.records), options)
    self.rows = []
    self.num_bytes = 0

  def write(self, example, row):
    fields = {name: getattr(example, name) for name in ('key', 'caption', 'media', 'data')}
    record = self.serializer.serialize_example(self.features.encode_example(fields))
    self.writer.write(record)
    self.num_bytes += len(record)
    sha256 = hashlib.sha256(example.data).hexdigest()
    self.rows.append(
      dict(key=example.key, media=example.media, sha256=sha256, **example.origin, **row)
    )

  def close(self):
    self.writer.close()
    pa.parquet.write_table(pa.Table.from_pylist(self.rows, schema.SIDECAR), self.sidecar)
    return dict(
      num_examples=len(self.rows),
      num_bytes=self.num_bytes,
      num_by_media={m: sum(row['media'] == m for row in self.rows) for m in schema.MEDIA},
      sha256=hashlib.sha256(self.records.read_bytes()).hexdigest(),
    )


def _finish(output, parts, results, layout, identity):
  """Names the shards by their final number, writes the metadata and, last, the manifest."""
  rejected = [bad for result in results for bad in result['rejected']]
  counts: dict[str, int] = {}
  for bad in rejected:
    counts[bad['reason']] = counts.get(bad['reason'], 0) + 1
  splits = {split: _place_shards(output, parts, results, split) for split in schema.SPLITS}
  splits = {split: found for split, found in splits.items() if found['num_examples']}
  if 'train' not in splits:
    names = ', '.join(f'{bad["key"]} ({bad["reason"]}: {bad["detail"]})' for bad in rejected[:5])
    raise ValueError(f'no training example can be used; rejected: {counts or "none"}. {names}')
  (output / 'rejected').mkdir(exist_ok=True)
  for index, result in enumerate(results):
    if result['rejected']:
      lines = ''.join(json.dumps(bad) + '\n' for bad in result['rejected'])
      (output / 'rejected' / f'{index:05d}.jsonl').write_text(lines)
  _write_tfds_metadata(output, splits)
  checksums = [shard['sha256'] for split in splits.values() for shard in split['shards']]
  manifest = dict(
    version=schema.VERSION,
    layout=layout,
    identity=identity,
    fingerprint=hashlib.sha256(json.dumps(checksums).encode()).hexdigest()[:16],
    splits=splits,
    num_rejected=len(rejected),
    rejected=counts,
  )
  partial = output / 'manifest.json.partial'
  partial.write_text(json.dumps(manifest, indent=2))
  os.replace(partial, output / 'manifest.json')
  for bad in rejected[:5]:
    logging.warning('rejected %s: %s %s', bad['key'], bad['reason'], bad['detail'])
  return manifest


def _place_shards(output, parts, results, split):
  numbered = [i for i, result in enumerate(results) if split in result['splits']]
  (output / 'sidecar').mkdir(exist_ok=True)
  shards = []
  for number, index in enumerate(numbered):
    names = schema.shard_names(split, number, len(numbered))
    for name, suffix in zip(names, ('array_record', 'parquet'), strict=True):
      written = _part(parts, index) / f'{split}.{suffix}'
      if written.exists():  # Else an earlier run that was stopped has placed it.
        os.replace(written, output / name)
    shards.append(dict(records=names[0], sidecar=names[1], **results[index]['splits'][split]))
  num_by_media = {m: sum(shard['num_by_media'][m] for shard in shards) for m in schema.MEDIA}
  return dict(
    num_examples=sum(shard['num_examples'] for shard in shards),
    num_by_media=num_by_media,
    shards=shards,
  )


def _write_tfds_metadata(output, splits):
  import tensorflow_datasets as tfds

  infos = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=[shard['num_examples'] for shard in found['shards']],
      num_bytes=sum(shard['num_bytes'] for shard in found['shards']),
      filename_template=tfds.core.ShardedFileTemplate(
        data_dir=output,
        dataset_name=schema.DATASET_NAME,
        split=split,
        filetype_suffix='array_record',
      ),
    )
    for split, found in splits.items()
  ]
  tfds.folder_dataset.write_metadata(
    data_dir=str(output),
    features=schema.features(),
    split_infos=infos,
    filename_template='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    check_data=False,  # It would need TensorFlow; the loader checks the counts.
  )
