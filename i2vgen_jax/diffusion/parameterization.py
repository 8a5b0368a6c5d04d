"""What the network predicts: x0, eps or v, each defined by its way to and from the pair (x0, eps).

With zero terminal SNR alpha is 0 at the last timestep: an eps-prediction says nothing about x0
there, while v does (x0 = -v), so such schedules train with 'v'.
"""

from i2vgen_jax.diffusion import schedule as schedule_lib

TO_X0_EPS = {
  'x0': lambda x0, z, alpha, sigma: (x0, (z - alpha * x0) / sigma),
  'eps': lambda eps, z, alpha, sigma: ((z - sigma * eps) / alpha, eps),
  # Salimans & Ho 2022 (arXiv:2202.00512), Sec. 4.
  'v': lambda v, z, alpha, sigma: (alpha * z - sigma * v, sigma * z + alpha * v),
}
FROM_X0_EPS = {
  'x0': lambda x0, eps, alpha, sigma: x0,
  'eps': lambda x0, eps, alpha, sigma: eps,
  'v': lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0,
}


def check_prediction_type(prediction_type: str, schedule: schedule_lib.NoiseSchedule) -> None:
  """Raises ValueError for an unknown type, or for 'eps' on a schedule that ends in pure noise."""
  if prediction_type not in TO_X0_EPS:
    raise ValueError(
      f'loss.prediction_type={prediction_type!r} is unknown; known: {", ".join(TO_X0_EPS)}.'
    )
  if prediction_type == 'eps' and schedule.alphas_cumprod_T[-1] == 0:
    raise ValueError(
      "loss.prediction_type='eps' is undefined at the last timestep of a schedule with "
      "zero_terminal_snr=True; use 'v', or schedule.zero_terminal_snr=False."
    )
