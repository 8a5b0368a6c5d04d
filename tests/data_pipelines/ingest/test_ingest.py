"""Every public layout is read; what is damaged is named, left out and does not end a run."""

import json
import pathlib
import zlib

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus, sources
from data_pipelines.corpus import buckets, reader
from data_pipelines.ingest import command as ingest
from data_pipelines.sources import folder as folder_source
from data_pipelines.sources import raw
from data_pipelines.stream import fields
from data_pipelines.stream import stream as stream_lib
from tests import corpora

BUCKET = buckets.Bucket('video', 8, 32, 32, fps=8, batch_size=4)


def tokenize(captions):
  return np.array([[zlib.crc32(caption.encode()) % 1000] for caption in captions])


def examples_of(path):
  source = sources.open_source(path)
  return [example for shard in source.shards() for example in source.read(shard)]


@pytest.mark.parametrize(
  'columns',
  [
    ['videoid', 'name', 'page_idx', 'page_dir', 'duration', 'contentUrl'],
    ['videoid', 'contentUrl', 'duration', 'page_dir', 'name'],
  ],
  ids=['2M', '10M'],
)
def test_both_webvid_column_orders_are_read(tmp_path, columns):
  corpora.write_webvid(tmp_path, columns)
  assert sources.detect(tmp_path) == 'webvid'
  assert {shard.split for shard in sources.open_source(tmp_path).shards()} == {'validation'}
  examples = examples_of(tmp_path)
  assert [example.key for example in examples] == ['000001_000050/000', '000001_000050/001']
  assert examples[1] == raw.RawExample(
    '000001_000050/001', 'a "1",\nsecond line', 'video', b'media'
  )


def test_renamed_webvid_column_is_named_with_its_neighbour(tmp_path):
  corpora.write_webvid(tmp_path, ['videoid', 'page_dir', 'name'])
  file = tmp_path / 'results_2M_val.csv'
  file.write_text(file.read_text().replace('page_dir', 'pagedir', 1))
  with pytest.raises(ValueError, match="needs 'page_dir'; rename 'pagedir'"):
    examples_of(tmp_path)


def test_tars_yield_whole_examples_and_name_the_failed(tmp_path):
  corpora.write_tar(
    tmp_path / '00000.tar',
    [
      ('000000000.mp4', b'media'), ('000000000.txt', b'good'), ('000000000.json', b'{}'),
      ('000000001.txt', b'no media'), ('000000001.json', b'{"error_message": "HTTP 404"}'),
      ('000000002.mp4', b'media'), ('000000002.json', b'{}'),
      ('000000003.mp4', b'media'), ('000000003.txt', b'also good'), ('000000003.json', b'{}'),
    ],
  )  # fmt: skip
  rows = [
    dict(key='000000000', status='success', error_message=None),
    dict(key='000000004', status='failed_to_download', error_message='timed out'),
  ]
  pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / '00000.parquet')
  assert sources.detect(tmp_path) == 'webdataset'
  taken = {e.key: e for e in examples_of(tmp_path) if isinstance(e, raw.RawExample)}
  rejected = {e.key: e for e in examples_of(tmp_path) if isinstance(e, raw.Rejected)}
  assert {key: e.caption for key, e in taken.items()} == {
    '000000000': 'good',
    '000000003': 'also good',
  }
  assert {key: e.reason for key, e in rejected.items()} == {
    '000000001': 'missing_media',
    '000000002': 'missing_txt',
    '000000004': 'failed_download',
  }
  assert rejected['000000001'].detail == 'HTTP 404' and rejected['000000004'].detail == 'timed out'


@pytest.mark.parametrize('keep', [5600, 5100, 3000, 700])
def test_truncated_tar_yields_its_whole_examples_and_says_so(tmp_path, keep):
  data = b'{}'.ljust(600)
  members = [(f'{i}.{suffix}', data) for i in range(2) for suffix in ('mp4', 'txt', 'json')]
  corpora.write_tar(tmp_path / '0.tar', members)  # 1,536 bytes per member.
  data = (tmp_path / '0.tar').read_bytes()
  (tmp_path / '0.tar').write_bytes(data[:keep])
  examples = examples_of(tmp_path)
  taken = [e.key for e in examples if isinstance(e, raw.RawExample)]
  assert taken == (['0'] if keep >= 3 * 1536 else [])
  assert 'truncated_tar' in [e.reason for e in examples if isinstance(e, raw.Rejected)]


def test_vgen_list_is_read(tmp_path):
  (tmp_path / 'videos').mkdir()
  (tmp_path / 'videos/a.mp4').write_bytes(b'media')
  (tmp_path / 'vid_list.txt').write_text('a.mp4|||one, two\nb.mp4|||missing\n')
  assert sources.detect(tmp_path) == sources.detect(tmp_path / 'vid_list.txt') == 'vgen_list'
  taken, missing = examples_of(tmp_path)
  assert taken == raw.RawExample('a.mp4', 'one, two', 'video', b'media')
  assert (missing.key, missing.reason) == ('b.mp4', 'missing_file')
  (tmp_path / 'vid_list.txt').write_text('a.mp4|||one\na.mp4 two\n')
  _, bad = examples_of(tmp_path)
  assert (bad.key, bad.reason) == ('vid_list.txt:2', 'bad_row') and 'a.mp4 two' in bad.detail


