"""What an evaluation leaves behind: report.json, a page with videos, sheets, VBench's folder."""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax.sampling import sheets, video_file

Videos = Mapping[str, np.ndarray]  # Set -> uint8 (N, F, H, W, 3).
Measures = Mapping[str, Mapping[str, Any]]  # Set -> measure -> dict(mean, low, high, num).

SHEET_ROWS = 8
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font-family: sans-serif; margin: 2em }} td, th {{ padding: .2em .7em; text-align: right }}
th:first-child, td:first-child {{ text-align: left }} video {{ width: 160px; display: block }}
small {{ color: #666 }}
</style></head><body><h1>{title}</h1>
{table}
{figures}
<h2>Videos</h2>
{videos}
<h2>Settings</h2><pre>{settings}</pre>
</body></html>
"""


def write_json(path: epath.PathLike, report: Any) -> None:
  """Writes a report; what is not a number becomes null, which JSON can hold."""
  content = json.dumps(_finite(report), indent=2) + '\n'
  storage.write_bytes(epath.Path(path), content.encode())


def write_videos(output: epath.Path, videos: Videos, fps: float) -> None:
  """OUTPUT/videos/SET/NN.mp4 of {set: uint8 (N, F, H, W, 3)}.

  Args:
    output: folder of the evaluation.
    videos: the videos of each set.
    fps: frames per second.
  """
  for name, videos_BFHWC in videos.items():
    for i, video_FHWC in enumerate(videos_BFHWC):
      video_file.write_mp4(output / 'videos' / name / f'{i:02d}.mp4', video_FHWC, fps)


def write_sheet(path: epath.PathLike, videos: Videos) -> None:
  """The first clips of all sets, one under the other, all frames side by side."""
  sets = [list(videos_BFHWC[:SHEET_ROWS]) for videos_BFHWC in videos.values()]
  rows: Any = [video for clip in zip(*sets, strict=True) for video in clip]
  sheets.write_png(path, sheets.contact_sheet(rows))


def write_page(
  output: epath.Path,
  title: str,
  measures: Measures,
  videos: Videos,
  captions: Sequence[str],
  settings: Any,
  figures: Sequence[str] = (),
) -> None:
  """OUTPUT/index.html, which plays the videos beside it.

  Args:
    output: folder of the page and of videos/.
    title: heading of the page.
    measures: {set: {measure: dict(mean, low, high)}}.
    videos: {set: (N, ...)} as written by `write_videos`.
    captions: texts of the N clips.
    settings: whatever JSON can hold, shown below.
    figures: names of pictures in the folder.
  """
  names = list(videos)
  head = ''.join(f'<th>{html.escape(name)}</th>' for name in ['caption', *names])
  rows = []
  for i, caption in enumerate(captions):
    cells = ''.join(
      f'<td><video src="videos/{name}/{i:02d}.mp4" autoplay loop muted></video></td>'
      for name in names
    )
    rows.append(f'<tr><td>{html.escape(caption)}</td>{cells}</tr>')
  (output / 'index.html').write_text(
    PAGE.format(
      title=html.escape(title),
      table=_html_table(measures),
      figures=''.join(f'<p><img src="{name}" alt="{name}"></p>' for name in figures),
      videos=f'<table><tr>{head}</tr>{"".join(rows)}</table>',
      settings=html.escape(json.dumps(_finite(settings), indent=2)),
    )
  )


def markdown_table(measures: Measures) -> str:
  """One row per measure, one column per set: mean and half the width of its interval."""
  names = list(measures)
  lines = ['| | ' + ' | '.join(names) + ' |', '|---' * (len(names) + 1) + '|']
  for row in _rows(measures):
    lines.append('| ' + ' | '.join([row[0], *(_cell(value) for value in row[1])]) + ' |')
  return '\n'.join(lines) + '\n'


def write_vbench(
  output: epath.PathLike, videos_BFHWC: np.ndarray, captions: Sequence[str], fps: float
) -> None:
  """OUTPUT/CAPTION-INDEX.mp4: the folder that VBench and VBench-I2V read.

  The index counts the videos of one caption; theirs are five. '/' cannot be in a file's name and
  becomes a space, nor more than 255 bytes, to which captions are cut.

  Args:
    output: folder to write to.
    videos_BFHWC: uint8.
    captions: texts of the videos.
    fps: frames per second.
  """
  counts = {}
  for video_FHWC, caption in zip(videos_BFHWC, captions, strict=True):
    caption = re.sub(r'[/\0]', ' ', caption).encode()[:240].decode(errors='ignore')
    index = counts[caption] = counts.get(caption, -1) + 1
    video_file.write_mp4(epath.Path(output) / f'{caption}-{index}.mp4', video_FHWC, fps)


def _html_table(measures: Measures) -> str:
  head = ''.join(f'<th>{html.escape(name)}</th>' for name in ['', *measures])
  rows = ''.join(
    f'<tr><td>{name}</td>' + ''.join(f'<td>{_cell(value)}</td>' for value in values) + '</tr>'
    for name, values in _rows(measures)
  )
  return (
    f'<table><tr>{head}</tr>{rows}</table><small>mean &plusmn; half of its 95 % interval</small>'
  )


def _rows(measures: Measures) -> list[tuple[str, list[Any]]]:
  """[(measure, [value of each set or None])]; curves over frames are left to the JSON."""
  names = {name: None for found in measures.values() for name in found}
  rows = [(name, [found.get(name) for found in measures.values()]) for name in names]
  return [row for row in rows if not any(isinstance(value, list) for value in row[1])]


def _cell(value: Any) -> str:
  if value is None:
    return ''
  if not isinstance(value, dict):
    return f'{value:.4g}'
  return f'{value["mean"]:.4g} ± {(value["high"] - value["low"]) / 2:.2g}'


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _finite(inner) for name, inner in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(inner) for inner in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
