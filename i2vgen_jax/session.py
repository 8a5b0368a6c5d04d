"""A config opened: the modules that it names, the mesh, and the frozen weights.

`build` finds everything that can be wrong in a config, before anything compiles.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.stream import cache as cache_lib
from data_pipelines.stream import fields as fields_lib
from i2vgen_jax import conditions
from i2vgen_jax.conditions import base, dropout
from i2vgen_jax.diffusion import loss, parameterization, schedule
from i2vgen_jax.models import autoencoder, lora, unet3d
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding, xla_profiles
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.pretrained import tokenizers
from i2vgen_jax.process import ranges
from i2vgen_jax.stored import run_config

Array = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Session:
  """A config opened: train, sample, evaluate, plan and export work with one.

  Attributes:
    config: of the run.
    unet: the network that is trained.
    autoencoder: turns pixels into latents and back.
    networks: the frozen networks by their block of the config.
    signals: by name; the networks encode them, and the U-Net is conditioned on them.
    schedule: of the noise.
    mesh: of the devices, once there are some.
    frozen: parameters of the networks, once loaded; under 'null', what replaces dropped signals.
    step: of loaded weights whose conditioners still grow; None if they have.
  """

  config: Any
  unet: unet3d.UNet3D | lora.AdaptedUNet
  autoencoder: autoencoder.Autoencoder
  networks: Mapping[str, Any]
  signals: Mapping[str, base.Signal]
  schedule: schedule.NoiseSchedule
  mesh: Any = None  # A Mesh, or an AbstractMesh where nothing runs.
  frozen: Any = None
  step: int | None = None

  def on(self, mesh: mesh_lib.AnyMesh) -> 'Session':
    """The session on a mesh."""
    return dataclasses.replace(self, mesh=mesh)

  def load_frozen(self, workdir: epath.PathLike | None = None) -> 'Session':
    """The session with its frozen weights, as frozen_lib.load finds them; raises as that does."""
    loaded = frozen_lib.load(self.config, self.networks, self.mesh, workdir)
    null = {}
    for name, negative in self.negative(self.config.negative_prompt).items():
      encode = xla_profiles.jit_once(
        self.signals[name].encode, out_shardings=mesh_lib.replicated(self.mesh)
      )
      null[name] = encode(loaded, negative)
    return dataclasses.replace(self, frozen=loaded | {'null': null})

  def held(self, params: Any) -> Any:
    """Parameters of a network that is not trained, as a network of bfloat16 uses them: kernels are
    bfloat16, in half of the memory. Those of a network of float32 stay."""
    dtype = jnp.dtype(self.config.dtype)
    return params if dtype == jnp.float32 else lora.held(params, dtype)

  # Shapes.

  def unet_inputs(self, frames: int, height: int, width: int, batch_size: int = 1) -> tuple:
    """ShapeDtypeStructs of (noisy_latents_BFHWC, timesteps_B, conditioning).

    Args:
      frames: of the video.
      height: pixels.
      width: pixels.
      batch_size: videos.
    """
    factor = self.autoencoder.downsampling
    latents = (height // factor, width // factor, self.autoencoder.vae.latent_channels)
    shape = lambda *dims: jax.ShapeDtypeStruct((batch_size, *dims), jnp.float32)  # noqa: E731
    conditioning = {
      name: shape(*signal.shape(height, width)) for name, signal in self.signals.items()
    }
    timesteps_B = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return shape(frames, *latents), timesteps_B, conditioning

  def smallest_unet_inputs(self) -> tuple:
    """ShapeDtypeStructs that suffice to initialise the U-Net: parameters do not depend on the
    video's size."""
    side = 8 * self.autoencoder.downsampling
    return self.unet_inputs(frames=2, height=side, width=side)

  def smallest_unet_zeros(self) -> tuple:
    """Arrays of `smallest_unet_inputs`."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.smallest_unet_inputs())

  def abstract_params(self) -> Any:
    """The U-Net's parameters as ShapeDtypeStructs with shardings; raises ValueError for a model
    that is invalid."""
    inputs = self.smallest_unet_inputs()
    abstract = jax.eval_shape(self.unet.init, jax.random.key(0), *inputs)['params']
    shardings = sharding.shard_tree(abstract, self.mesh, self.config.sharding.min_elements)
    return sharding.with_shardings(abstract, shardings)

  # What a batch holds.

  def buckets(self) -> list[buckets_lib.Bucket]:
    """The shapes of batches.

    Raises:
      ValueError: the config names no corpus or no buckets, or the model cannot take a size.
    """
    if not self.config.data.directories:
      raise ValueError(
        'The config names no corpus: give data.directories (name -> ingested folder, see '
        '`python -m data_pipelines ingest --help`).'
      )
    return self._shapes()

  def _shapes(self) -> list[buckets_lib.Bucket]:
    """The buckets, of a corpus or none; raises ValueError as `buckets`."""
    if not self.config.data.buckets:
      raise ValueError('The config names no shape of videos: give data.buckets.')
    found = buckets_lib.from_config(self.config)
    for bucket in found:
      self.check_size(bucket.frames, bucket.height, bucket.width)
    return found

  def sample_bucket(self) -> buckets_lib.Bucket:
    """The bucket of held-out clips and samples: sample.bucket, or the first with most frames.

    Of a bucket with aspects it is the one of the bucket's own size, or the nearest to that.

    Raises:
      ValueError: sample.bucket is unknown.
    """
    buckets = self._shapes()
    by_name = {bucket.name: bucket for bucket in buckets}
    for name, aspects in buckets_lib.groups(buckets).items():
      own = self.config.data.buckets[name]
      by_name.setdefault(name, buckets_lib.fitting(aspects[0], own.height, own.width))
    wanted = self.config.sample.bucket
    if not wanted:
      most = max(buckets, key=lambda bucket: bucket.frames)
      return by_name[most.group]
    if wanted not in by_name:
      raise ValueError(f'sample.bucket={wanted!r} is unknown; known: {", ".join(by_name)}.')
    return by_name[wanted]

  def check_size(self, frames: int, height: int, width: int) -> None:
    """Checks the size of a video.

    Args:
      frames: of the video.
      height: pixels.
      width: pixels.

    Raises:
      ValueError: the model cannot make such a video.
    """
    factor = self.autoencoder.downsampling
    if frames < 1:
      raise ValueError(f'frames={frames} must be at least 1.')
    if height < factor or width < factor or height % factor or width % factor:
      nearest = [max(1, (side + factor // 2) // factor) * factor for side in (width, height)]
      raise ValueError(
        f'size {width}x{height} must be multiples of {factor} pixels, the VAE factor: '
        f'{nearest[0]}x{nearest[1]} is the nearest.'
      )

  def fields(self) -> tuple[fields_lib.Field, ...]:
    """The fields of a batch: the clip, and all that the signals read.

    Raises:
      ValueError: two signals read different arrays under one name.
    """
    found: dict[str, fields_lib.Field] = {'video': fields_lib.Video()}
    for signal in self.signals.values():
      for field in signal.fields():
        if found.setdefault(field.name, field) != field:
          raise ValueError(f'two signals read different arrays as {field.name!r}.')
    return tuple(found.values())

  def kept(self, height: int = 0, width: int = 0) -> tuple[cache_lib.Kept, ...]:
    """Arrays that a cache holds in place of pixels: moments of the latents, and what signals keep.

    The bucket's size, in pixels, matters for their shapes alone.
    """
    latents = self.unet_inputs(1, height, width)[0].shape[2:]
    found = [cache_lib.Kept(name, latents, 'all') for name in ('latent_mean', 'latent_logvar')]
    for name, signal in self.signals.items():
      if signal.cached is not None:
        found.append(cache_lib.Kept(name, signal.shape(height, width), signal.cached))
    return tuple(found)

  # From a batch or a request to what the U-Net is given.

  def encode(
    self, frozen: Any, batch: Mapping[str, Any], posterior_B: jax.Array, image_B: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(latents_BFHWC, conditioning) of a training batch, which holds pixels or a cache's arrays.

    Args:
      frozen: as the attribute.
      batch: of the stream.
      posterior_B: keys of the draws of the clips' latents.
      image_B: keys of the signals' own draws.
    """
    if 'video' in batch:
      latents_BFHWC = self.autoencoder.encode_video(frozen, batch['video'], posterior_B)
      return latents_BFHWC, self.condition(frozen, self.of_batch(batch), image_B)
    mean, logvar = (batch[name].astype(jnp.float32) for name in ('latent_mean', 'latent_logvar'))
    return self.autoencoder.draw_latents(mean, logvar, posterior_B), {
      name: signal.from_cache(batch, signal.own_keys(image_B))
      for name, signal in self.signals.items()
    }

  def condition(
    self, frozen: Any, inputs: Mapping[str, Mapping], keys_B: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """`conditioning` of the signals' inputs.

    Args:
      frozen: as the attribute.
      inputs: by signal, of `of_batch` or `of_request`.
      keys_B: one key per sample, in training; None wants the same value at every call.
    """
    return {
      name: signal.encode(frozen, inputs[name], signal.own_keys(keys_B))
      for name, signal in self.signals.items()
    }

  def growth(self, batch_size: int, step: jax.Array | int | None = None) -> dict[str, jax.Array]:
    """What `conditioning` holds besides while conditioners grow in: their share, (B,).

    Args:
      batch_size: B.
      step: updates done; None is the attribute `step`.
    """
    step = self.step if step is None else step
    if step is None or not self.config.unet.growing:
      return {}
    share = jnp.minimum(jnp.asarray(step, jnp.float32) / self.config.train.growth_steps, 1)
    return {unet3d.GROWTH: jnp.full((batch_size,), share)}

  def unconditional(
    self, frozen: Any, negative: Mapping[str, Mapping], conditioning: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """The `conditioning` that guidance moves away from.

    Args:
      frozen: as the attribute.
      negative: as the method `negative` returns it.
      conditioning: what guidance moves towards.
    """
    return {
      name: signal.unconditional(frozen, negative.get(name, {}), conditioning[name])
      for name, signal in self.signals.items()
    }

  def null(self, frozen: Any) -> dict[str, jax.Array]:
    """By signal, what replaces it when it is dropped; signals that never are have no entry."""
    found = {name: signal.null(frozen) for name, signal in self.signals.items()}
    return {name: value for name, value in found.items() if value is not None}

  def of_batch(self, batch: Mapping[str, Array]) -> dict[str, dict]:
    """Inputs by signal, of a batch with pixels."""
    return {name: signal.of_batch(batch) for name, signal in self.signals.items()}

  def of_request(self, request: base.Request) -> dict[str, dict]:
    """Inputs by signal, of what a user gives; raises ValueError if something is missing."""
    found = {}
    request = dataclasses.replace(request, pixel_fields=fields_lib.pixel_fields(self.fields()))
    for name, signal in self.signals.items():
      try:
        found[name] = signal.of_request(request)
      except ValueError as error:  # Also of a user's own signal: it is for whoever samples.
        raise ValueError(f'condition {name!r}: {error}') from error
    return found

  def negative(self, prompt: str) -> dict[str, dict]:
    """Inputs by signal for what guidance moves away from; signals without any have no entry."""
    found = {name: signal.negative(prompt) for name, signal in self.signals.items()}
    return {name: inputs for name, inputs in found.items() if inputs}

  def dropout_rates(self, bucket: str = '') -> dict[str, float]:
    """How often training drops each signal, in a bucket; see conditions.dropout.rates."""
    return dropout.rates(self.config, self.signals, bucket)


def build(
  config: Any, workdir: epath.PathLike | None = None, reads_captions: bool = True
) -> Session:
  """A session of a config, on no devices yet.

  Args:
    config: of the run.
    workdir: of the run; its own tokenizer comes before the config's.
    reads_captions: False for a session that is only planned: it needs no tokenizer.

  Raises:
    ValueError: the config is invalid; the message names the field.
  """
  ranges.check(config)
  noise_schedule = schedule.NoiseSchedule.create(**config.schedule)
  _check(config, noise_schedule)
  lines = conditions.read(config.unet.conditioners)
  networks = frozen_lib.modules(config)
  vae = config.vae
  codec = autoencoder.Autoencoder(
    networks['vae'], vae.scaling_factor, vae.frames_per_chunk, vae.tile, vae.tile_overlap
  )
  classes = conditions.signal_classes(lines)
  absent = {name for cls in classes for name in cls.networks if name not in networks}
  if absent:
    raise ValueError(
      f'unet.conditioners read the networks {sorted(absent)}, of which the config has no block: '
      'see configs/base_t5.py for one.'
    )
  signals = {cls.name: cls(config, codec, networks, workdir, reads_captions) for cls in classes}
  dropout.check(config, signals)
  read_by_signals = {network for signal in signals.values() for network in signal.networks}
  unet = _unet(config, lines)
  if codec.vae.latent_channels != unet.out_channels:
    raise ValueError(
      f'unet.out_channels={unet.out_channels} must equal vae.model.latent_channels='
      f'{codec.vae.latent_channels}: the U-Net predicts latents.'
    )
  return Session(
    config=config,
    unet=lora.adapt(unet, config),
    autoencoder=codec,
    networks={name: networks[name] for name in frozen_lib.wanted(config, read_by_signals)},
    signals=signals,
    schedule=noise_schedule,
  )


def _unet(config: Any, lines: tuple[conditions.Line, ...]) -> unet3d.UNet3D:
  model: dict[str, Any] = dict(config.unet, conditioners=lines)
  for name in ('block_channels', 'attention_levels', 'growing'):
    model[name] = tuple(model[name])
  model['free_u'] = tuple(tuple(gains) for gains in model['free_u'])
  return unet3d.UNet3D(**model, dtype=jnp.dtype(config.dtype))


def _check(config: Any, noise_schedule: schedule.NoiseSchedule) -> None:
  """Raises ValueError for an objective or a refinement that is invalid."""
  parameterization.check_prediction_type(config.loss.prediction_type, noise_schedule)
  loss.check_options(config.loss.timestep_range, config.loss.min_snr_gamma, noise_schedule)
  if config.refine.levels and not (config.refine.height > 0 and config.refine.width > 0):
    raise ValueError(
      f'refine.height={config.refine.height}, refine.width={config.refine.width}: give the size of '
      'the videos that are refined.'
    )
  if config.refine.levels > config.loss.timestep_range[1]:
    raise ValueError(
      f'refine.levels={config.refine.levels} must lie within the noise levels that are trained: '
      f'loss.timestep_range={tuple(config.loss.timestep_range)}.'
    )


def open_run(workdir: epath.PathLike, devices: list | None = None) -> Session:
  """The session of a trained run or of a folder of `load`, without weights.

  Args:
    workdir: of the run.
    devices: default all; the batch is split over them, weights are whole on each.

  Raises:
    ValueError: the workdir holds no run.
  """
  config = run_config.read(workdir)
  with config.unlocked():
    config.start = ''  # The run has all of its own.
    config.tokenizer = tokenizers.folder('tokenizer', config.tokenizer, workdir=workdir)
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1}, devices)
  return build(config, workdir).on(mesh)
