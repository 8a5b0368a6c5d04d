"""Scores are those of transformers' CLIPModel and of the heads' own arithmetic, for random weights
in the files' real form."""

import hashlib
import io
import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.numpy
from etils import epath

from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus
from data_pipelines.corpus import records
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.index import command as index_lib
from data_pipelines.ingest import command as ingest
from data_pipelines.media import decode
from data_pipelines.score import heads, saliency
from i2vgen_jax import score
from i2vgen_jax.evaluation import clip_scorer
from i2vgen_jax.models import clip as clip_model
from tests import corpora, runs, tiny_clip

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

DIM = tiny_clip.DIM


@pytest.fixture(scope='module')
def clip_folder(tmp_path_factory):
  """A small CLIPModel with random weights, saved by transformers, and its tokenizer."""
  folder = tmp_path_factory.mktemp('clip')
  return folder, tiny_clip.write(folder)


CAPTIONS = ['a red circle moves left', 'a blue square moves up', '', 'a green triangle ' * 20]


def theirs(model, folder, pixels, captions):
  """transformers' unit vectors."""
  tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder))
  ids = tokenizer(
    captions, padding='max_length', truncation=True, max_length=16, return_tensors='pt'
  )['input_ids']
  normalised = (pixels.astype(np.float32) / 255 - clip_model.MEAN) / clip_model.DEVIATION
  with torch.no_grad():
    images = model.get_image_features(torch.from_numpy(normalised).permute(0, 3, 1, 2).float())
    texts = model.get_text_features(ids)
  return [(v / v.norm(dim=-1, keepdim=True)).numpy() for v in (images, texts)]


def test_vectors_are_those_of_transformers(clip_folder):
  folder, model = clip_folder
  pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
  scorer = clip_scorer.ClipScorer(str(folder))
  images, texts = theirs(model, folder, pixels, CAPTIONS)
  np.testing.assert_allclose(scorer.images(pixels), images, atol=1e-5)
  np.testing.assert_allclose(scorer.texts(CAPTIONS), texts, atol=1e-5)
  assert np.abs(images[0] - images[1]).max() > 0.01 < np.abs(texts[0] - texts[1]).max()


def write_head(path, sizes, metadata=None, names='layers.{}'):
  rng = np.random.default_rng(len(sizes))
  layers = {}
  for index, (columns, rows) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
    layers[names.format(2 * index) + '.weight'] = rng.normal(size=(rows, columns))
    layers[names.format(2 * index) + '.bias'] = rng.normal(size=rows)
  layers = {name: value.astype(np.float32) for name, value in layers.items()}
  safetensors.numpy.save_file(layers, path, metadata)
  return [
    (torch.from_numpy(layers[name]), torch.from_numpy(layers[name[:-6] + 'bias']))
    for name in layers
    if name.endswith('weight')
  ]


