"""Says, of a device that ran out of memory, what lay in it and what to lower."""

import dataclasses
from collections.abc import Sequence

import jax

from data_pipelines.corpus import buckets as buckets_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.plan import chips, estimate
from i2vgen_jax.process import errors
from i2vgen_jax.training import step


@dataclasses.dataclass(frozen=True)
class Explanation:
  """Called with an error: adds a note to it that launchers' logs then show.

  Args:
    session: of the run.
    state: TrainState of shapes.
    placed: TrainState of their shardings.
    buckets: of the run.
  """

  session: session_lib.Session
  state: step.TrainState
  placed: step.TrainState
  buckets: Sequence[buckets_lib.Bucket]

  def __call__(self, error: BaseException | None) -> None:
    """Adds the note, once, if the error is of a device's memory."""
    if error and errors.is_out_of_memory(error) and not getattr(error, '__notes__', None):
      error.add_note(self.text())

  def text(self) -> str:
    """Lines: bytes of one device by kind, their sum, and fields of the config."""
    samples, bucket, lines = self.held()
    return '\n'.join(
      [*lines, 'To need less:', *(f'  {hint}' for hint in self._hints(samples, bucket.name))]
    )

  def held(self) -> tuple[float, buckets_lib.Bucket, list[str]]:
    """(samples that a device works on at a time, bucket that takes most, lines on its memory)."""
    device = jax.local_devices()[0]
    kinds = [each for each in chips.DEVICES.values() if each.kind == device.device_kind]
    bucket = max(self.buckets, key=lambda b: b.batch_size * b.frames * b.height * b.width)
    samples = estimate.samples_per_device(self.session, bucket)
    kept = estimate.activation_bytes(self.session, bucket, (kinds or [chips.DEVICES['v5e']])[0])
    held = estimate.state_bytes(self.state, self.placed, self.session) | {
      f'activations, {samples:g} x {bucket.name} (estimate)': int(
        samples * kept / self.session.mesh.shape['tensor']
      )
    }
    limit = (device.memory_stats() or {}).get('bytes_limit')  # No statistics on CPU.
    has = f' of {limit / estimate.GIB:.2f} GiB' if limit else ''
    lines = [f'One {device.device_kind} holds, by the shapes of this config:']
    lines += [f'  {value / estimate.GIB:9.2f} GiB  {kind}' for kind, value in held.items()]
    return samples, bucket, [*lines, f'  {sum(held.values()) / estimate.GIB:9.2f} GiB  in all{has}']

  def _hints(self, samples: float, bucket: str) -> list[str]:
    config, mesh = self.session.config, self.session.mesh
    hints = []
    if config.unet.remat == 'none':
      hints.append('--config.unet.remat=block: blocks are computed twice, little is kept')
    if samples > 1:
      more = 2 * config.train.accumulation
      hints.append(f'--config.train.accumulation={more}: half as many videos at a time')
    hints.append(f'--config.data.buckets.{bucket}.batch_size, frames, height or width: lower')
    if mesh.shape['fsdp'] < mesh.size:
      hints.append('--config.mesh.fsdp: higher, so that more devices share weights and optimizer')
    if not config.sharding.offload_optimizer:
      hints.append('--config.sharding.offload_optimizer=True: the optimizer lies in host memory')
    if not config.data.cache:
      hints.append(
        '--config.data.cache: of `python -m i2vgen_jax.precompute`; no encoders are held'
      )
    return [
      *hints,
      '`python -m i2vgen_jax.plan --config=... --topology=...` shows what each gives.',
    ]
