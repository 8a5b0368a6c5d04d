"""`inspect` names what is there and what would be rejected, and touches nothing."""

import io
import json
import shlex

import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_pipelines import __main__ as commands
from data_pipelines import sources
from data_pipelines.ingest import inspect
from data_pipelines.sources import raw
from tests import corpora

LAION_ROW = dict(
  SAMPLE_ID=1.0, URL='https://example.com/a.jpg', TEXT='a frog', HEIGHT=300.0, WIDTH=400.0,
  LICENSE='?', NSFW='UNLIKELY', similarity=0.31,
)  # fmt: skip
COLUMNS_2M = ['videoid', 'name', 'page_idx', 'page_dir', 'duration', 'contentUrl']
COLUMNS_10M = ['videoid', 'contentUrl', 'duration', 'page_dir', 'name']


@pytest.fixture
def bucket():
  yield from corpora.bucket()


def jpeg():
  buffer = io.BytesIO()
  PIL.Image.new('RGB', (40, 30), (200, 30, 40)).save(buffer, 'jpeg')
  return buffer.getvalue()


def write_img2dataset(folder, rows):
  """One tar and its table; a row whose status is not success has no members."""
  folder.mkdir(parents=True, exist_ok=True)
  groups = []
  for row in rows:
    if row['status'] == 'success':
      groups += [
        (f'{row["key"]}.jpg', jpeg()),
        (f'{row["key"]}.txt', row['caption'].encode()),
        (f'{row["key"]}.json', json.dumps({'url': row['url']}).encode()),
      ]
  corpora.write_tar(folder / '00000.tar', groups)
  pa.parquet.write_table(pa.Table.from_pylist(rows), folder / '00000.parquet')


def img2dataset_rows():
  rows = [
    dict(key=f'00000000{i}', url=f'https://example.com/{i}.jpg', caption=f'image {i}',
         status='success', error_message=None, NSFW=nsfw, similarity=0.3, LICENSE='?')
    for i, nsfw in enumerate(['UNLIKELY', 'NSFW', 'UNSURE', 'UNLIKELY'])
  ]  # fmt: skip
  rows[3].update(status='failed_to_download', error_message='HTTP Error 404')
  return rows


@pytest.mark.parametrize('columns', [COLUMNS_2M, COLUMNS_10M], ids=['2M', '10M'])
def test_webvid_is_named_with_its_columns_and_undecodable_videos(tmp_path, columns):
  corpora.write_webvid(tmp_path, columns)
  (tmp_path / 'videos/000001_000050/000.mp4').write_bytes(corpora.video())
  before = sorted(tmp_path.rglob('*'))
  finding = inspect.inspect(str(tmp_path))
  assert finding.layout == 'webvid' and finding.columns == {'results_2M_val.csv': columns}
  assert finding.splits == {'validation': 1} and finding.num_listed == finding.num_read == 2
  assert finding.accepted == {'video': 1} and finding.rejected == {'open': 1}
  assert '000001_000050/001  open: the file is damaged, cut off' in finding.text()
  assert 'in 1 shards: validation 1' in finding.text()
  assert '32x32, 16 frames, 0.94 s, 16 fps' in finding.text()
  assert sorted(tmp_path.rglob('*')) == before


def test_failed_downloads_are_rows_without_members(tmp_path):
  write_img2dataset(tmp_path, img2dataset_rows())
  finding = inspect.inspect(str(tmp_path))
  assert finding.layout == 'webdataset' and finding.num_listed == 4
  assert finding.accepted == {'image': 3} and finding.rejected == {'failed_download': 1}
  assert finding.origin['nsfw'] == 3 and 'HTTP Error 404' in finding.text()
  source = sources.open_source(tmp_path)
  taken = [e for e in source.read(source.shards()[0]) if isinstance(e, raw.RawExample)]
  assert [example.origin['nsfw'] for example in taken] == ['UNLIKELY', 'NSFW', 'UNSURE']
  assert taken[0].origin['url'] == 'https://example.com/0.jpg'


def test_a_table_with_a_renamed_status_is_an_error_with_its_neighbour(tmp_path):
  rows = [{('state_us' if k == 'status' else k): v for k, v in r.items()} | {'status': 'success'}
          for r in img2dataset_rows()[:1]]  # fmt: skip
  write_img2dataset(tmp_path, rows)
  table = pa.parquet.read_table(tmp_path / '00000.parquet').drop_columns(['status'])
  pa.parquet.write_table(table, tmp_path / '00000.parquet')
  with pytest.raises(ValueError, match="needs 'status'; rename 'state_us'"):
    inspect.inspect(str(tmp_path))