@pytest.mark.parametrize('name', ['metadata.csv', 'captions.csv'])
def test_folder_takes_captions_from_a_csv_or_beside_the_files(tmp_path, name):
  folder = corpora.write_folder(tmp_path / 'train', 1)
  (tmp_path / 'val').mkdir()
  (tmp_path / 'val/b.MOV').write_bytes(b'media')
  (tmp_path / name).write_text('file_name,text\nval/b.MOV,"from, csv"\n')
  assert folder.exists() and sources.detect(tmp_path) == 'folder'
  shards = {shard.split: shard.items for shard in sources.open_source(tmp_path).shards()}
  assert [item.caption for item in shards['train']] == ['caption 0']
  assert [item.caption for item in shards['validation']] == ['from, csv']


def test_missing_captions_are_named_with_what_is_accepted(tmp_path):
  corpora.write_folder(tmp_path, 2, captions=None)
  with pytest.raises(ValueError, match=r'2 of 2 files .* 000.mp4, 001.mp4. Accepted are'):
    examples_of(tmp_path)


def test_folders_without_media_say_what_they_hold(tmp_path):
  (tmp_path / 'notes.pdf').write_bytes(b'')
  with pytest.raises(ValueError, match=r"none of the layouts .*'.pdf': 1"):
    sources.detect(tmp_path)
  with pytest.raises(ValueError, match='does not exist'):
    sources.detect(tmp_path / 'nothing')


def test_damaged_files_become_rejections_with_their_reason(tmp_path):
  folder = corpora.write_folder(tmp_path / 'in', 4)
  for name, (data, _) in corpora.DAMAGED.items():
    (folder / f'{name}.mp4').write_bytes(data)
    (folder / f'{name}.txt').write_text('damaged')
  (folder / 'broken.jpg').write_bytes(b'\xff\xd8\xff\xe0 not an image')
  (folder / 'broken.txt').write_text('damaged')
  manifest = ingest.ingest(str(folder), str(tmp_path / 'out'), num_processes=1)
  lines = (tmp_path / 'out/rejected/00000.jsonl').read_text().splitlines()
  reasons = {bad['key']: bad['reason'] for bad in map(json.loads, lines)}
  expected = {f'{name}.mp4': reason for name, (_, reason) in corpora.DAMAGED.items()}
  assert reasons == expected | {'broken.jpg': 'image'}
  assert sum(split['num_examples'] for split in manifest['splits'].values()) == 4
  assert manifest['num_rejected'] == 7 and manifest['rejected']['open'] == 3


def test_a_corpus_without_one_good_file_is_an_error(tmp_path):
  (tmp_path / 'a.mp4').write_bytes(b'')
  (tmp_path / 'a.txt').write_text('caption')
  with pytest.raises(ValueError, match=r'no training example .*a.mp4 \(open'):
    ingest.ingest(str(tmp_path), str(tmp_path / 'out'), num_processes=1)


def test_a_corpus_that_says_it_is_all_held_out_needs_no_training_example(tmp_path):
  demo_corpus.write(tmp_path / 'demo', 0, 3, 0, size=32, num_processes=1)
  manifest = ingest.ingest(str(tmp_path / 'demo/webvid'), str(tmp_path / 'out'), num_processes=1)
  assert {name: split['num_examples'] for name, split in manifest['splits'].items()} == {
    'validation': 3
  }


def test_ingest_goes_on_after_a_stop_and_repeats_nothing(tmp_path, monkeypatch):
  options = dict(validation_fraction=0.0, num_processes=1)
  folder = corpora.write_folder(tmp_path / 'in', 150)  # Three shards of at most 64.
  whole = ingest.ingest(str(folder), str(tmp_path / 'whole'), **options)
  reads = []
  read = folder_source.Folder.read

  def stopping_read(self, shard):
    reads.append(len(shard.items))
    if len(reads) == 3:
      raise KeyboardInterrupt
    return read(self, shard)

  monkeypatch.setattr(folder_source.Folder, 'read', stopping_read)
  with pytest.raises(KeyboardInterrupt):
    ingest.ingest(str(folder), str(tmp_path / 'out'), **options)
  resumed = ingest.ingest(str(folder), str(tmp_path / 'out'), **options)
  assert reads == [64, 64, 22, 22]
  assert resumed == whole
  assert ingest.ingest(str(folder), str(tmp_path / 'out'), **options) == whole
  assert len(reads) == 4


def test_a_small_corpus_holds_out_at_least_one_video(tmp_path):
  folder = corpora.write_folder(tmp_path / 'in', 5)
  manifest = ingest.ingest(str(folder), str(tmp_path / 'out'), num_processes=1)
  assert manifest['splits']['train']['num_examples'] == 4
  assert manifest['splits']['validation']['num_examples'] == 1
  rows = [reader.Corpora(str(tmp_path / 'out'), split) for split in ('train', 'validation')]
  keys = [row.key(i) for row in rows for i in range(len(row))]
  assert sorted(keys) == [f'{index:03d}.mp4' for index in range(5)]


