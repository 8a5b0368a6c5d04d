#!/usr/bin/env bash
# Imports every module and shows the help of every command, as the user that starts it: what an image lacks is found
# before a pod is booked.
set -euo pipefail
cd "$(dirname "$0")/.."
python - <<'PY'
import importlib, pathlib
for package in ('configs', 'data_pipelines', 'i2vgen_jax', 'launch'):
  for path in sorted(pathlib.Path(package).rglob('*.py')):
    if 'torch_model' in path.parts:  # Is copied into exports, for torch, which no image has.
      continue
    importlib.import_module('.'.join(path.with_suffix('').parts).removesuffix('.__init__'))
PY
commands=$(grep -rl --include='*.py' "^if __name__ == '__main__':" i2vgen_jax launch | sort)
for file in $commands; do
  module=$(printf '%s' "${file%.py}" | tr / .)
  python -m "${module%.__main__}" --help >/dev/null
done
python -m data_pipelines --help >/dev/null
printf 'smoke test passed: %d commands and data_pipelines, as user %s\n' "$(wc -w <<<"$commands")" "$(id -u)"
