"""What every run configures, at the values of the I2VGen-XL release, and helpers to vary it.

Sources are the release's i2vgen_xl_train.yaml and its model defaults, unless a line says otherwise.
configs/words/ says what each field means: `python -m i2vgen_jax.train --help_config=FIELD`.
"""

import ml_collections

from configs import meshes

# The release's, for guidance and for dropped captions.
NEGATIVE_PROMPT = (
  'Distorted, discontinuous, Ugly, blurry, low resolution, motionless, static, disfigured, '
  'disconnected limbs, Ugly faces, incomplete arms'
)
# The five ways by which caption, image and frame rate enter; leave one out to train without it.
CONDITIONERS = (
  dict(kind='text'),
  dict(kind='image_latent_tokens'),
  dict(kind='image_tokens', num_tokens=4),
  dict(kind='image_latents'),
  dict(kind='fps'),
)
# Width, width of the feed-forward, layers and heads of T5 v1.1.
T5_SIZES = dict(
  small=(512, 1024, 8, 6),
  base=(768, 2048, 12, 12),
  large=(1024, 2816, 24, 16),
  xl=(2048, 5120, 24, 32),
  xxl=(4096, 10240, 24, 64),
)


def release():
  """The released model and its training, but for the corpora and the weights, which are the
  user's."""
  config = ml_collections.ConfigDict()
  config.seed = 6666
  config.start = ''
  config.dtype = 'bfloat16'
  config.mesh = meshes.get('all')
  config.sharding = dict(
    min_elements=65_536,
    offload_optimizer=False,
  )
  config.negative_prompt = NEGATIVE_PROMPT
  config.tokenizer = ''
  config.pad_token = '!'
  config.unet = dict(
    out_channels=4,
    block_channels=(320, 640, 1280, 1280),
    attention_levels=(True, True, True, False),
    layers_per_block=2,
    head_dim=64,
    temporal_in_heads=8,
    norm_groups=32,
    dropout=0.1,
    context_dim=1024,
    conditioners=CONDITIONERS,
    row_margin=0,
    free_u=(),
    growing=(),
    remat='block',
  )
  config.vae = dict(
    weights='',
    scaling_factor=0.18215,
    frames_per_chunk=4,
    tile=0,
    tile_overlap=16,
    model=dict(
      in_channels=3,
      latent_channels=4,
      block_channels=(128, 256, 512, 512),
      layers_per_block=2,
      norm_groups=32,
    ),
  )
  # OpenCLIP ViT-H/14.
  config.text_encoder = dict(
    weights='',
    model=dict(
      vocab_size=49408,
      hidden_size=1024,
      intermediate_size=4096,
      num_layers=24,
      num_heads=16,
      max_length=77,
      activation='gelu',
    ),
  )
  config.image_encoder = dict(
    weights='',
    model=dict(
      hidden_size=1280,
      intermediate_size=5120,
      num_layers=32,
      num_heads=16,
      patch_size=14,
      image_size=224,
      projection_dim=1024,
      activation='gelu',
    ),
  )
  config.lora = dict(
    rank=0,
    alpha=8.0,
    match=r'attn\d/to_(q|k|v|out_0)/kernel$',
    frozen_dtype='float32',
  )
  config.schedule = dict(kind='cosine', num_timesteps=1000, zero_terminal_snr=True)
  config.loss = dict(
    prediction_type='v',
    offset_noise=0.1,
    timestep_shift=1.0,
    timestep_range=(0, 1000),
    min_snr_gamma=0.0,
  )
  # The release drops nothing (p_zero 0.0); its text-to-video stage drops captions at 0.1.
  config.condition_dropout = dict(
    text=0.1,
    image_embedding=0.1,
    image_latents=0.0,
    all=0.0,
    buckets=dict(),
  )
  config.data = dict(
    directories=dict(),
    buckets=dict(),
    aspects=(),
    max_crop=0.0,
    max_enlarge=0.0,
    index='',
    cache='',
    captions=False,
    shard_cache='',
    shard_cache_gb=100.0,
    sources=dict(),
    phases=(),
    num_threads=8,
    sandbox=True,
    max_bad_fraction=0.01,
    accept_changed=False,
    exact_epochs=True,
  )
  config.optimizer = dict(
    kind='adamw',
    muon_rms=0.2,
    peak_learning_rate=3e-5,
    schedule='cosine',
    warmup_steps=10,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    max_grad_norm=1.0,
    groups=(),
  )
  config.train = dict(
    num_steps=1_000_000,
    stop_at=0,
    accumulation=1,
    ema_decay=0.9999,
    ema_warmup=False,
    growth_steps=1000,
    skip_norm=0.0,
    max_skipped=10,
    skip_window=1000,
    replay_every=0,
    norms_every=0,
    log_every=10,
    levels_every=100,
    eval_every=1000,
    sample_every=1000,
    first_look=0,
    num_eval_examples=64,
    num_sample_videos=4,
    tensorboard=True,
    wandb='',
    profile_at=0,
    profile_steps=3,
  )
  config.checkpoint = dict(every=1000, every_minutes=0.0, keep_last=3, keep_every=50_000)
  config.watchdog = dict(
    start_secs=3600.0,
    compile_secs=7200.0,
    input_secs=900.0,
    step_secs=900.0,
    checkpoint_secs=3600.0,
    validation_secs=3600.0,
    barrier_secs=900.0,
  )
  config.hosts = dict(join_secs=300, leave_secs=60, heartbeat_secs=60)
  config.compilation = dict(
    cache='compilation_cache',
    profile='none',
  )
  config.sample = dict(
    sampler='ddim',
    spacing='leading',
    num_steps=50,
    guidance_scale=9.0,
    guidance_rescale=0.0,
    schedule='',
    eta=0.0,
    set_alpha_to_one=True,
    bucket='',
  )
  config.refine = dict(levels=0, inversion_steps=0, height=0, width=0)
  return config


