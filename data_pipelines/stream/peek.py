"""Peek: exactly what a step of a run will see, as text and as a contact sheet."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
from etils import epath

from data_pipelines.corpus import reader, storage
from data_pipelines.stream import fields as fields_lib
from data_pipelines.stream import history
from data_pipelines.stream import stream as stream_lib

MAX_FRAMES = 8  # Per row of the contact sheet.
GAP = 4  # Pixels between its pictures.


def peek(workdir: str, step: int, output: str, dry_run: bool = False) -> dict:
  """Writes step-<step>.json and step-<step>.png into `output`.

  Args:
    workdir: of the run, whose config.json tells the stream.
    step: of the run, from 0 on.
    output: folder; it is made.
    dry_run: decode and write nothing.
  Returns:
    What the JSON file says: bucket, fingerprint, by_aspect (TrainStream.counts_by_aspect), and per
    example what TrainStream.examples_at does, its caption, and why it was replaced by another if it
    was. With dry_run nothing is decoded or written, and there are no captions.
  Raises:
    ValueError: no run in workdir, or its corpora cannot be opened.
  """
  path = epath.Path(workdir) / 'config.json'
  if not path.exists():
    raise ValueError(
      f'{workdir} holds no config.json: no run was started there. '
      f'{storage.where_else(workdir, "config.json")}'
    )
  if step < 0:
    raise ValueError(f'step={step} should be >= 0.')
  part = history.parts(workdir, storage.read_json(path, 'data'), step)[-1]
  seen, batch = look(part.config, step, part.corpora, part.change, decodes=not dry_run)
  if batch is None:
    return seen
  folder = pathlib.Path(output)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / f'step-{step:08d}.json').write_text(json.dumps(seen, indent=2))
  contact_sheet(batch).save(folder / f'step-{step:08d}.png')
  return seen


def look(
  config: Mapping[str, Any],
  step: int,
  corpora: reader.Corpora | None = None,
  change: history.Change | None = None,
  every: int = 1,
  decodes: bool = True,
) -> tuple[dict[str, Any], stream_lib.Batch | None]:
  """(what a step of a config sees, as of `peek`; its pictures).

  Args:
    config: nested dicts, as a run's config.json holds them.
    step: of the run, from 0 on.
    corpora: as of history.Part.
    change: likewise.
    every: takes one row of so many, which must divide all batches.
    decodes: False gives neither captions nor pictures.

  Raises:
    ValueError: the corpora cannot be opened.
  """
  captions: list[str] = []

  def keep_captions(batch_captions: Sequence[str]) -> np.ndarray:
    captions[:] = batch_captions
    return np.zeros((len(batch_captions), 1), np.int32)

  # To look is not to train: show what there is, also if much of it is bad, and pixels for a cache.
  side = config['image_encoder']['model']['image_size']
  fields = fields_lib.released(keep_captions, side)
  options = dict(max_bad_fraction=1.0, cache='', host_count=every)
  stream = stream_lib.from_config(config, fields, corpora, **options)
  if change:
    stream.go_on(change)
  found, bucket = stream.examples_at(step)[::every], stream.bucket_at(step)
  seen = dict(step=step, fingerprint=stream.fingerprint, bucket=dataclasses.asdict(bucket))
  seen |= dict(by_aspect=stream.counts_by_aspect(bucket), examples=found)
  if not decodes:
    return seen, None
  try:
    batch = stream.batch_at(step)
  finally:
    stream.close()
  for example, caption in zip(found, captions, strict=True):
    example['caption'] = caption
    if example['key'] in stream.bad_examples:
      example['replaced'] = stream.bad_examples[example['key']]
  return seen, batch


def contact_sheet(batch: stream_lib.Batch) -> PIL.Image.Image:
  """One row per example: up to MAX_FRAMES frames, then the image for the CLIP tower."""
  videos_BFHWC, squares_BHWC = batch['video'], batch['clip_image']
  frames = videos_BFHWC.shape[1]
  shown = np.unique(np.linspace(0, frames - 1, min(frames, MAX_FRAMES)).round().astype(int))
  height, width = videos_BFHWC.shape[2:4]
  side = min(height, squares_BHWC.shape[1])
  size = (len(shown) * (width + GAP) + side, len(videos_BFHWC) * (height + GAP) - GAP)
  sheet = PIL.Image.new('RGB', size, 'white')
  for row, (video, square) in enumerate(zip(videos_BFHWC, squares_BHWC, strict=True)):
    top = row * (height + GAP)
    for column, frame in enumerate(shown):
      sheet.paste(PIL.Image.fromarray(video[frame]), (column * (width + GAP), top))
    sheet.paste(PIL.Image.fromarray(square).resize((side, side)), (size[0] - side, top))
  return sheet
