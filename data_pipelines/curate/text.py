"""Text in frames, by RapidOCR: PaddleOCR's networks, whose weights come with the package.

Its detector also marks what is no text; what the recogniser is not sure of is left out.
"""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

MIN_CONFIDENCE = 0.9  # Of a line: leaves, branches and cables that were found as text have less.
MAX_CHARACTERS = 500  # That are kept.


def check(given: str) -> None:
  """Raises ValueError unless it is the one reader there is, and installed."""
  if given != 'rapidocr':
    raise ValueError(f'--text={given} should be rapidocr.')
  try:
    import rapidocr  # noqa: F401
  except ImportError as error:
    raise ValueError(
      '--text=rapidocr needs that package: pip install "i2vgen_jax[ocr]".'
    ) from error


def columns(frames: Sequence[np.ndarray], given: str) -> dict[str, Any]:
  """`text_area`, `text` and `text_confidence` of the frame that has most text.

  Args:
    frames: uint8, RGB.
    given: 'rapidocr'.
  """
  del given
  return max((_read(frame_HWC) for frame_HWC in frames), key=lambda found: found['text_area'])


def _read(frame_HWC: np.ndarray) -> dict[str, Any]:
  found = _reader()(np.ascontiguousarray(frame_HWC[..., ::-1]), use_cls=False)
  lines = zip(
    [] if found.boxes is None else found.boxes, found.txts or (), found.scores or (), strict=True
  )
  sure = [(box, words, score) for box, words, score in lines if score >= MIN_CONFIDENCE]
  covered = np.zeros(frame_HWC.shape[:2], np.uint8)
  for box, _, _ in sure:
    cv2.fillPoly(covered, [np.round(box).astype(np.int32)], 1)
  return dict(
    text_area=float(covered.mean()),
    text='\n'.join(words for _, words, _ in sure)[:MAX_CHARACTERS],
    text_confidence=float(np.mean([score for _, _, score in sure])) if sure else None,
  )


@functools.cache
def _reader() -> Any:
  import rapidocr

  threads = {f'EngineConfig.onnxruntime.{kind}_op_num_threads': 1 for kind in ('intra', 'inter')}
  settings = {'Global.log_level': 'critical', 'Global.use_cls': False, **threads}
  return rapidocr.RapidOCR(params=settings)
