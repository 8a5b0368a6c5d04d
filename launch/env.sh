# Sourced by the scripts beside it: makes .venv once and activates it. Usage: prepare_env REQUIREMENTS...
# With uv on PATH it installs by uv, else by venv and pip. A requirements file that did not change is not installed again.

prepare_env() {
  local python="${PYTHON:-}" stamp=".venv/installed" wanted file args=()
  if [ -z "$python" ]; then
    for python in python3.11 python3.12 python3; do
      "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
  fi
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2
    exit 2
  }
  wanted="$* $(cat requirements*.txt)"
  for file in "$@"; do args+=(-r "$file"); done
  if [ ! -x .venv/bin/python ]; then
    if command -v uv >/dev/null; then uv venv --quiet --python "$python" .venv
    else "$python" -m venv .venv; fi
  fi
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing $* into .venv ..."
    if command -v uv >/dev/null; then VIRTUAL_ENV=.venv uv pip install --quiet "${args[@]}"
    else .venv/bin/python -m pip install --quiet --disable-pip-version-check "${args[@]}"; fi
    printf '%s\n' "$wanted" >"$stamp"
  fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
}
