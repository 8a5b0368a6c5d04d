"""What the sets and measures of an evaluation are, in words, and how their values are written."""

from typing import NamedTuple

HIGHER, LOWER, NEAR = 'higher is better', 'lower is better', 'closest to real is best'


class Measure(NamedTuple):
  """What a measure is.

  Attributes:
    title: with its unit.
    better: HIGHER, LOWER or NEAR.
    text: how it is measured, and what it does not tell.
    is_share: whether it is shown as a percentage.
  """

  title: str
  better: str
  text: str
  is_share: bool = False


MEASURES = {
  'psnr_db': Measure(
    'PSNR to the real clip, dB', HIGHER,
    'Peak signal-to-noise ratio of the whole video: 10 log10(255² / mean squared error). It '
    'compares pixels: a video that moves well, but otherwise than the real clip, scores low.',
  ),
  'psnr_gain_db': Measure(
    'gain in PSNR, dB', HIGHER,
    'Of refined over upscaled, and of restored over shrunk, taken clip by clip.',
  ),
  'first_frame_psnr_db': Measure(
    'PSNR of the first frame, dB', HIGHER, 'Of the first frame to the image that was given.'
  ),
  'first_frame_ssim': Measure(
    'SSIM of the first frame', HIGHER,
    'Structural similarity (Wang et al. 2004) of the first frame to the image that was given: 1 is '
    'the same image, 0 an unrelated one.',
  ),
  'last_frame_ssim': Measure(
    'SSIM of the last frame', NEAR,
    'The same of the last frame. Motion lowers it: a still video has 1, a real clip less.',
  ),
  'flicker': Measure(
    'flicker, grey levels', LOWER,
    'Mean change from frame to frame, of 255, where the real clip stands still. Its own is what '
    'compression leaves.',
  ),
  'motion': Measure(
    'motion, diagonals/s', NEAR,
    'Mean length of the optical flow, in diagonals of the frame per second.',
  ),
  'high_frequency_share': Measure(
    'fine detail', NEAR,
    'Share of the spatial power above 0.25 cycles per pixel, which half the size cannot show. '
    'Blur lowers it, noise raises it.', is_share=True,
  ),
  'follows_caption': Measure(
    'moves as captioned', HIGHER,
    'Demo corpus: videos whose shape moves in the captioned direction; by chance 25 %.',
    is_share=True,
  ),
  'stands_still': Measure(
    'stands still', LOWER,
    'Demo corpus: videos whose shape moves less than 12 % of the frame.', is_share=True,
  ),
  'movement_of_width': Measure(
    'movement, of the frame', NEAR,
    'Demo corpus: how far the shape moves from the first frame to the last.', is_share=True,
  ),
  'keeps_color': Measure(
    'colour kept', HIGHER, 'Demo corpus: videos whose shape has the captioned colour.',
    is_share=True,
  ),
  'clip_text': Measure(
    'CLIP, frames to caption', HIGHER,
    'Cosine between the embeddings of the frames and of the caption, by the CLIP of --clip.',
  ),
  'clip_frames': Measure(
    'CLIP, frame to frame', NEAR,
    'Cosine between the embeddings of frames that follow each other. A still video has 1.',
  ),
  'fvd': Measure(
    'FVD', LOWER,
    'Frechet distance to the real clips, by the features of --video_features. Of few clips it is '
    'too large: compare sets of equal size.',
  ),
  'fid': Measure(
    'FID', LOWER, 'The same of single frames, by --frame_features.'
  ),
  'fvd_proxy': Measure(
    'FVD by a random network', LOWER,
    'The same by a random network of fixed seed: to notice a change, not to compare models.',
  ),
}  # fmt: skip
SETS = {
  'real': 'the held-out clips',
  'sampled': "the base stage's videos of their first frames and captions",
  'upscaled': "the base stage's videos, enlarged bilinearly",
  'refined': "the base stage's videos, enlarged by the refinement stage",
  'shrunk': "real clips at the base stage's size, enlarged bilinearly",
  'restored': 'the same, enlarged by the refinement stage: its only error is the missing detail',
  'all conditions': 'the run as it is',
  'noise': 'pixels of independent noise, what denoising starts from',
}


def measure(name: str) -> Measure:
  """What a measure is; one that nobody has described is shown by its name."""
  return MEASURES.get(name) or Measure(name, '', '')


def text_of(name: str, found: dict[str, float] | float | None) -> str:
  """A value for people: two digits of half its interval, and the mean to the same place.

  Args:
    name: of the measure.
    found: dict(mean, low, high), a number, or None, which is ''.
  """
  if found is None:
    return ''
  factor, unit = (100, ' %') if measure(name).is_share else (1, '')
  if not isinstance(found, dict):
    return f'{factor * found:.4g}{unit}'
  mean, half = factor * found['mean'], factor * (found['high'] - found['low']) / 2
  if not half:
    return f'{mean:.4g}{unit}'
  half_text = f'{half:.2g}' if half < 99.5 else f'{half:.0f}'
  if 'e' in half_text:
    return f'{mean:.3g} ± {half_text}{unit}'
  places = len(half_text.partition('.')[2])
  return f'{mean:.{places}f} ± {half_text}{unit}'
