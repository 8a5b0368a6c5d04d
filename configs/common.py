"""What every run configures, at the values of the I2VGen-XL release, and helpers to vary it.

Sources are the release's i2vgen_xl_train.yaml and its model defaults, unless a line says otherwise.
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
  config.start = ''  # A folder of `load` or another run, to take the first weights from.
  config.dtype = 'bfloat16'  # Of matrix products; parameters, norms and losses are float32.
  config.mesh = meshes.get('all')
  config.sharding = dict(
    min_elements=65_536,  # Smaller tensors are not split.
    offload_optimizer=False,  # True keeps the optimizer's state in the memory of the hosts.
  )
  config.negative_prompt = NEGATIVE_PROMPT
  config.tokenizer = ''
  # Id 0, with which OpenCLIP pads and the release was trained; its published tokenizer says
  # '<|endoftext|>'. Padding is attended to, so this changes what a caption means.
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
    growing=(),  # Set by `train`: conditioners that the start lacks.
    remat='block',  # Or none, products, offload: what blocks compute again (unet3d.POLICIES).
  )
  config.vae = dict(
    weights='',
    scaling_factor=0.18215,
    frames_per_chunk=4,
    tile=0,  # Latents; decode larger frames in squares of so many. 0: whole frames.
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
  # Adapters on these kernels in place of training all: rank 0 is none.
  config.lora = dict(
    rank=0,
    alpha=8.0,
    match=r'attn\d/to_(q|k|v|out_0)/kernel$',
    # Of the kernels that adapters leave as they are. In bfloat16 they take half of the memory, and
    # the average is of the adapters alone; what is merged and exported has no finer weights.
    frozen_dtype='float32',
  )
  config.schedule = dict(kind='cosine', num_timesteps=1000, zero_terminal_snr=True)
  config.loss = dict(
    prediction_type='v',
    offset_noise=0.1,
    timestep_shift=1.0,
    timestep_range=(0, 1000),  # Noise levels to train on: (start, stop).
    min_snr_gamma=0.0,  # 5 in Hang et al. 2023 (arXiv:2303.09556); 0 weighs all levels alike.
  )
  # The release drops nothing (p_zero 0.0); its text-to-video stage drops captions at 0.1.
  config.condition_dropout = dict(
    text=0.1,
    image_embedding=0.1,
    image_latents=0.0,
    all=0.0,
    buckets=dict(),  # Other rates for some: dict(images=dict(image_latents=1.0)).
  )
  config.data = dict(
    directories=dict(),
    buckets=dict(),
    # (height, width) of all shapes that each bucket has: an example is drawn at the one that crops
    # it least. Multiples of 64 (16 in a refinement stage); pixels within 15 % of each other and of
    # the buckets'. () keeps the buckets' own size.
    aspects=(),
    # Larger shares of a picture are not cut away, but the example is left out. 0: 0.5 with aspects,
    # no bound without.
    max_crop=0.0,
    # Examples that would be enlarged more are left out. 0: 2.0 with aspects, no bound without.
    max_enlarge=0.0,
    index='',  # Folder of an index of the corpora: balanced cells. '' draws all rows alike.
    cache='',  # Folder of `python -m i2vgen_jax.precompute`: latents and embeddings for media.
    # Weights of the directories in the draws of each bucket; without, all their rows are alike.
    sources=dict(),
    # From a step on, other weights: dict(start=STEP, buckets=dict(name=WEIGHT), sources=...). What
    # buckets or sources do not name rests; leave one of the two out to keep it.
    phases=(),
    num_threads=8,  # Batches that are made at a time.
    sandbox=True,  # Decode in processes, one per thread, that may crash.
    max_bad_fraction=0.01,
    accept_changed=False,  # Go on although the corpora or the index are not the checkpoint's.
  )
  config.optimizer = dict(
    kind='adamw',  # Or 'muon'.
    muon_rms=0.2,
    peak_learning_rate=3e-5,
    schedule='cosine',
    warmup_steps=10,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    max_grad_norm=1.0,  # The release does not clip.
    groups=(),
  )
  config.train = dict(
    num_steps=1_000_000,
    stop_at=0,  # Stop (and save) after this step, to go on later; 0 runs to the end.
    accumulation=1,
    ema_decay=0.9999,
    ema_warmup=False,
    growth_steps=1000,  # In which conditioners that the start lacks grow in; 0: at once.
    # A step whose loss or gradient is not finite changes nothing but the position in the data; so
    # does one whose gradient's norm is beyond so many times the median of the last 128. 0: any.
    skip_norm=0.0,
    max_skipped=10,  # More of the last skip_window steps end the run; at most 63.
    skip_window=1000,
    replay_every=0,  # Take every so manieth step twice, and compare to the bit; 0 does not.
    norms_every=0,  # Norms of gradients and updates by block, every so many steps; 0 writes none.
    log_every=10,  # The loss is the mean over the steps in between.
    levels_every=100,  # Its means by quarters of the timesteps, every so many steps; 0: never.
    eval_every=1000,
    sample_every=1000,
    first_look=0,  # Step after which both are done besides, early; 0 does not.
    num_eval_examples=64,  # 0: none are evaluated.
    num_sample_videos=4,  # 0: none are sampled.
    tensorboard=True,
    wandb='',  # Project of Weights & Biases, where curves and samples go besides; '' for none.
    profile_at=0,  # Write a profile of profile_steps steps from this one on; 0 is never.
    profile_steps=3,
  )
  # every: steps. every_minutes: minutes after the last save, asked every train.log_every steps.
  config.checkpoint = dict(every=1000, every_minutes=0.0, keep_last=3, keep_every=50_000)
  # Seconds after which a phase of a run counts as hanging: the stacks of all threads are written,
  # and the process ends with exit code 170, for a launcher to start it again. 0: no limit.
  config.watchdog = dict(
    start_secs=3600.0,  # All before the first compilation: weights, checkpoint.
    compile_secs=7200.0,
    input_secs=900.0,  # Waiting for one batch.
    step_secs=900.0,  # The rest of a step; at a report it waits for the log_every steps before.
    checkpoint_secs=3600.0,
    validation_secs=3600.0,  # With what it compiles.
    barrier_secs=900.0,  # Waiting for the other hosts at the end.
  )
  # Seconds that hosts wait for all of them to come, and to leave; a silent one is gone after
  # heartbeat_secs.
  config.hosts = dict(join_secs=300, leave_secs=60, heartbeat_secs=60)
  config.compilation = dict(
    cache='compilation_cache',  # Folder, in the workdir, of compiled programs; '' keeps none.
    profile='none',  # Set of XLA flags: see i2vgen_jax/parallel/xla_profiles.py.
  )
  config.sample = dict(
    sampler='ddim',  # Or 'dpmpp_2m', 'dpmpp_2m_sde', 'heun'.
    spacing='leading',  # Or 'trailing', 'linspace'.
    num_steps=50,
    guidance_scale=9.0,
    guidance_rescale=0.0,
    schedule='',  # Another kind of noise schedule than trained on.
    eta=0.0,
    set_alpha_to_one=True,
    bucket='',
    seed=0,
  )
  # A refinement stage lays so many noise levels on a video of this size, brought to its own, and
  # takes them off again; by inversion_steps of DDIM backwards in place of noise. 0 levels: none.
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
