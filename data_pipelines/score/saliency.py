"""The share of the frame that its main subject takes, by a saliency network of the user's, in ONNX.

Any network that maps pictures to probabilities does, as U2-Net (Qin et al. 2020, arXiv 2005.09007)
or its small form. Input: float32 (B, 3, S, S), RGB with ImageNet's mean and deviation. The first
output: (B, 1, S, S) in [0, 1]. It runs where onnxruntime does: on this host's processors, or on a
GPU with onnxruntime-gpu. Without a network the subject's share is unknown.
"""

from typing import Any, cast

import numpy as np
from etils import epath

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
DEFAULT_SIZE = 320  # U2-Net's, if the file leaves it open.


class Saliency:
  """Pictures to shares.

  Attributes:
    image_size: side of the pictures.
  """

  def __init__(self, path: str):
    import onnxruntime  # 60 MB, and only for those who have a network.

    if not epath.Path(path).exists():
      raise ValueError(f'saliency network {path} does not exist: check the path.')
    # pyrefly: ignore[missing-attribute]  # A compiled module without stubs.
    errors = onnxruntime.capi.onnxruntime_pybind11_state
    try:
      self._session = onnxruntime.InferenceSession(
        epath.Path(path).read_bytes(), providers=onnxruntime.get_available_providers()
      )
    except (
      errors.InvalidProtobuf,
      errors.InvalidGraph,
      errors.Fail,
      errors.NotImplemented,
    ) as error:
      raise ValueError(f'saliency network {path} is no ONNX model: {error}') from error
    self._path, self._input = path, self._session.get_inputs()[0]
    shape = self._input.shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
      raise ValueError(f'saliency network {path} takes {shape}; it should take (B, 3, S, S).')
    self.image_size = shape[2] if isinstance(shape[2], int) else DEFAULT_SIZE
    self._is_single = shape[0] == 1

  def __reduce__(self) -> tuple[Any, ...]:
    return type(self), (self._path,)  # Where it goes, the file is.

  def __call__(self, pixels_BHWC: np.ndarray) -> list[float | None]:
    """Shares of uint8 RGB pictures of `image_size`, scaled without keeping their shape.

    None where nothing stands out.
    """
    inputs_BCHW = ((pixels_BHWC.astype(np.float32) / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2)
    step = 1 if self._is_single else len(inputs_BCHW)
    shares: list[float | None] = []
    for first in range(0, len(inputs_BCHW), step):
      part = np.ascontiguousarray(inputs_BCHW[first : first + step])
      outputs = self._session.run(None, {self._input.name: part})
      shares += self._shares(cast(np.ndarray, outputs[0]))
    return shares

  def _shares(self, map_B1HW: np.ndarray) -> list[float | None]:
    low, high = float(map_B1HW.min()), float(map_B1HW.max())
    if map_B1HW.ndim != 4 or map_B1HW.shape[1] != 1 or not -0.01 <= low <= high <= 1.01:
      raise ValueError(
        f'saliency network {self._path} gives {map_B1HW.shape} in [{low:.3g}, {high:.3g}]; its '
        'first output should be probabilities (B, 1, S, S).'
      )
    return [float(share) or None for share in (map_B1HW > 0.5).mean(axis=(1, 2, 3))]