@pytest.mark.parametrize('lower', [False, True])
def test_laion_tables_are_links_and_say_how_to_fetch_them(tmp_path, lower):
  row = {(name.lower() if lower else name): value for name, value in LAION_ROW.items()}
  pa.parquet.write_table(pa.Table.from_pylist([row] * 3), tmp_path / 'part-00000.parquet')
  finding = inspect.inspect(str(tmp_path))
  assert finding.layout == 'laion_parquet' and finding.num_listed == 3
  assert finding.rejected == {'link_only': 3} and not finding.accepted
  url = 'url' if lower else 'URL'
  assert 'img2dataset' in finding.advice and f'--url_col {url} ' in finding.advice
  assert ('nsfw' if lower else 'NSFW') in finding.advice  # Curation needs it.


def test_laion_tables_without_captions_name_the_nearest_column(tmp_path):
  row = {('TEXTS' if name == 'TEXT' else name): value for name, value in LAION_ROW.items()}
  pa.parquet.write_table(pa.Table.from_pylist([row]), tmp_path / 'part-00000.parquet')
  with pytest.raises(ValueError, match="needs 'text'; rename 'texts'"):
    inspect.inspect(str(tmp_path))


def test_damaged_files_are_counted_by_reason(tmp_path):
  corpora.write_folder(tmp_path, 2)
  for name, (data, _) in corpora.DAMAGED.items():
    (tmp_path / f'{name}.mp4').write_bytes(data)
    (tmp_path / f'{name}.txt').write_text('damaged')
  finding = inspect.inspect(str(tmp_path))
  assert finding.layout == 'folder' and finding.accepted == {'video': 2}
  assert finding.rejected == {'open': 3, 'decode': 1, 'no_video': 1, 'single_frame': 1}


def test_lists_in_vgens_form_are_read_whole(media_folder, capsys):
  commands.main(['inspect', str(media_folder / 'videos')])
  text = capsys.readouterr().out
  assert 'vgen_list' in text and 'accepted video 5' in text
  assert '596x336, 165 frames, 10.25 s, 16 fps' in text


@pytest.mark.parametrize('protocol', ['s3', 'gs'])
def test_a_bucket_is_read_like_a_folder(tmp_path, bucket, protocol):
  corpora.write_webvid(tmp_path / 'corpus', COLUMNS_10M)
  (tmp_path / 'corpus/videos/000001_000050/000.mp4').write_bytes(corpora.video())
  write_img2dataset(tmp_path / 'images', img2dataset_rows())
  corpora.write_folder(tmp_path / 'folder' / 'val', 1)
  for name in ('corpus', 'folder', 'images'):
    bucket.put(str(tmp_path / name), f'/held/{name}', recursive=True)
    local = inspect.inspect(str(tmp_path / name))
    remote = inspect.inspect(f'{protocol}://held/{name}')
    assert remote.text().replace(f'{protocol}://held', str(tmp_path)) == local.text()
  assert remote.accepted == {'image': 3}


def test_a_long_csv_is_cut_between_rows_that_span_lines(tmp_path):
  rows = ['videoid,page_dir,name'] + [f'{i:04d},p,"line ""{i}"",\n next, ü"' for i in range(200)]
  (tmp_path / 'results.csv').write_text('\n'.join(rows))
  source = sources.open_source(tmp_path)
  shards = source.shards()
  assert [source.count(shard) for shard in shards] == [64, 64, 64, 8]
  listed = [item for shard in shards for item in source.listed(shard.items[0])]
  assert [item.caption for item in listed] == [f'line "{i}",\n next, ü' for i in range(200)]
  assert [item.key for item in listed] == [f'p/{i:04d}' for i in range(200)]


def test_an_open_quote_costs_its_own_line(tmp_path):
  rows = ['videoid,page_dir,name', '0001,p,fine', '0002,p,"open'] + ['0003,p,' + 'x' * 1000] * 200
  (tmp_path / 'results.csv').write_text('\n'.join(rows))
  finding = inspect.inspect(str(tmp_path), num_examples=300)
  assert finding.num_listed == 202 and finding.rejected == {'bad_row': 1, 'missing_file': 201}
  assert 'results.csv:3  bad_row: ' in finding.text() and 'is a quote open?' in finding.text()


def test_the_command_that_inspect_ends_with_takes_a_path_with_spaces(tmp_path):
  folder = tmp_path / 'my clips'
  folder.mkdir()
  (folder / 'a.jpg').write_bytes(jpeg())
  (folder / 'a.txt').write_text('a red square')
  words = shlex.split(inspect.inspect(folder).advice)
  assert words[4:] == ['ingest', f'--input={folder}', '--output=CORPUS']


@pytest.mark.parametrize('before', ['', '--input='])
def test_the_path_may_be_given_as_ingest_takes_it(before, tmp_path, capsys):
  (tmp_path / 'a.jpg').write_bytes(jpeg())
  (tmp_path / 'a.txt').write_text('a red square')
  commands.main(['inspect', f'{before}{tmp_path}', '--num_examples=1'])
  assert 'accepted image 1' in capsys.readouterr().out


@pytest.mark.parametrize('arguments', [[], ['x', '--input=x']])
def test_one_path_is_given(arguments):
  with corpora.ends_with_2('--input'):
    commands.main(['inspect', *arguments])
