"""The demo corpus, rendered by us and written in public layouts: `python -m data_pipelines demo`.

Two kinds: `shapes` is one plain shape that moves; `scenes` are shaded shapes on filmed backdrops.
`corpus` writes either. A scene is staged (`staging`), painted (`outlines`, `painting`) and told
(`captions`). The names of the kind `shapes` and of the writer are also here.
"""

from data_pipelines.demo_corpus.corpus import counts_of, encode_video, write
from data_pipelines.demo_corpus.shapes import (
  COLORS,
  DIRECTIONS,
  SHAPES,
  SIZE,
  VIDEO_CAPTION,
  attributes_of,
  parse_caption,
  render_image,
  render_video,
)

__all__ = [
  'COLORS',
  'DIRECTIONS',
  'SHAPES',
  'SIZE',
  'VIDEO_CAPTION',
  'attributes_of',
  'counts_of',
  'encode_video',
  'parse_caption',
  'render_image',
  'render_video',
  'write',
]
