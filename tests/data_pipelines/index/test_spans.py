"""Every shot of a video is a row of its own: decided on, chosen, balanced and drawn by itself."""

import collections
import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import tensorflow_datasets as tfds

from data_pipelines.corpus import buckets, reader, schema
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide, denylist
from data_pipelines.index import command as index
from data_pipelines.index import table as table_lib
from data_pipelines.ingest import command as ingest
from data_pipelines.report import command as report
from data_pipelines.stream import fields, slots, stream
from tests import corpora

FPS = 12
# Frames of each shot of each video; 10 are too short for --min_duration.
VIDEOS = ([24, 30, 14], [10, 40], [36], [14, 14, 14, 14])
RULES = decide.Rules(min_short_side=64, keep_duplicates=True)
BUCKET = buckets.Bucket('video', 4, 32, 32, fps=4, batch_size=4)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  directory = corpora.ingest_shots(tmp_path_factory.mktemp('spans'), VIDEOS, FPS)
  summary = curate.curate(directory, RULES, num_processes=1)
  assert summary['num_kept'] == 4 and summary['num_spans_kept'] == 9
  return directory


def expected_spans(is_kept=lambda length: length > FPS):
  """(video, first time, duration) of the shots."""
  spans = []
  for number, lengths in enumerate(VIDEOS):
    starts = np.cumsum([0, *lengths[:-1]])
    spans += [
      (f'{number}.mp4', start / FPS, (length - 1) / FPS)
      for start, length in zip(starts.tolist(), lengths, strict=True)
      if is_kept(length)
    ]
  return spans


def indexed_spans(directory, output, **options):
  index.index({'corpus': directory}, str(output), axes=[], **options)
  opened = reader.Corpora({'corpus': directory}, 'train')
  table = table_lib.read(str(output), opened)
  found = [
    (opened.key(table.row(p)), table.columns['first_time'][p], table.columns['duration'][p])
    for p in range(len(table.rows))
  ]
  return sorted(found), table, opened


def rows_of(directory):
  files = sorted(pathlib.Path(directory, 'sidecar/curate').glob('*.parquet'))
  return {row['key']: row for file in files for row in parquet.read_table(file).to_pylist()}


def test_decisions_are_made_by_span(corpus):
  rows = rows_of(corpus)
  assert [len(row['spans']) for _, row in sorted(rows.items())] == [3, 2, 1, 4]
  short, long = rows['1.mp4']['spans']
  assert (short['keep'], short['reject']) == (False, ['duration'])
  assert (long['keep'], long['reject'], long['span_id']) == (True, [], 1)
  assert rows['1.mp4']['keep'] and rows['1.mp4']['reject'] == []
  for row in rows.values():  # The row itself shows the longest that is kept.
    longest = max(row['spans'], key=lambda span: span['span_end'] - span['span_start'])
    assert all(row[name] == longest[name] for name in ('span_start', 'span_end', 'motion'))


def test_the_manifest_tells_other_shots_and_not_other_rules(corpus, tmp_path):
  other = pathlib.Path(shutil.copytree(corpus, tmp_path / 'other'))
  told = json.loads((other / 'sidecar/curate/manifest.json').read_text())['shots']
  assert curate.curate(str(other), decide.Rules(), num_processes=1)['shots'] == told
  [path] = other.glob('_measured/00000/*.parquet')
  rows = parquet.read_table(path).to_pylist()
  rows[0]['spans'][0]['span_end'] -= 0.1
  parquet.write_table(pa.Table.from_pylist(rows, schema.CURATE), path)
  assert curate.curate(str(other), RULES, num_processes=1)['shots'] != told


def test_the_row_shows_the_longest_span_that_is_kept():
  measured = [
    dict(media='video', flags=[], nsfw=None, height=64, width=64, sha256='0' * 64, key='a')
    | dict(num_bytes=1)
    | dict(watermark=None, watermark_score=None, hashes=[], text_area=None)
    | dict(span_start=0.0, span_end=5.0, motion=9.0, border_area=0.0)
  ]
  spans = [(0.0, 5.0, 9.0), (5.0, 8.0, 0.1), (8.0, 9.5, 0.1)]
  parts = [
    dict(span_id=i, span_start=start, span_end=end, motion=motion)
    for i, (start, end, motion) in enumerate(spans)
  ]
  unknown = {name: None for name, _ in schema.SPAN}
  rows = [unknown | row | dict(spans=[unknown | part for part in parts]) for row in measured]
  rules = decide.Rules(min_short_side=64, max_motion=1.0)
  decisions = decide.Decisions(lambda _: rows, [False], rules, denylist.Lists([]), False)
  [row] = decisions.rows(0)
  assert [span['reject'] for span in row['spans']] == [['motion'], [], []]
  assert (row['keep'], row['span_start'], row['motion']) == (True, 5.0, 0.1)
  assert decisions.num_kept == 1 and decisions.num_spans_kept == 2


def test_every_shot_at_or_above_the_minimum_is_a_row(corpus, tmp_path):
  found, table, _ = indexed_spans(corpus, tmp_path)
  expected = expected_spans()
  assert [key for key, *_ in found] == [key for key, *_ in expected]
  np.testing.assert_allclose([row[1:] for row in found], [row[1:] for row in expected], atol=1e-6)
  assert table.columns['span'].tolist() == [0, 1, 2, 1, 0, 0, 1, 2, 3]
  manifest = json.loads((tmp_path / 'manifest.json').read_text())
  assert [step['num_rows'] for step in manifest['funnel']] == [10, 9]