@pytest.mark.parametrize('num_layers', [1, 5, 7])
def test_linear_heads_are_chains_of_torch_layers(tmp_path, num_layers):
  sizes = [DIM, *([9] * (num_layers - 1)), 1]
  layers = write_head(tmp_path / 'head.safetensors', sizes)
  vectors = np.random.default_rng(1).normal(size=(6, DIM)).astype(np.float32)
  expected = torch.from_numpy(vectors)
  for weight, bias in layers:
    expected = torch.nn.functional.linear(expected, weight, bias)
  found = heads.Head(str(tmp_path / 'head.safetensors'), DIM)(vectors)
  np.testing.assert_allclose(found, expected[:, 0].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('output, classes', [('sigmoid', 1), ('softmax', 2)])
def test_classifiers_end_in_probabilities(tmp_path, output, classes):
  metadata = {'activation': 'relu', 'output': output}
  layers = write_head(tmp_path / 'h', [DIM, 8, classes], metadata)
  vectors = np.random.default_rng(1).normal(size=(6, DIM)).astype(np.float32)
  (w0, b0), (w1, b1) = layers
  logits = torch.relu(torch.from_numpy(vectors) @ w0.T + b0) @ w1.T + b1
  expected = torch.sigmoid(logits) if classes == 1 else torch.softmax(logits, dim=-1)
  found = heads.Head(str(tmp_path / 'h'), DIM)(vectors)
  np.testing.assert_allclose(found, expected[:, -1].numpy(), rtol=1e-5)


def test_wrong_files_are_named(tmp_path, clip_folder):
  write_head(tmp_path / 'wide', [DIM + 1, 1])
  write_head(tmp_path / 'odd', [DIM, 1], {'output': 'tanh'})
  (tmp_path / 'cut').write_bytes((tmp_path / 'wide').read_bytes()[:50])
  for name, message in (
    ('none', 'does not exist'), ('wide', 'but CLIP gives 20'), ('odd', "output='tanh'"),
    ('cut', 'no whole safetensors file'),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message):
      heads.Head(str(tmp_path / name), DIM)
  with pytest.raises(ValueError, match='has no config.json'):
    clip_scorer.ClipScorer(str(tmp_path))


def rows_of(directory):
  rows = []
  for file in sorted(pathlib.Path(directory, 'sidecar/score').glob('*.parquet')):
    base = pa.parquet.read_table(file.parents[1] / file.name).to_pylist()
    rows += pa.parquet.read_table(file).to_pylist()
    assert [row['key'] for row in base] == [row['key'] for row in rows[-len(base) :]]
  assert rows, f'{directory} has no sidecars of score'
  return {row['key']: row for row in rows}


def test_a_corpus_is_scored_and_resumed(tmp_path, clip_folder, monkeypatch):
  folder, model = clip_folder
  source = tmp_path / 'in'
  source.mkdir()
  names = []
  for index in range(5):
    frames, caption, _ = demo_corpus.render_video(np.random.default_rng(index))
    (source / f'{index}.mp4').write_bytes(demo_corpus.encode_video(frames))
    (source / f'{index}.txt').write_text(caption)
    names.append(f'{index}.mp4')
  buffer = io.BytesIO()
  PIL.Image.fromarray(frames[0]).save(buffer, 'png')
  (source / '5.png').write_bytes(buffer.getvalue())
  (source / '5.txt').write_text('a red circle')
  directory = tmp_path / 'out'
  ingest.ingest(str(source), str(directory), validation_fraction=0.0, num_processes=1)
  aesthetic = write_head(tmp_path / 'aesthetic', [DIM, 6, 1])
  write_head(tmp_path / 'nsfw', [DIM, 2], {'output': 'softmax'})
  options = dict(clip=str(folder), batch_size=4)
  options |= dict(aesthetic=f'{tmp_path}/aesthetic', nsfw=f'{tmp_path}/nsfw')
  score.score(str(directory), **options)
  rows = rows_of(directory)
  found = records.read(epath.Path(next(directory.glob('corpus-train*'))))
  for record in (record for record in found if record['media'] == 'video'):
    duration = 15 / 16
    times = np.array([0.1, 0.5, 0.9]) * duration
    pixels = decode.decode_video(record['data'], times, 32, 32)[0]
    images, texts = theirs(model, folder, pixels, [record['caption']])
    row = rows[record['key']]
    assert row['clip_similarity'] == pytest.approx((images @ texts[0]).mean(), abs=1e-5)
    (w0, b0), (w1, b1) = aesthetic
    expected = (torch.from_numpy(images) @ w0.T + b0) @ w1.T + b1
    assert row['aesthetic'] == pytest.approx(float(expected.mean()), abs=1e-4)
    assert 0 < row['nsfw_score'] < 1
  assert set(rows) == {*names, '5.png'} and len({r['aesthetic'] for r in rows.values()}) == 6
  monkeypatch.setattr(clip_scorer.ClipScorer, 'images', None)  # Nothing is embedded again.
  score.score(str(directory), **options)
  assert rows_of(directory) == rows
  manifest = json.loads((directory / 'sidecar/score/manifest.json').read_text())
  assert manifest['num_scored'] == 6 and set(manifest['weights']) == {'clip', 'aesthetic', 'nsfw'}


def test_what_cannot_be_decoded_has_no_score(tmp_path, clip_folder):
  source = corpora.write_folder(tmp_path / 'in', 3)
  directory = tmp_path / 'out'
  ingest.ingest(str(source), str(directory), validation_fraction=0.0, num_processes=1)
  file = next(directory.glob('corpus-train*'))
  data = (source / '001.mp4').read_bytes()
  file.write_bytes(file.read_bytes().replace(data, bytes(len(data))))
  score.score(str(directory), str(clip_folder[0]), batch_size=4)
  found = {key: row['clip_similarity'] is not None for key, row in rows_of(directory).items()}
  assert found == {'000.mp4': True, '001.mp4': False, '002.mp4': True}


def write_saliency(path, size=64, limit=0.4, steep=200.0):
  """An ONNX network that finds red: a 1x1 convolution on the normalised picture, and a sigmoid."""
  onnx = pytest.importorskip('onnx')
  # (x - mean) / deviation * weight = steep * (red - green), per channel of x in [0, 1].
  colours = steep * np.array([1, -1, 0], np.float32)
  weight = (colours * saliency.DEVIATION).reshape(1, 3, 1, 1)
  bias = np.array([colours @ saliency.MEAN - limit * steep], np.float32)
  helper, kind = onnx.helper, onnx.TensorProto.FLOAT
  graph = helper.make_graph(
    [
      helper.make_node('Conv', ['input', 'w', 'b'], ['logits']),
      helper.make_node('Sigmoid', ['logits'], ['map']),
    ],
    'red',
    [helper.make_tensor_value_info('input', kind, ['B', 3, size, size])],
    [helper.make_tensor_value_info('map', kind, ['B', 1, size, size])],
    [onnx.numpy_helper.from_array(a, n) for a, n in ((weight, 'w'), (bias, 'b'))],
  )
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9)
  path.write_bytes(model.SerializeToString())
  return path


