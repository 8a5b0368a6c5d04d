"""What an evaluation leaves behind: report.json, a page with videos, sheets, VBench's folder."""

import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_pipelines.corpus import storage
from data_pipelines.pages import frame
from i2vgen_jax.evaluation import glossary, spectrum
from i2vgen_jax.sampling import sheets, video_file

Videos = Mapping[str, np.ndarray]  # Set -> uint8 (N, F, H, W, 3).
Measures = Mapping[str, Mapping[str, Any]]  # Set -> measure -> dict(mean, low, high, num).

SHEET_CLIPS = 8
TEMPLATE = pathlib.Path(__file__).parent / 'page.html'


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


def write_sheet(
  path: epath.PathLike, videos: Videos, captions: Sequence[str], settings: Mapping[str, Any]
) -> None:
  """The first clips of all sets, one under the other, all frames side by side.

  Args:
    path: of the picture.
    videos: by set.
    captions: of the clips.
    settings: as of `facts`, which are its heading.
  """
  shown = {name: videos_BFHWC[:SHEET_CLIPS] for name, videos_BFHWC in videos.items()}
  heading = ', '.join(f'{name} {value}' for name, value in facts(settings).items())
  sheet_HWC = sheets.contact_sheet(shown, captions[:SHEET_CLIPS], settings['fps'], heading)
  sheets.write_png(path, sheet_HWC)


def facts(settings: Mapping[str, Any]) -> dict[str, str]:
  """What a reader asks first, in words: of which run, which step, how sampled.

  Args:
    settings: of a report.json: workdir, step, weights, seed, num_examples, size, fps, base, and
      where there is one refinement.
  """
  frames, height, width = settings['size']
  found = {
    'run': '/'.join(epath.Path(settings['workdir']).parts[-2:]),
    'step': f'{settings["step"]:,}',
    'weights': 'averaged' if settings['weights'] == 'ema' else settings['weights'],
    'clips': str(settings['num_examples']),
    'size': f'{frames} frames of {width}x{height}, {settings["fps"]:g} per second',
    'seed': str(settings['seed']),
  }
  for name in ('base', 'refinement'):
    if stage := settings.get(name):
      steps = f'{stage["num_steps"]} steps of {stage["sampler"]}'
      found['sampled by' if name == 'base' else 'refined by'] = (
        f'{steps}, guidance {stage["guidance_scale"]:g}'
      )
  return found


def write_page(
  output: epath.Path,
  title: str,
  measures: Measures,
  videos: Videos,
  captions: Sequence[str],
  settings: Mapping[str, Any],
  *,
  summary: str = '',
  spectra: spectrum.Spectra | None = None,
  losses: Sequence[Mapping[str, Any]] = (),
) -> None:
  """OUTPUT/index.html, which plays the videos beside it and shows contact_sheet.png.

  Args:
    output: folder of the page and of videos/.
    title: heading of the page.
    measures: {set: {measure: dict(mean, low, high)}}.
    videos: {set: (N, ...)} as written by `write_videos`.
    captions: texts of the N clips.
    settings: as of `facts`, shown in full at the end.
    summary: a sentence below the heading.
    spectra: of spectrum.mean_spectra.
    losses: dicts of start, stop, mean, low, high.
  """
  shown = dict.fromkeys([*videos, *(spectra or ())])
  page = frame.render(
    TEMPLATE,
    title=title,
    summary=summary,
    facts=facts(settings),
    sets=list(measures),
    rows=[_page_row(name, values) for name, values in _rows(measures)],
    losses=[
      ((row['start'] + row['stop']) / 2, row['mean'], row['low'], row['high']) for row in losses
    ],
    spectra=spectra and _drawn(spectra),
    videos=list(videos),
    captions=captions,
    sheet_clips=min(SHEET_CLIPS, len(captions)),
    words={name: glossary.SETS.get(name, f'the run with {name}') for name in shown},
    settings=json.dumps(_finite(settings), indent=2),
  )
  storage.write_bytes(output / 'index.html', page.encode())


def markdown_table(measures: Measures) -> str:
  """One row per measure, one column per set: mean and half the width of its interval."""
  names = list(measures)
  lines = ['| | ' + ' | '.join(names) + ' |', '|---' * (len(names) + 1) + '|']
  for name, values in _rows(measures):
    cells = [glossary.text_of(name, value) for value in values]
    lines.append('| ' + ' | '.join([name, *cells]) + ' |')
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


def _page_row(name: str, values: Sequence[Any]) -> dict[str, Any]:
  """A row of the page's table: texts, and the scale of its intervals."""
  found = [value if isinstance(value, dict) else None for value in values]
  ends = [value[end] for value in found if value for end in ('low', 'high')]
  cells = [
    dict(text=glossary.text_of(name, value), found=drawn)
    for value, drawn in zip(values, found, strict=True)
  ]
  scale = dict(start=min(ends, default=0.0), stop=max(ends, default=1.0))
  return glossary.measure(name)._asdict() | scale | dict(name=name, cells=cells)


def _drawn(spectra: spectrum.Spectra) -> dict[str, dict[str, list[tuple[float, float]]]]:
  """Kind -> name -> points, without frequency zero."""
  return {
    kind: {
      name: [(x, max(y, spectrum.LEAST_POWER)) for x, y in zip(*found[kind], strict=True)][1:]
      for name, found in spectra.items()
    }
    for kind in ('spatial', 'temporal')
  }


def _rows(measures: Measures) -> list[tuple[str, list[Any]]]:
  """[(measure, [value of each set or None])]; curves over frames are left to the JSON."""
  names = {name: None for found in measures.values() for name in found}
  rows = [(name, [found.get(name) for found in measures.values()]) for name in names]
  return [row for row in rows if not any(isinstance(value, list) for value in row[1])]


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _finite(inner) for name, inner in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(inner) for inner in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
