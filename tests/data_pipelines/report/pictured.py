"""Small corpora to be shown, and the pictures that a page shows."""

import base64
import io
import pathlib
import re

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as parquet

from data_pipelines.corpus import reader, schema, sidecars
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.ingest import command as ingest
from data_pipelines.report import examples, strips
from tests import media
from tests.data_pipelines.curate.test_curate import pan

RULES = decide.Rules(min_short_side=16, min_duration=0.4)


def ingested(folder, directory, rules=RULES, **options):
  """A corpus of a folder's media, curated; captions are the files' names."""
  for path in sorted(folder.rglob('*')):
    if path.is_file():
      path.with_suffix('.txt').write_text(path.stem)
  ingest.ingest(str(folder), directory, num_processes=1, **options)
  curate.curate(directory, rules, allow_no_denylist='ours', num_processes=1)
  return directory


def tinted(seed, colour, speed):
  """A pan over a scene of which only one colour is left."""
  frames = pan(seed, 24, speed)
  frames[..., [other for other in range(3) if other != colour]] //= 8
  return frames


def scene(seed, side=240):
  return PIL.Image.fromarray(media.scene(seed, 320, 320)).resize((side, side))


def rewrite(directory, **columns):
  """Sets columns of the first row of curate's sidecar of the training split."""
  [path] = pathlib.Path(directory).glob('sidecar/curate/train-*')
  rows = parquet.read_table(path).to_pylist()
  rows[0] |= columns
  parquet.write_table(pa.Table.from_pylist(rows, schema.CURATE), path)


def gallery_of(directory, split='train'):
  corpora = reader.Corpora(directory, split)
  return examples.Gallery(sidecars.Sidecars(corpora), strips.Strips(corpora))


def pictures_of(text):
  """Pixels of all pictures in a part of the page, in their order."""
  found = re.findall(r'data:image/jpeg;base64,([^"]+)', text)
  return [
    np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data)))).astype(float) for data in found
  ]


def distance(one, other):
  return np.abs(one - other).mean()
