"""Where in space and time the power of videos lies: the frequency analysis of the paper's Sec. 4.

Power spectra of brightness, so normalised that they sum to the variance. In space a frame's mean is
taken off and its borders are faded (Hann); frequencies are cycles per pixel, up to 0.5. In time
each pixel's mean is taken off; frequencies are cycles per frame.
"""

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from data_pipelines.corpus import storage

# Name -> kind of spectrum -> (frequencies_K, power_K).
Spectra = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601.
# Cycles per pixel: finer than a picture of half the size can show.
HIGH_FREQUENCY = 0.25
LEAST_POWER = 1e-6  # That is drawn: 0 has no logarithm.
FIGURE_INCHES, FIGURE_DPI = (9, 3.6), 100


def spatial(video_FHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(frequencies_K, power_K): power by distance from frequency zero, the mean over frames."""
  luma_FHW = video_FHWC.astype(np.float64) @ LUMA
  _, height, width = luma_FHW.shape
  window_HW = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
  window_HW /= np.sqrt(np.mean(window_HW**2))
  # Take off the weighted mean, so that nothing of it is left at frequency zero.
  weight_HW = window_HW / window_HW.sum()
  luma_FHW = (luma_FHW - (luma_FHW * weight_HW).sum((1, 2), keepdims=True)) * window_HW
  power_HW = (np.abs(np.fft.fft2(luma_FHW)) ** 2).mean(0) / (height * width) ** 2
  distance_HW = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
  bins = min(height, width) // 2
  ring_HW = np.minimum(np.rint(distance_HW * 2 * bins).astype(int), bins)  # Corners to the last.
  power_K = np.bincount(ring_HW.ravel(), power_HW.ravel(), bins + 1)
  return np.arange(bins + 1) / (2 * bins), power_K


def temporal(video_FHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(frequencies_K, power_K): power by frequency over frames, the mean over pixels."""
  luma_FHW = video_FHWC.astype(np.float64) @ LUMA
  frames = len(luma_FHW)
  amplitude_KHW = np.fft.rfft(luma_FHW - luma_FHW.mean(0), axis=0)
  power_K = (np.abs(amplitude_KHW) ** 2).mean((1, 2)) / frames**2
  frequencies_K = np.fft.rfftfreq(frames)
  mirrored = (frequencies_K > 0) & (frequencies_K < 0.5)  # Each stands for two of a real signal.
  return frequencies_K, power_K * np.where(mirrored, 2, 1)


def high_frequency_share(video_FHWC: np.ndarray) -> float:
  """Share of the spatial power that is finer than a picture of half the size can show."""
  frequencies_K, power_K = spatial(video_FHWC)
  return float(power_K[frequencies_K > HIGH_FREQUENCY].sum() / max(power_K.sum(), 1e-12))


def noise_like(video_FHWC: np.ndarray, seed: int = 0) -> np.ndarray:
  """Pixels of independent noise in a video's shape: what denoising starts from."""
  noise_FHWC = np.random.default_rng(seed).normal(127.5, 40, video_FHWC.shape)
  return np.clip(np.rint(noise_FHWC), 0, 255).astype(np.uint8)


def mean_spectra(videos_by_name: Mapping[str, Sequence[np.ndarray]]) -> Spectra:
  """{name: dict(spatial=(frequencies, power), temporal=...)}, of lists of videos."""
  spectra = {}
  for name, videos in videos_by_name.items():
    spectra[name] = {}
    for kind in (spatial, temporal):
      found = [kind(video) for video in videos]
      spectra[name][kind.__name__] = (found[0][0], np.mean([power for _, power in found], 0))
  return spectra


def draw(spectra: Spectra, path: str | os.PathLike[str]) -> None:
  """Writes the figure: power in space (left) and time (right), one line per name."""
  # pyplot would keep global state and look for a display.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=FIGURE_INCHES, dpi=FIGURE_DPI, layout='constrained')
  FigureCanvasAgg(figure)
  labels = {'spatial': 'cycles per pixel', 'temporal': 'cycles per frame'}
  for axes, (kind, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
    for name, found in spectra.items():
      frequencies_K, power_K = found[kind]
      axes.plot(frequencies_K[1:], np.maximum(power_K[1:], LEAST_POWER), label=name)
    axes.set(yscale='log', title=f'{kind} spectrum', xlabel=label, ylabel='power')
    axes.legend()
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png')
  storage.write_bytes(epath.Path(path), buffer.getvalue())
