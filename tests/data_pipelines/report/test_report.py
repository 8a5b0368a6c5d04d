"""The report's figures are those of the manifests and sidecars, and its page is safe to open."""

import html.parser
import io
import json
import pathlib
import re
import shutil

import numpy as np
import PIL.Image
import pyarrow.parquet as parquet
import pytest

from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from data_pipelines.ingest import verify
from data_pipelines.report import command as report
from data_pipelines.report import strips
from tests import corpora
from tests.data_pipelines.curate.test_curate import pan
from tests.data_pipelines.report.pictured import distance, pictures_of

HOSTILE = '<script>alert(1)</script> & "><img src=x onerror=alert(1)>'
NUM_VIDEOS = 16


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """Videos of which the first has a hostile caption and one a damaged file, and LAION's images."""
  root = tmp_path_factory.mktemp('report')
  source = corpora.write_folder(root / 'in', NUM_VIDEOS)
  (source / '000.txt').write_text(HOSTILE)
  (source / '003.mp4').write_bytes(b'')
  images = root / 'laion'
  images.mkdir()
  members = []
  for i, nsfw in enumerate(['UNLIKELY', 'NSFW', 'UNLIKELY', 'UNLIKELY', 'UNLIKELY']):
    picture, caption, _ = demo_corpus.render_image(np.random.default_rng(i), size=64)
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, 'jpeg')
    row = dict(url=f'https://example.com/{i}', NSFW=nsfw, LICENSE='CC-BY <b>' if i % 2 else '')
    members += [(f'{i}.jpg', buffer.getvalue()), (f'{i}.txt', f'image {i}: {caption}'.encode())]
    members.append((f'{i}.json', json.dumps(row).encode()))
  corpora.write_tar(images / '00000.tar', members)
  (root / 'denied.txt').write_text('https://example.com/2')
  found = {'images': str(root / 'images'), 'videos': str(root / 'videos')}
  ingest.ingest(str(source), found['videos'], validation_fraction=0.1, num_processes=1)
  ingest.ingest(str(images), found['images'], validation_fraction=0.0, num_processes=1)
  rules = decide.Rules(min_short_side=16, min_duration=0.1, keep_duplicates=True)
  denied = [str(root / 'denied.txt')]
  for directory in found.values():
    curate.curate(directory, rules, denylists=denied, num_processes=1)
  where = ["media = 'image' or motion > 0.0235", 'border_area < 0.9']
  index.index(found, str(root / 'index'), where, quantiles=2)
  return found


@pytest.fixture(scope='module')
def page(corpus):
  """(what report says, its page) of both corpora with their index."""
  root = pathlib.Path(corpus['videos']).parent
  found = report.report(corpus, str(root / 'page.html'), str(root / 'index'), num_examples=20)
  return found, (root / 'page.html').read_text()


def rows_of(directory):
  rows = []
  for path in sorted(pathlib.Path(directory).glob('sidecar/train-*.parquet')):
    added = parquet.read_table(path.parent / 'curate' / path.name).to_pylist()
    rows += [a | b for a, b in zip(parquet.read_table(path).to_pylist(), added, strict=True)]
  assert rows, f'{directory} has no sidecars'
  return rows


def test_counts_are_those_of_verify_and_of_the_index(corpus, page):
  found, text = page
  for listed in found['corpora']:
    assert listed['num_examples'] == verify.verify(corpus[listed['name']], 0.0, 1).num_examples
  manifest = json.loads((pathlib.Path(corpus['videos']).parent / 'index/manifest.json').read_text())
  rows = rows_of(corpus['videos']) + rows_of(corpus['images'])
  assert [size['num_rows'] for size in found['sizes']] == [
    len(rows), sum(row['keep'] for row in rows), manifest['num_rows']
  ]  # fmt: skip
  assert len(rows) > sum(row['keep'] for row in rows) > manifest['num_rows'] > 4
  assert found['sizes'][0]['hours'] == pytest.approx(sum(r['duration'] for r in rows) / 3600)
  assert found['sizes'][0]['gigabytes'] == pytest.approx(sum(r['num_bytes'] for r in rows) / 1e9)
  for step in manifest['funnel']:
    assert re.search(rf'<td class="n">{step["num_rows"]}</td>', text)
  assert found['rejections'][0]['reason'] == 'open' and found['rejections'][0]['count'] == 1
  cells = [cell for panel in found['maps'] for cell in panel['cells']]
  assert sum(cell['count'] for cell in cells) == manifest['num_rows']
  assert len(cells) == len(manifest['cells'])
  for media in ('video', 'image'):
    shares = [c['drawn'] for p in found['maps'] for c in p['cells'] if p['media'] == media]
    assert sum(shares) == pytest.approx(1)