def test_a_network_finds_the_subject_in_the_whole_frame_and_then_it_is_an_axis(tmp_path):
  source = tmp_path / 'in'
  source.mkdir()
  areas = {}
  for name, (height, width, radius) in dict(wide=(96, 256, 20), tall=(192, 96, 30)).items():
    y, x = np.mgrid[:height, :width]
    frames = np.full((24, height, width, 3), 90, np.uint8)
    for time, frame in enumerate(frames):  # Near the border, where CLIP's square does not see it.
      disc = (x - radius - 4 - time / 4) ** 2 + (y - radius - 4) ** 2 < radius**2
      frame[disc] = (235, 30, 40)
    areas[f'{name}.mp4'] = disc.mean()
    (source / f'{name}.mp4').write_bytes(demo_corpus.encode_video(frames))
    (source / f'{name}.txt').write_text(name)
  (source / 'none.mp4').write_bytes(
    demo_corpus.encode_video(np.full((24, 64, 64, 3), 90, np.uint8))
  )
  (source / 'none.txt').write_text('nothing')
  network = write_saliency(tmp_path / 'red.onnx')
  directory = tmp_path / 'out'
  ingest.ingest(str(source), str(directory), validation_fraction=0.0, num_processes=1)
  curate.curate(str(directory), decide.Rules(min_short_side=16), num_processes=1)
  index_lib.index({'out': str(directory)}, str(tmp_path / 'before'))
  score.score(str(directory), saliency=str(network))
  rows = rows_of(directory)
  digest = hashlib.sha256(network.read_bytes()).hexdigest()
  for key, area in areas.items():
    assert rows[key]['network_subject'] == pytest.approx(area, rel=0.15)
    assert rows[key]['network_subject_method'] == digest[:12]
    assert rows[key]['clip_similarity'] is None
  assert rows['none.mp4']['network_subject'] is None
  manifests = [
    index_lib.index({'out': str(directory)}, str(tmp_path / name)) for name in ('before', 'after')
  ]
  assert manifests[1]['axes'] == ['motion', 'network_subject']
  first = json.loads((tmp_path / 'before/manifest.json').read_text())
  assert first['axes'] == [
    'motion',
    'network_subject',
  ]  # What was indexed is stale, and done again.


