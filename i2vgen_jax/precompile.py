"""Compiles every program of a run into its compilation cache, before there are chips.

  python -m i2vgen_jax.precompile --config=... --workdir=gs://BUCKET/run --topology=v5p-128

Train steps by shape of batch, validation and sampling, several at a time. A TPU is not needed, but
the libtpu of the pod is, on a machine with 24 GB of memory for each program of --jobs; give the
config, workdir and environment (XLA_FLAGS, LIBTPU_INIT_ARGS) of the run. docs/performance.md says
what the cache's keys are made of.
"""

from absl import flags

from i2vgen_jax.process import cli, config_flag

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  config_flag.define()
  flags.DEFINE_string('workdir', None, 'Workdir of the run to come.')
  flags.DEFINE_string('topology', None, 'Machines of the run, such as v5p-128.')
  flags.DEFINE_integer('jobs', 0, 'Programs at a time; 0: by the memory here.', lower_bound=0)
  flags.mark_flags_as_required(['config', 'workdir', 'topology'])
  cli.run(__file__)

from typing import Any

import jax
from etils import epath

from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding, xla_profiles
from i2vgen_jax.parallel import topology as topology_lib
from i2vgen_jax.plan import chips
from i2vgen_jax.training import abstract, compilation, data, warm_start
from i2vgen_jax.training import step as step_lib
from i2vgen_jax.training import validation as validation_lib


def main() -> None:
  """Entry point."""
  values = flags.FLAGS
  if not values.config.compilation.cache:
    raise ValueError("compilation.cache='' keeps nothing: name a folder.")
  machines = topology_lib.parse(values.topology)
  for name, program in precompile(values.config, values.workdir, machines, values.jobs).items():
    memory: Any = program.memory_analysis()
    print(f'{name:40s} {memory.peak_memory_in_bytes / 2**30:8.2f} GiB per device at its peak')
  # pyrefly: ignore[missing-attribute]  # JAX makes the attributes of its options at import.
  print(f'kept in {jax.config.jax_compilation_cache_dir}')


def precompile(
  config: Any, workdir: epath.PathLike, machines: topology_lib.Topology, jobs: int = 0
) -> dict[str, jax.stages.Compiled]:
  """Compiles, and returns the programs by name.

  Args:
    config: of the run.
    workdir: of the run.
    machines: those of the run: TPUs that need not be here, or the devices that are.
    jobs: programs at a time; 0 takes as many as the host's memory has room for.

  Raises:
    ValueError: the config, its data or its mesh is invalid, or such devices are not here.
  """
  compilation.use_cache(config, workdir)
  if config.start:
    config = warm_start.check(config)  # What grows in is another program.
  is_tpu = machines.kind == 'tpu'
  devices = chips.described(machines) if is_tpu else jax.devices()
  if len(devices) != machines.devices or machines.kind not in ('tpu', jax.default_backend()):
    raise ValueError(
      f'topology={machines.name} has {machines.devices} devices, and here are {len(devices)} of '
      f'{jax.default_backend()}: only TPUs may be elsewhere.'
    )
  mesh = mesh_lib.make_mesh(config.mesh, devices)
  session = session_lib.build(config).on(mesh)
  mesh_lib.check_batch_sizes(session.buckets(), mesh, config.train.accumulation)
  stream = data.make_stream(session)
  platform = 'tpu' if is_tpu else jax.default_backend()
  options = xla_profiles.options(config.compilation.profile, platform, mesh.shape['slice'])
  shapes, shardings, _, step_of_loss = step_lib.from_config(session)
  state = sharding.with_shardings(shapes, shardings)
  frozen = abstract.frozen(session)
  steps = compilation.Steps(step_lib.by_bucket(session, step_of_loss), mesh, options)
  programs, _ = steps.lower({b.name: stream.shapes(b) for b in stream.buckets}, state, frozen)
  validation = validation_lib.Validation(session, session.sample_bucket())
  return compilation.side_by_side(programs | validation.lower(state, frozen), jobs)