def rot(directory, keys):
  """Overwrites the media of some records in place, as failing disks do."""
  corpora = reader.Corpora(directory, 'train')
  for file in pathlib.Path(directory).glob('corpus-train*'):
    data = file.read_bytes()
    for row in range(len(corpora)):
      record = reader.Records().read(*corpora.locate(row))
      if record['key'] in keys:
        assert data.count(record['data']) <= 1
        data = data.replace(record['data'], b'rot ' * (len(record['data']) // 4))
    file.write_bytes(data)


@pytest.fixture
def unpadded(monkeypatch):
  """Media of a length divisible by four, so that rot() keeps the record's length."""
  original = demo_corpus.encode_video
  monkeypatch.setattr(
    demo_corpus, 'encode_video', lambda frames: original(frames) + bytes(-len(original(frames)) % 4)
  )


def ingest_videos(tmp_path, count):
  folder = corpora.write_folder(tmp_path / 'in', count)
  ingest.ingest(str(folder), str(tmp_path / 'out'), validation_fraction=0.0, num_processes=1)
  return str(tmp_path / 'out')


def test_a_video_that_rots_is_replaced_counted_and_named_once(tmp_path, unpadded, caplog):
  directory = ingest_videos(tmp_path, 8)
  sound = stream_lib.TrainStream(directory, [BUCKET], fields.released(tokenize, 16), seed=0)
  expected = [sound.batch_at(step) for step in range(6)]
  rot(directory, ['003.mp4'])
  streams = [
    stream_lib.TrainStream(
      directory, [BUCKET], fields.released(tokenize, 16), seed=0, num_threads=n
    )
    for n in (1, 3)
  ]
  rotten_token = tokenize(['caption 3'])[0, 0]
  for step in range(6):
    first, second = (stream.batch_at(step) for stream in streams)
    np.testing.assert_array_equal(first['video'], second['video'])
    same = expected[step]['token_ids'][:, 0] != rotten_token
    np.testing.assert_array_equal(first['video'][same], expected[step]['video'][same])
    assert rotten_token not in first['token_ids']
    assert first['video'].reshape(32, -1).std(axis=-1).min() > 1
  for stream in streams:
    assert stream.num_bad == 1 and 'record' in stream.bad_examples['003.mp4']
  assert caplog.text.count('003.mp4 cannot be decoded') == 2  # Once per stream.


def test_more_than_one_percent_of_rotten_videos_ends_the_run(tmp_path, unpadded):
  directory = ingest_videos(tmp_path, 12)
  rot(directory, ['003.mp4', '007.mp4'])
  stream = stream_lib.TrainStream(directory, [BUCKET], fields.released(tokenize, 16), seed=0)
  with pytest.raises(
    stream_lib.DataError, match=r'(003|007).mp4 .*, (003|007).mp4 .* put back copies'
  ):
    for step in range(6):
      stream.batch_at(step)
  tolerant = stream_lib.TrainStream(
    directory, [BUCKET], fields.released(tokenize, 16), seed=0, max_bad_fraction=0.2
  )
  for step in range(6):
    tolerant.batch_at(step)
  assert tolerant.num_bad == 2


def test_commands_make_a_corpus_that_streams(tmp_path, capsys):
  demo = ['--num_videos=8', '--num_validation=4', '--num_images=4', '--num_processes=1']
  commands.main(['demo', f'--output={tmp_path}/demo', *demo])
  for name in ('webvid', 'images'):
    arguments = [f'--input={tmp_path}/demo/{name}', f'--output={tmp_path}/{name}']
    commands.main(['ingest', *arguments, '--num_processes=1'])
  assert 'train: 8 videos and 0 images, validation: 4 videos' in capsys.readouterr().out
  stream = stream_lib.TrainStream(
    f'{tmp_path}/webvid', [BUCKET], fields.released(tokenize, 16), seed=0
  )
  assert stream.batch_at(0)['video'].shape == (4, 8, 32, 32, 3)
  with corpora.ends_with_2('does not exist'):
    commands.main(['ingest', f'--input={tmp_path}/nothing', f'--output={tmp_path}/x'])


def test_a_clip_without_caption_is_logged_with_the_file_that_is_missing(tmp_path, caplog):
  for name in ('a', 'b', 'sub/c'):
    (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new('RGB', (40, 30)).save(tmp_path / 'in' / f'{name}.jpg')
  for name in ('a', 'b'):
    (tmp_path / 'in' / f'{name}.txt').write_text(f'a picture {name}')
  ingest.ingest(tmp_path / 'in', tmp_path / 'out', num_processes=1)
  assert 'rejected sub/c.jpg: no_caption: no sub/c.txt' in caplog.messages


def test_a_rejection_without_detail_ends_with_its_code():
  assert raw.reason_text('no_caption', '') == 'no_caption'