def test_histograms_are_those_of_the_sidecars_before_and_after(corpus, page):
  found, _ = page
  rows = rows_of(corpus['videos']) + rows_of(corpus['images'])
  by_title = {histogram['measure'].name: histogram for histogram in found['histograms']}
  histogram = by_title['motion, diagonals/s']
  for name, kept in (('ingested', rows), ('kept by curate', [r for r in rows if r['keep']])):
    values = [row['motion'] for row in kept if row['motion'] is not None]
    values = np.clip(values, histogram['low'], histogram['high'])
    expected, _ = np.histogram(values, 32, (histogram['low'], histogram['high']))
    np.testing.assert_array_equal(histogram['counts'][name], expected)
  assert histogram['num_unknown'] == len(rows_of(corpus['images']))
  assert sum(histogram['counts']['in the index']) < sum(histogram['counts']['kept by curate'])
  assert 'aesthetic' not in by_title  # Nobody has scored it.


class Tags(html.parser.HTMLParser):
  def __init__(self, text):
    super().__init__()
    self.tags, self.links, self.text = [], [], ''
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.links += [v for k, v in attributes if k in ('src', 'href', 'srcset', 'xlink:href')]
    assert not any(k.startswith('on') for k, _ in attributes)

  def handle_data(self, data):
    self.text += data


def test_buckets_cuts_copies_and_drift_are_those_that_were_made(tmp_path):
  folder = tmp_path / 'in'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for number in range(80):  # The second shard's images are larger; two are one.
    name, side = (f'a{number:02d}', 64) if number < 64 else (f'b{number:02d}', 96)
    blocks = PIL.Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    blocks.resize((side, side), PIL.Image.Resampling.BICUBIC).save(folder / f'{name}.jpg')
  shutil.copy(folder / 'a07.jpg', folder / 'a08.jpg')
  shots = np.concatenate([pan(seed, 60, 1.0) for seed in (1, 2)])
  (folder / 'c.mp4').write_bytes(demo_corpus.encode_video(shots, 24))
  for path in sorted(folder.iterdir()):
    path.with_suffix('.txt').write_text(path.stem)
  directory = str(tmp_path / 'corpus')
  ingest.ingest(str(folder), directory, validation_fraction=0.0, num_processes=1)
  rules = decide.Rules(min_short_side=16, keep_duplicates=True)
  curate.curate(directory, rules, allow_no_denylist='ours', num_processes=1)
  found = report.report({'mine': directory}, str(tmp_path / 'page.html'))

  counts = {row['name']: row['counts'] for row in found['eligibility']['rows']}
  assert counts == {
    'an image': [80, 0, 0, 0, 0],
    '16 frames at 8 per second': [1, 0, 0, 0, 0],
    '16 frames at 16 per second': [1, 0, 0, 0, 0],
    '32 frames at 8 per second': [0, 0, 0, 0, 0],  # In the file, but not in one shot.
    '32 frames at 16 per second': [1, 0, 0, 0, 0],
  }
  [videos, images] = found['aspects']['rows']
  videos['counts']['448x256'] -= 1
  assert videos == dict(name='video', counts=dict.fromkeys(found['aspects']['names'], 0))
  assert images['counts']['max_enlarge'] == 80 and sum(images['counts'].values()) == 80
  group = dict(corpus=0, dup_group=7, num_rows=2, rows=[7, 8])
  assert found['copies'] == dict(num_groups=1, num_rows=2, groups=[group])
  [far] = [far for far in found['far_shards'] if far['title'] == 'shorter side, pixels'][:1]
  assert far['shard'].endswith('00001') and far['num_rows'] == 17
  assert far['distance'] == pytest.approx(64 / 81) and far['median'] == 96
  text = (tmp_path / 'page.html').read_text()
  cuts = text[text.index('<h2 id="shots"') : text.index('<h2 id="dropped"')]
  *of_shots, before, after = pictures_of(cuts)
  assert len(of_shots) == 2 and 'cut at 2.50 s' in cuts
  one, two, three, four = [frame for side in (before, after) for frame in np.split(side, 2, axis=1)]
  assert distance(two, three) > 3 * max(distance(one, two), distance(three, four))


