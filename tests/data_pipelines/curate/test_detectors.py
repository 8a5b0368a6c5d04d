"""Detectors fill their columns in large frames of the shot, and say what they lack."""

import io
import sys
import types

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa

from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus
from data_pipelines.corpus import schema
from data_pipelines.curate import command as curate
from data_pipelines.curate import detectors
from data_pipelines.ingest import command as ingest
from tests import corpora, media
from tests.data_pipelines.curate import test_boxes
from tests.data_pipelines.curate.test_curate import rows_of


def write(folder, name, words=''):
  """A still of a scene, with words over it in its second half."""
  folder.mkdir(exist_ok=True)
  frames = np.repeat(media.scene(3, 240, 420)[None], 30, axis=0)
  for frame in frames[15:]:
    cv2.putText(frame, words, (20, 210), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (0, 0, 0), 7, cv2.LINE_AA)
    cv2.putText(frame, words, (20, 210), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (255,) * 3, 2, cv2.LINE_AA)
  (folder / f'{name}.mp4').write_bytes(demo_corpus.encode_video(frames, 24))
  (folder / f'{name}.txt').write_text(name)


def test_text_is_read_and_dropped_by_its_area_and_faces_are_looked_for(tmp_path):
  write(tmp_path / 'in', 'plain')
  write(tmp_path / 'in', 'written', 'seven quiet boats')
  directory = str(tmp_path / 'out')
  ingest.ingest(str(tmp_path / 'in'), directory, validation_fraction=0.0, num_processes=1)
  command = ['curate', f'--corpus={directory}', '--min_short_side=64', '--num_processes=1']
  command += [f'--faces={test_boxes.yunet(tmp_path / "faces.onnx")}', '--keep_duplicates']
  commands.main([*command, '--text=rapidocr', '--max_text_area=0.01'])
  rows = rows_of(directory)
  plain, written = rows['plain.mp4'], rows['written.mp4']
  assert plain['text_area'] == 0 and plain['text'] == '' and plain['text_confidence'] is None
  assert written['text'] == 'seven quiet boats' and written['text_confidence'] > 0.9
  assert 0.03 < written['text_area'] < 0.15
  assert [(row['faces'], row['people']) for row in rows.values()] == [(0, None)] * 2
  assert plain['keep'] and written['reject'] == ['text']


def test_a_reader_that_is_missing_or_unknown_is_one_line(tmp_path, monkeypatch):
  write(tmp_path / 'in', 'plain')
  directory = str(tmp_path / 'out')
  ingest.ingest(str(tmp_path / 'in'), directory, validation_fraction=0.0, num_processes=1)
  command = ['curate', f'--corpus={directory}', '--num_processes=1']
  with corpora.ends_with_2('--text=tesseract should be rapidocr'):
    commands.main([*command, '--text=tesseract'])
  hook = '--hook=text_area=tests.data_pipelines.curate.test_curate:text_share'
  with corpora.ends_with_2('both fill text_area'):
    commands.main([*command, '--text=rapidocr', hook])
  monkeypatch.setitem(sys.modules, 'rapidocr', None)
  with corpora.ends_with_2(r'pip install "i2vgen_jax\[ocr\]"'):
    commands.main([*command, '--text=rapidocr'])


def test_each_shot_is_read_by_itself_and_the_row_shows_the_longest(monkeypatch):
  frames = [
    np.repeat(media.scene(seed, 240, 420)[None], num, axis=0) for seed, num in ((3, 30), (5, 40))
  ]
  frames[0][:, 180:] = 255
  frames = np.concatenate(frames)

  def white(frames, given):
    return dict(text_area=float(np.mean(frames[len(frames) // 2] > 250)), text=given)

  monkeypatch.setitem(detectors.MODULES, 'text', types.SimpleNamespace(columns=white))
  known = dict(media='video', height=240, width=420, fps=24, first_time=0.0, duration=69 / 24)
  row = curate._measure(demo_corpus.encode_video(frames, 24), known, {}, dict(text='words'))
  [row] = pa.Table.from_pylist([row], schema.CURATE).to_pylist()
  first, second = row['spans']
  assert first['text_area'] > 0.2 > 0.02 > second['text_area'] == row['text_area']
  assert first['text'] == row['text'] == 'words'
  image = io.BytesIO()
  PIL.Image.fromarray(frames[0]).save(image, 'png')
  known = dict(known, media='image', fps=0.0, duration=0.0)
  row = curate._measure(image.getvalue(), known, {}, dict(text='words'))
  assert row['text_area'] > 0.2 and row['span_end'] == 0
