"""Frechet distance between the features of two sets of videos or pictures: FVD and FID.

Which distance it is depends on who computes the features: FVD is that of an I3D or VideoMAE, FID
that of an Inception, both the user's. Features of a random network are good to notice a change of
the same videos and are called `fvd_proxy`.
"""

import hashlib
import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from data_pipelines.corpus import storage

Features = Callable[[np.ndarray], np.ndarray]  # float32 (N, 3, F, H, W) in [-1, 1] -> (N, D).

PROXY_CHANNELS = (16, 32, 64)
BATCH = 4
MOST_GROUPS = 20  # The jackknife leaves out each group of videos in turn.


def frechet_distance(a_ND: np.ndarray, b_ND: np.ndarray) -> float:
  """|mean a - mean b|^2 + tr(A + B - 2 (A B)^1/2) of two sets of features; A, B: covariances.

  Heusel et al. 2017 (arXiv:1706.08500), eq. 6. The trace of the root is that of
  (A^1/2 B A^1/2)^1/2, which is symmetric: no complex root comes up.

  Raises:
    ValueError: fewer than two rows, or features of different length.
  """
  a_ND, b_ND = np.asarray(a_ND, np.float64), np.asarray(b_ND, np.float64)
  if min(len(a_ND), len(b_ND)) < 2 or a_ND.shape[1:] != b_ND.shape[1:] or a_ND.ndim != 2:
    raise ValueError(
      f'features of shapes {a_ND.shape} and {b_ND.shape}: two rows at least and equal lengths are '
      'needed for a Frechet distance.'
    )
  a_DD, b_DD = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a_ND, b_ND))
  values_D, vectors_DD = np.linalg.eigh(a_DD)
  root_DD = vectors_DD * np.sqrt(np.maximum(values_D, 0)) @ vectors_DD.T
  trace_of_root = np.sqrt(np.maximum(np.linalg.eigvalsh(root_DD @ b_DD @ root_DD), 0)).sum()
  shift = np.sum((a_ND.mean(0) - b_ND.mean(0)) ** 2)
  return float(shift + np.trace(a_DD) + np.trace(b_DD) - 2 * trace_of_root)


def distance_with_interval(a_ND: np.ndarray, b_ND: np.ndarray, num_videos: int) -> dict[str, float]:
  """dict(mean, low, high, num): the distance with its 95 % interval over other clips.

  By the jackknife of groups: the bootstrap would draw clips twice, and a distance grows with fewer
  clips. That growth itself, of all sets of few clips, is not in the interval.

  Args:
    a_ND: features of `num_videos` videos, or of as many frames of each, in their order.
    b_ND: features of the same clips, left out row by row with those of `a_ND`.
    num_videos: number of videos; fewer than 3 give no interval: low and high are NaN.

  Raises:
    ValueError: as `frechet_distance`, or sets of different length.
  """
  if len(a_ND) != len(b_ND) or len(a_ND) % num_videos:
    raise ValueError(f'{len(a_ND)} and {len(b_ND)} rows of features of {num_videos} videos.')
  distance = max(frechet_distance(a_ND, b_ND), 0.0)  # Rounding takes equal sets below 0.
  groups = min(num_videos, MOST_GROUPS)
  half = float('nan')
  if num_videos > 2:
    group_N = np.repeat(np.arange(num_videos) * groups // num_videos, len(a_ND) // num_videos)
    parts = [frechet_distance(a_ND[group_N != g], b_ND[group_N != g]) for g in range(groups)]
    half = 1.96 * ((groups - 1) * np.var(parts)) ** 0.5
  low, high = max(distance - half, 0.0), distance + half
  return dict(mean=distance, low=float(low), high=float(high), num=num_videos)


def load_features(source: str) -> tuple[Features, str]:
  """(function, SHA-256 of its file) of the user's network.

  Args:
    source: a TorchScript file, or 'module:function'. Either is called with float32 (N, 3, F, H, W)
      in [-1, 1], torch's tensor or numpy's array, and returns (N, D). Both run code: give only what
      you trust.

  Raises:
    ValueError: no such file or function, or torch is missing.
  """
  path = epath.Path(source)
  if not storage.is_local(source) or path.exists():
    try:
      import torch
    except ImportError as error:
      raise ValueError(f'{source} is a file of torch: pip install torch.') from error
    try:
      with storage.fetched(path) as local:
        network = torch.jit.load(str(local), map_location='cpu').eval()
        digest = storage.sha256(epath.Path(local))
    except RuntimeError as error:
      raise ValueError(f'{source} is no TorchScript file: {error}.') from error

    def features(videos_NCFHW: np.ndarray) -> np.ndarray:
      try:
        with torch.no_grad():
          found = network(torch.from_numpy(videos_NCFHW))
      except RuntimeError as error:
        raise ValueError(
          f'{source} takes no videos of shape {videos_NCFHW.shape}: '
          f'{str(error).strip().splitlines()[-1]}'
        ) from error
      if not torch.is_tensor(found):
        raise ValueError(f'{source} returns a {type(found).__name__}; a tensor (N, D) is needed.')
      return found.float().numpy()

    return features, digest
  module, separator, name = source.partition(':')
  if not separator:
    raise ValueError(f'features {source!r} are neither a file nor module:function.')
  try:
    code: Any = importlib.import_module(module)
    function = getattr(code, name)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(f'features {source!r} cannot be imported: {error}.') from error
  # The hash is that of the code; users note themselves which weights it reads.
  return function, hashlib.sha256(pathlib.Path(code.__file__).read_bytes()).hexdigest()


def of_videos(features: Features, videos_BFHWC: np.ndarray) -> np.ndarray:
  """(N, D) features of uint8 videos."""
  rows = []
  for start in range(0, len(videos_BFHWC), BATCH):
    part = np.asarray(videos_BFHWC[start : start + BATCH], np.float32) / 127.5 - 1
    found = np.asarray(features(np.ascontiguousarray(part.transpose(0, 4, 1, 2, 3))), np.float64)
    if found.ndim != 2 or found.shape[0] != len(part):
      raise ValueError(f'features of {len(part)} videos have shape {found.shape}, need (N, D).')
    rows.append(found)
  return np.concatenate(rows)


def of_frames(features: Features, videos_BFHWC: np.ndarray) -> np.ndarray:
  """(N F, D) features of all frames, each given as a video of one frame."""
  videos_BFHWC = np.asarray(videos_BFHWC)
  return of_videos(features, videos_BFHWC.reshape(-1, 1, *videos_BFHWC.shape[2:]))


def random_features() -> Features:
  """Features of a random network of 3-D convolutions, the same on every machine."""
  kernels, channels = [], 3
  for i, width in enumerate(PROXY_CHANNELS):
    scale = (2 / (27 * channels)) ** 0.5
    rng = np.random.default_rng((0, i))
    kernels.append(rng.normal(0, scale, (3, 3, 3, channels, width)).astype(np.float32))
    channels = width

  @jax.jit
  def features(videos_NCFHW: jax.Array) -> jax.Array:
    h = jnp.transpose(videos_NCFHW, (0, 2, 3, 4, 1))
    for kernel in kernels:
      h = jax.lax.conv_general_dilated(
        h, kernel, (1, 2, 2), 'SAME', dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC')
      )
      h = jax.nn.relu(h)
    # Mean and spread over the video: what is there, and how unevenly.
    return jnp.concatenate([h.mean((1, 2, 3)), h.std((1, 2, 3))], -1)

  return features