def test_hostile_captions_are_text_and_nothing_is_fetched(page):
  _, text = page
  parsed = Tags(text)
  assert HOSTILE in parsed.text and 'CC-BY <b>' in parsed.text
  assert not {'script', 'iframe', 'link', 'object', 'embed', 'form'} & set(parsed.tags)
  assert all(link.startswith(('#', 'data:image/jpeg;base64,')) for link in parsed.links)
  assert "default-src 'none'" in text and '@import' not in text and 'url(' not in text
  anchors = {link[1:] for link in parsed.links if link.startswith('#')}
  assert len(anchors) > 6 and all(f'id="{anchor}"' in text for anchor in anchors)


def test_every_cell_and_every_rule_has_its_pictures_and_unsafe_ones_are_never_shown(page):
  found, text = page
  for cell in (cell for panel in found['maps'] for cell in panel['cells']):
    [sheet] = re.findall(rf'<div id="{cell["anchor"]}".*?</details>', text, re.DOTALL)
    assert sheet.count('<img') == min(20, cell['count'])
    assert f'<a href="#{cell["anchor"]}"' in text
  sheets = re.split(r'<h3', text[text.index('<h2 id="dropped"') :])
  for rule in ('denylist', 'nsfw'):
    [sheet] = [sheet for sheet in sheets if f'By curate: {rule}</h3>' in sheet]
    assert '<img' not in sheet and 'not shown' in sheet
  assert 'image 0:' in text and 'image 1:' not in text and 'image 2:' not in text


def test_pictures_are_the_frames_of_the_shot(page):
  _, text = page
  sizes = {picture.shape[1::-1] for picture in pictures_of(text)}
  assert sizes == {(3 * strips.HEIGHT, strips.HEIGHT), (64, 64)}


def test_the_same_corpus_gives_the_same_bytes_and_a_dry_run_none(corpus, page, capsys):
  root = pathlib.Path(corpus['videos']).parent
  flags = [f'--corpus={directory}' for directory in corpus.values()] + [f'--index={root}/index']
  commands.main(['report', *flags, f'--output={root}/other.html', '--dry_run'])
  assert 'stages: curate' in capsys.readouterr().out and not (root / 'other.html').exists()
  commands.main(['report', *flags, f'--output={root}/other.html', '--num_examples=20'])
  assert (root / 'other.html').read_text() == page[1]


def test_without_an_index_what_is_kept_is_shown_and_bad_media_is_named(corpus, tmp_path):
  directory = tmp_path / 'rotten'
  shutil.copytree(corpus['videos'], directory)
  for path in directory.glob('corpus-train*'):  # All media is zeroed; the records stay whole.
    data = path.read_bytes()
    for row in range(NUM_VIDEOS):
      media = corpora.video(row)
      data = data.replace(media, bytes(len(media)))
    path.write_bytes(data)
  report.report({'rotten': str(directory)}, str(tmp_path / 'page.html'), num_examples=2)
  text = (tmp_path / 'page.html').read_text()
  assert '>videos</h3>' in text and '<img' not in text and 'class="none"' in text


def test_an_index_of_other_sidecars_is_refused(corpus, tmp_path):
  root = pathlib.Path(corpus['videos']).parent
  copied = {name: str(shutil.copytree(path, tmp_path / name)) for name, path in corpus.items()}
  with pytest.raises(ValueError, match='is of the corpora'):
    report.report({'videos': copied['videos']}, str(tmp_path / 'p'), str(root / 'index'))
  rules = decide.Rules(min_short_side=999)
  curate.curate(copied['videos'], rules, num_processes=1)
  with pytest.raises(ValueError, match='curate or score has run since; index again'):
    report.report(copied, str(tmp_path / 'p'), str(root / 'index'))


def test_an_index_that_left_out_copies_of_another_corpus_is_no_other_index(tmp_path):
  """Fewer rows than its conditions leave: of two corpora one has the copies."""
  found = {}
  for name in ('one', 'two'):
    source = corpora.write_folder(tmp_path / f'in_{name}', 3)
    found[name] = str(tmp_path / name)
    ingest.ingest(str(source), found[name], validation_fraction=0.0, num_processes=1)
    rules = decide.Rules(min_short_side=16, min_duration=0.1)
    curate.curate(found[name], rules, num_processes=1)
  manifest = index.index(found, str(tmp_path / 'index'))
  assert manifest['num_rows'] < manifest['funnel'][1]['num_rows']
  report.report(found, str(tmp_path / 'page.html'), str(tmp_path / 'index'), num_examples=1)
