"""CLIP's opinion: whether frames show the caption, and whether they show the same thing.

With the user's CLIP, a folder of transformers. CLIPSIM (Wu et al. 2021, arXiv:2104.14806) is the
mean cosine of frames and caption; CLIP-I here that of each frame and the next.
"""

import hashlib
import pathlib
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from i2vgen_jax.evaluation import clip_scorer


def load(folder: str) -> tuple[clip_scorer.ClipScorer, str]:
  """(scorer, hash of its weights); raises ValueError if there is no CLIP in the folder."""
  scorer = clip_scorer.ClipScorer(folder)
  with open(pathlib.Path(folder) / 'model.safetensors', 'rb') as file:
    return scorer, hashlib.file_digest(file, 'sha256').hexdigest()


def measure(
  scorer: clip_scorer.ClipScorer, videos: Iterable[np.ndarray], captions: Sequence[str]
) -> list[dict[str, float]]:
  """[dict(clip_text, clip_frames)] of uint8 videos (F, H, W, 3): mean cosines, per video.

  Args:
    scorer: what `load` returns first.
    videos: one for each caption.
    captions: texts; long ones are cut.
  """
  texts_BD = scorer.texts(captions)
  rows = []
  for video_FHWC, text_D in zip(videos, texts_BD, strict=True):
    frames_FD = scorer.images(_squares(video_FHWC, scorer.image_size))
    following = np.sum(frames_FD[1:] * frames_FD[:-1], -1)
    rows.append(
      dict(clip_text=float((frames_FD @ text_D).mean()), clip_frames=float(following.mean()))
    )
  return rows


def _squares(video_FHWC: np.ndarray, size: int) -> np.ndarray:
  """The centre square of each frame at `size`, as CLIP was trained: bicubic, area if smaller."""
  height, width = video_FHWC.shape[1:3]
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
  cut = np.ascontiguousarray(video_FHWC[:, top : top + side, left : left + side])
  return np.stack([cv2.resize(frame, (size, size), interpolation=method) for frame in cut])
