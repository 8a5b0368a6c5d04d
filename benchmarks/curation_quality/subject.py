"""The subject's share by a saliency network, against boxes that people put.

The bar is a rank correlation of 0.6. Pictures without a subject have no rank; how many of them the
network gives a share is said apart.
"""

import argparse
from typing import Any

import numpy as np
import PIL.Image
from scipy import stats

from benchmarks.curation_quality import labelled
from data_pipelines.score import saliency as saliency_lib

BAR = 0.6


def add_command(commands: Any) -> None:
  """Adds `subject`."""
  parser: argparse.ArgumentParser = commands.add_parser('subject', description=__doc__)
  parser.add_argument('--folder', default='.', help='of the unpacked packages')
  parser.add_argument('--saliency', required=True, help='ONNX file, as of i2vgen_jax.score')
  parser.set_defaults(run=measure)


def measure(folder: str, saliency: str) -> None:
  """Prints the rank correlation of the network's shares with those of the boxes."""
  network = saliency_lib.Saliency(saliency)
  size = (network.image_size,) * 2
  boxes, found = [], []
  for _, picture_HWC, share in labelled.pictures(folder):
    image = PIL.Image.fromarray(picture_HWC).resize(size, PIL.Image.Resampling.BILINEAR)
    [value] = network(np.asarray(image)[None])
    boxes.append(share)
    found.append(np.nan if value is None else value)
  boxes_N, found_N = np.array(boxes), np.array(found)
  has_subject = boxes_N > 0
  is_ranked = has_subject & np.isfinite(found_N)
  rank = stats.spearmanr(boxes_N[is_ranked], found_N[is_ranked]).statistic
  print(
    f'Spearman {rank:.2f} over {is_ranked.sum()} pictures (bar {BAR}); of {has_subject.sum()} '
    f'with a subject {(has_subject & ~is_ranked).sum()} have no share; of {(~has_subject).sum()} '
    f'without one {np.isfinite(found_N[~has_subject]).sum()} have one'
  )