def test_the_subject_is_where_a_network_is_more_sure_than_not(tmp_path):
  network = saliency.Saliency(str(write_saliency(tmp_path / 'red.onnx', limit=0.75, steep=8.0)))
  picture = np.zeros((1, 64, 64, 3), np.uint8)
  picture[..., 0] = np.linspace(0, 255, 64)  # From left to right; sure of the last quarter.
  [share] = network(picture)
  assert share == pytest.approx(0.25, abs=1 / 64)
  assert network(np.zeros_like(picture)) == [None]


def test_saliency_networks_that_are_none_are_named(tmp_path):
  (tmp_path / 'text.onnx').write_text('not a network')
  with pytest.raises(ValueError, match='does not exist'):
    saliency.Saliency(str(tmp_path / 'none.onnx'))
  with pytest.raises(ValueError, match='is no ONNX model'):
    saliency.Saliency(str(tmp_path / 'text.onnx'))
  with pytest.raises(ValueError, match='give --clip .* or --saliency'):
    score.score(str(tmp_path))


def test_a_map_that_is_no_probability_is_refused(tmp_path):
  onnx = pytest.importorskip('onnx')
  model = onnx.load_from_string(write_saliency(tmp_path / 'a').read_bytes())
  model.graph.node[1].op_type = 'Identity'
  (tmp_path / 'logits.onnx').write_bytes(model.SerializeToString())
  pictures = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
  with pytest.raises(ValueError, match='should be probabilities'):
    saliency.Saliency(str(tmp_path / 'logits.onnx'))(pictures)


@pytest.mark.slow
def test_a_killed_score_goes_on_with_the_same_bytes_and_redoes_no_finished_shard(
  tmp_path, clip_folder
):
  source = corpora.write_folder(tmp_path / 'in', 140)
  directory, whole = tmp_path / 'out', tmp_path / 'whole'
  ingest.ingest(str(source), str(directory), validation_fraction=0.0, num_processes=1)
  shutil.copytree(directory, whole)
  score.score(str(whole), str(clip_folder[0]), batch_size=16)
  command = [f'--corpus={directory}', f'--clip={clip_folder[0]}', '--batch_size=16']
  corpora.kill_and_run_again(command, directory / '_scored', 'i2vgen_jax.score')
  again, once = (
    {path.name: path.read_bytes() for path in (folder / 'sidecar/score').iterdir()}
    for folder in (directory, whole)
  )
  assert again == once and any(name.endswith('.parquet') for name in once)


def test_the_command_counts_examples_and_names_mistakes_in_one_line(tmp_path):
  source = corpora.write_folder(tmp_path / 'in', 2)
  ingest.ingest(str(source), str(tmp_path / 'out'), validation_fraction=0.0, num_processes=1)
  command = ['i2vgen_jax.score', f'--corpus={tmp_path / "out"}']
  mistakes = {
    '--clip=/nowhere': '/nowhere has no config.json',
    '--aesthetic=a': 'nothing to score with: give --clip',
  }
  done = runs.commands({flag: [*command, flag] for flag in ('--dry_run', *mistakes)})
  code, stdout, _ = done['--dry_run']
  assert code == 0 and '2 examples to score' in stdout
  for flag, message in mistakes.items():
    code, _, stderr = done[flag]
    assert code == 2 and message in stderr and 'Traceback' not in stderr
  assert not (tmp_path / 'out/sidecar/score').exists()


@pytest.mark.parametrize('name', ['score', 'precompute'])
def test_the_old_names_print_the_new_ones(name, capsys):
  with pytest.raises(SystemExit) as ended:
    commands.main([name, '--output=a b'])
  assert ended.value.code == 2
  assert f"python -m i2vgen_jax.{name} '--output=a b'" in capsys.readouterr().err
