"""What an ingested corpus holds: one record per example, and one row of measurements beside it.

features.json, dataset_info.json           read back by tfds.builder_from_directory
corpus-<split>.array_record-IIIII-of-NNNNN the records: key, caption, media, data (the file's bytes)
sidecar/<split>-IIIII-of-NNNNN.parquet     row i describes record i of the same shard
rejected/IIIII.jsonl                       what was not taken, and why
manifest.json                              counts, checksums; written last: it marks a whole corpus
"""

import numpy as np
import pyarrow as pa

VERSION = '1.0.0'
DATASET_NAME = 'corpus'
SPLITS = ('train', 'validation')
MEDIA = ('video', 'image')

SIDECAR = pa.schema(
  [
    ('key', pa.string()),
    ('media', pa.string()),  # One of MEDIA.
    ('num_bytes', pa.int64()),
    ('num_frames', pa.int32()),  # As decoded, not as the header says.
    ('first_time', pa.float64()),  # Presentation time of the first frame, seconds.
    (
      'duration',
      pa.float64(),
    ),  # From the first frame's presentation time to the last one's, seconds.
    ('fps', pa.float64()),  # (num_frames - 1) / duration; 0 for images.
    ('is_variable_rate', pa.bool_()),  # The longest frame lasts 1.5 times the shortest, or more.
    ('height', pa.int32()),  # As displayed: after rotation and with square pixels.
    ('width', pa.int32()),
  ]
)


def features():
  """The record as tfds features; `data` is the encoded media file, untouched."""
  import tensorflow_datasets as tfds  # Half a second: not for those who only list a corpus.

  return tfds.features.FeaturesDict(
    {
      'key': tfds.features.Text(),
      'caption': tfds.features.Text(),
      'media': tfds.features.Text(),
      'data': tfds.features.Tensor(shape=(), dtype=np.object_),
    }
  )


def shard_names(split: str, index: int, num_shards: int) -> tuple[str, str]:
  """File names, relative to the corpus, of a shard's records and of its sidecar."""
  numbers = f'{index:05d}-of-{num_shards:05d}'
  return f'{DATASET_NAME}-{split}.array_record-{numbers}', f'sidecar/{split}-{numbers}.parquet'
