"""TransNetV2 over whole videos: the probability of each frame that a shot ends there."""

import jax
import numpy as np

from i2vgen_jax.models import transnet
from i2vgen_jax.pretrained import files, tensors, transnet_names

# The network sees windows of so many frames, of which the middle ones count: its authors' choice.
WINDOW = 100
STEP = 50


class ShotNetwork:
  """Probabilities of transitions, of a file of TransNetV2's weights.

  Attributes:
    size: (height, width) of the frames.

  Args:
    path: a file that `pretrained.files` opens, with the names of `pretrained.transnet_names`.
    batch_size: windows at a time, at most; they are spread over this host's devices if these
      divide their number.
    module: the network, if it is not of the released size.

  Raises:
    ValueError: no file, or of another network.
  """

  size: tuple[int, int] = (transnet.HEIGHT, transnet.WIDTH)

  def __init__(
    self, path: str, batch_size: int = 8, module: transnet.TransNetV2 | None = None
  ) -> None:
    module = module or transnet.TransNetV2()
    frames = np.zeros((1, WINDOW, *self.size, 3), np.uint8)
    abstract_params = jax.eval_shape(module.init, jax.random.key(0), frames)['params']
    with files.fetched(path) as local:
      params, _ = tensors.from_formats(
        files.open_checkpoint(local),
        abstract_params,
        transnet_names.name_of,
        transnet_names.formats(module),
      )
    mesh = jax.sharding.Mesh(jax.local_devices(), 'data')
    self._over_batch = jax.NamedSharding(mesh, jax.P('data'))
    self._params = jax.device_put({'params': params}, jax.NamedSharding(mesh, jax.P()))
    self._batch_size = batch_size
    self._predict = jax.jit(
      lambda params, frames: jax.tree.map(jax.nn.sigmoid, module.apply(params, frames))
    )

  def __call__(self, frames_FHWC: np.ndarray) -> np.ndarray:
    """Probabilities float32 (2, F): of the one frame at which a transition is, and of any of it.

    Args:
      frames_FHWC: uint8, RGB, of `size`; any number from one on.
    """
    count, margin = len(frames_FHWC), (WINDOW - STEP) // 2
    num_windows = -(-count // STEP)
    after = num_windows * STEP - count + margin
    padded_FHWC = np.pad(frames_FHWC, ((margin, after), (0, 0), (0, 0), (0, 0)), 'edge')
    found = []
    for first in range(0, num_windows, self._batch_size):
      # Of few sizes, each of which is compiled once; a short video has few windows.
      wanted = min(num_windows - first, self._batch_size)
      size = min(1 << (wanted - 1).bit_length(), self._batch_size)
      starts = [min(first + i, num_windows - 1) * STEP for i in range(size)]
      windows_BFHWC = np.stack([padded_FHWC[start : start + WINDOW] for start in starts])
      if size % self._over_batch.mesh.size == 0:
        windows_BFHWC = jax.device_put(windows_BFHWC, self._over_batch)
      one_BF, any_BF = self._predict(self._params, windows_BFHWC)
      both_2BF = np.stack([one_BF, any_BF])[:, :, margin : margin + STEP]
      found.append(both_2BF[:, :wanted].reshape(2, -1))
    return np.concatenate(found, axis=1)[:, :count]
