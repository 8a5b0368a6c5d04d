#!/usr/bin/env bash
# Looks up the installed packages of .venv in the database of known weaknesses.
# Exit code: 0 none is known, 1 some are, 3 not audited: the database cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
tools="$(mktemp -d)"
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools/venv"
"$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
audit() { "$tools/venv/bin/pip-audit" --progress-spinner=off --disable-pip --no-deps "$@" 2>"$tools/log"; }

# A package whose weaknesses are known: an audit that does not find them has not looked.
echo 'jinja2==2.4.1' >"$tools/known.txt"
if audit --requirement "$tools/known.txt" >"$tools/known" || ! grep -Eq 'PYSEC|GHSA|CVE' "$tools/known"; then
  echo 'audit: not audited, the database of known weaknesses cannot be reached'
  exit 3
fi
.venv/bin/python -m pip freeze --exclude-editable --disable-pip-version-check >"$tools/installed.txt"
if audit --requirement "$tools/installed.txt"; then echo 'audit: no known weakness'; exit 0; fi
grep -v WARNING "$tools/log" >&2 || true
exit 1