def test_conditions_see_the_columns_of_the_span(corpus, tmp_path):
  where = ['keep or true', 'span_end - span_start < 1.2']
  found, _, _ = indexed_spans(corpus, tmp_path / 'a', where=where)
  expected = expected_spans(lambda length: length <= 14)
  np.testing.assert_allclose([row[1] for row in found], [row[1] for row in expected])
  found, _, _ = indexed_spans(corpus, tmp_path / 'b', where=['span_id = 3'])
  assert [row[0] for row in found] == ['3.mp4']


def open_stream(directory, output, **options):
  return stream.TrainStream(
    {'corpus': directory}, [BUCKET], [fields.Video()], seed=1, index=str(output), sandbox=False,
    **options,
  )  # fmt: skip


def test_the_stream_draws_each_shot_once_an_epoch_and_within_it(corpus, tmp_path):
  index.index({'corpus': corpus}, str(tmp_path), axes=[])
  drawn = open_stream(corpus, tmp_path)
  count = drawn.num_examples(BUCKET)
  assert count == 9
  examples = [example for step in range(count) for example in drawn.examples_at(step)]
  spans = {(key, start): start + duration for key, start, duration in expected_spans()}
  counts: collections.Counter = collections.Counter()
  for example in examples:
    [span] = [
      (key, start)
      for (key, start), end in spans.items()
      if key == example['key'] and start - 1e-6 <= example['times'][0]
      and example['times'][-1] <= end + 1e-6
    ]  # fmt: skip
    counts[span] += 1
    starts = sorted(start for key, start, _ in expected_spans(lambda _: True) if key == span[0])
    assert example.get('span', 0) == starts.index(span[1])
  assert set(counts) == set(spans) and set(counts.values()) == {4}
  for frames_FHWC in drawn.batch_at(0)['video']:  # One picture each: no cut is in between.
    assert np.abs(frames_FHWC.astype(int) - frames_FHWC[0]).mean() < 4


def test_slots_of_a_cache_are_told_apart(corpus, tmp_path):
  _, table, opened = indexed_spans(corpus, tmp_path)
  found = slots.Slots(opened, table)
  for shard in {opened.locate(row)[0] for row in range(len(opened))}:
    places = found.places(shard)
    drawn = [p for p in range(len(table.rows)) if opened.locate(table.row(p))[0] == shard]
    assert sorted(p for p in places if p >= 0) == drawn
    for place in drawn:
      record = opened.locate(table.row(place))[1]
      assert places[found.find(shard, record, table.span(place))] == place
    num_records = len(opened.rows_of(shard))
    assert [table.row(p) - opened.rows_of(shard).start for p in places[:num_records]] == list(
      range(num_records)
    )


def test_older_sidecars_have_one_span_each(corpus, tmp_path):
  old = tmp_path / 'old'
  shutil.copytree(corpus, old)
  for file in old.glob('sidecar/curate/*.parquet'):
    parquet.write_table(parquet.read_table(file).drop_columns(['spans']), file)
  found, table, _ = indexed_spans(str(old), tmp_path / 'index')
  longest = {row['key']: row['span_start'] for row in rows_of(old).values()}
  assert dict(row[:2] for row in found) == pytest.approx(longest) and len(found) == 4
  assert 'span' not in table.columns
  with pytest.raises(ValueError, match='--where cannot be understood: .*span_id'):
    index.index({'corpus': str(old)}, str(tmp_path / 'b'), where=['span_id = 0'])


def test_images_and_shots_are_rows_together(corpus, tmp_path):
  (tmp_path / 'in').mkdir()
  pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  PIL.Image.fromarray(pixels).save(tmp_path / 'in/a.png')
  (tmp_path / 'in/a.txt').write_text('noise')
  images = str(tmp_path / 'images')
  ingest.ingest(str(tmp_path / 'in'), images, validation_fraction=0.0, num_processes=1)
  directories = {'corpus': corpus, 'images': images}
  manifest = index.index(directories, str(tmp_path / 'index'), axes=[])
  assert [(cell['media'], cell['places']) for cell in manifest['cells']] == [
    ('video', [0, 9]), ('image', [9, 10]),
  ]  # fmt: skip


def test_the_report_counts_what_the_index_does(corpus, tmp_path):
  directories, folder = {'corpus': corpus}, str(tmp_path / 'index')
  index.index(directories, folder, where=['keep or true', 'span_id = 1'], axes=[])
  found = report.report(directories, str(tmp_path / 'page.html'), folder)
  sizes = {size['name']: size['num_rows'] for size in found['sizes']}
  assert sizes == {'ingested': 4, 'kept by curate': 4, 'in the index': 3}


def read_by_tfds(directory):
  builder = tfds.builder_from_directory(directory)
  return [
    (found['key'], found['caption'], found['data']) for found in builder.as_data_source('train')
  ]


def test_tfds_reads_the_corpus_before_and_after_each_stage(tmp_path):
  directory = corpora.ingest_shots(tmp_path, VIDEOS[:2], FPS)
  ingested = read_by_tfds(directory)
  assert [key.decode() for key, *_ in ingested] == ['0.mp4', '1.mp4']
  media = [(tmp_path / 'media' / f'{i}.mp4').read_bytes() for i in range(2)]
  assert [bytes(data) for *_, data in ingested] == media
  curate.curate(directory, RULES, num_processes=1)
  assert read_by_tfds(directory) == ingested
  index.index({'corpus': directory}, str(tmp_path / 'index'), axes=[])
  assert read_by_tfds(directory) == ingested
