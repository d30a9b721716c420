#!/usr/bin/env bash
# Fails when clang-format would change one of the files given. Changes nothing; `make format` does.
set -euo pipefail
here=$(dirname "$0")

if ! command -v clang-format >/dev/null; then
  exec "$here/skip.sh" check-format 'clang-format is not installed: apt-get install clang-format'
fi
(($# > 0)) || { echo 'check-format: no files given' >&2; exit 1; }
if ! clang-format --dry-run --Werror "$@"; then
  echo 'check-format: run `make format`' >&2
  exit 1
fi
echo "check-format: $# files"
