"""Lists of pictures and captions to sample from."""

import numpy as np
import pytest

from data_pipelines.media import pictures
from i2vgen_jax.sampling import lists, video_file


@pytest.mark.parametrize('codec', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_a_line_is_one_line_of_its_file_in_any_encoding(codec, end, tmp_path):
  captions = ['a cat\u2028on a mat', 'ein H\u00fchnchen\u0085', 'x\x0cy\x0bz']
  lines = [f'{i}.png|||{caption}' for i, caption in enumerate(captions)]
  text = end.join(['# comment', '', *lines])
  (tmp_path / 'list.txt').write_bytes(text.encode(codec))
  found = lists.read(tmp_path / 'list.txt')
  assert [number for number, _ in found] == [3, 4, 5]
  assert [line for _, line in found] == [line.strip() for line in lines]


def test_a_list_that_is_no_text_is_refused(tmp_path):
  (tmp_path / 'list.txt').write_bytes('a.png|||H\u00fchnchen'.encode('latin-1'))
  with pytest.raises(ValueError, match='list .* cannot be read: not UTF-8'):
    lists.read(tmp_path / 'list.txt')


@pytest.mark.parametrize('line', ['a.png', 'a.png|a cat', 'a.png|||', '|||a cat'])
def test_malformed_lines_are_named(line, tmp_path):
  with pytest.raises(ValueError, match='is not image'):
    lists.split_line(line, tmp_path)


@pytest.mark.parametrize('line', ['a.png', 'a.png|||', 'a.png||| a cat'])
def test_a_model_that_reads_no_captions_needs_none(line, tmp_path):
  path, caption = lists.split_line(line, tmp_path, needs_caption=False)
  assert path == tmp_path / 'a.png' and caption == ('a cat' if 'cat' in line else '')


def test_an_empty_or_missing_list_is_refused(tmp_path):
  (tmp_path / 'list.txt').write_text('# nothing\n')
  with pytest.raises(ValueError, match='holds no image'):
    lists.read(tmp_path / 'list.txt')
  with pytest.raises(ValueError, match='cannot be read'):
    lists.read(tmp_path / 'none.txt')


def test_a_video_for_a_picture_is_called_so(tmp_path):
  video_file.write_mp4(tmp_path / 'a.mp4', np.zeros((2, 16, 16, 3), np.uint8), 8)
  with pytest.raises(ValueError, match='it is a video: give a picture, such as one of its frames'):
    pictures.read_image(tmp_path / 'a.mp4')
