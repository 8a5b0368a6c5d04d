#!/bin/bash
# Our steps beside diffusers' in torch on one large GPU (H200: 141 GB), in ten minutes, offline.
#
#   bash benchmarks/gpu.sh --wheels            where there is a network: puts what such an image
#                                              lacks into benchmarks/wheels (some MB; travels along)
#   bash benchmarks/gpu.sh [--part=train|denoise|attention] [--minutes=9] [--output=FOLDER]
#                                              on the GPU: gpu.json and a table, part by part
#   bash benchmarks/gpu.sh --dry_run           on a CPU, at tiny sizes
#
# The machine has Python >= 3.11, JAX with its CUDA plugin, flax, optax and torch. An image's own
# versions are used: its JAX may be newer than requirements.txt says, and gpu.json names it.
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=benchmarks/wheels
python=${PYTHON:-python3}

if [[ "${1:-}" == --wheels ]]; then
  mkdir -p "$wheels"
  platforms=()
  for glibc in 2_28 2_27 2_17 2014 1; do
    [[ $glibc == *_* ]] && name="manylinux_${glibc}" || name="manylinux${glibc}"
    platforms+=(--platform "${name}_x86_64")
  done
  # Without their needs, which the image has.
  packages=$(grep -hE '^(diffusers|ml_collections|array-record|av|simplejpeg)==' \
    requirements.txt requirements-test.txt | sort -u)
  # shellcheck disable=SC2086
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
    --python-version "${PYTHON_VERSION:-3.12}" "${platforms[@]}" --dest "$wheels" \
    $packages importlib_metadata
  du -sh "$wheels"
  exit
fi

if compgen -G "$wheels/*.whl" > /dev/null; then
  site=$(mktemp -d)
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "$python" -m benchmarks.gpu "$@"