def t5(size):
  """The block config.t5 of a T5 v1.1 encoder, for the line dict(kind='t5_text').

  Sizes as in their config.json, Hugging Face google/t5-v1_1-*; raises ValueError for another one.
  """
  if size not in T5_SIZES:
    raise ValueError(f't5={size!r} is unknown; known: {", ".join(T5_SIZES)}.')
  hidden_size, intermediate_size, num_layers, num_heads = T5_SIZES[size]
  return dict(
    weights='',
    tokenizer='',  # Folder with tokenizer.json or spiece.model.
    model=dict(
      vocab_size=32128,
      hidden_size=hidden_size,
      intermediate_size=intermediate_size,
      head_dim=64,
      num_layers=num_layers,
      num_heads=num_heads,
      max_length=128,
      activation='gated-gelu',
    ),
  )


def bucket(media, frames, height, width, fps, batch_size, weight=1.0):
  """One shape of batch: drawn for a step with probability proportional to `weight`; `batch_size`
  is global."""
  return dict(
    media=media,
    frames=frames,
    height=height,
    width=width,
    fps=float(fps),
    batch_size=batch_size,
    weight=float(weight),
  )


def parse_arg(arg, **defaults):
  """Parses 'name=value,flag' behind a config's colon into a ConfigDict with the defaults' types.

  Raises:
    ValueError: unknown name, or a value of another type.
  """
  values = ml_collections.ConfigDict(defaults)
  for item in (arg or '').split(','):
    if not item:
      continue
    name, _, text = item.partition('=')
    if name not in defaults:
      raise ValueError(
        f'config argument {item!r} is unknown; known: {", ".join(defaults)}. A comma separates '
        'arguments, and paths have none.'
      )
    kind = type(defaults[name])
    try:
      values[name] = text not in ('0', 'false', 'False') if kind is bool else kind(text)
    except ValueError as error:
      what = {int: 'a whole number', float: 'a number'}[kind]
      raise ValueError(f'config argument {item!r} must be {what}.') from error
  return values
