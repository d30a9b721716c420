#!/usr/bin/env bash
# One seed, one hash: 100 seeds of the swarm are the same, event by event, when the other compiler built it.
# usage: check_determinism.sh BUILD OTHER_CXX
set -euo pipefail
build=$1 other=$2
if ! command -v "$other" >/dev/null; then
  exec tools/check/skip.sh check-determinism "$other is not installed"
fi
$MAKE "$build/bin/holdfast-sim" >/dev/null
# A directory of its own, which check-compilers uses as well.
$MAKE CXX="$other" BUILD="$build/$other" "$build/$other/bin/holdfast-sim"

hashes() { "$1" --hashes --seeds=100 --jobs="$(nproc)" | grep -E '^[0-9]+ [0-9a-f]{16}$' | sort -n; }
ours=$(mktemp) theirs=$(mktemp)
trap 'rm -f "$ours" "$theirs"' EXIT
hashes "$build/bin/holdfast-sim" >"$ours"
hashes "$build/$other/bin/holdfast-sim" >"$theirs"
if [[ $(wc -l <"$ours") -ne 100 ]]; then
  echo "check-determinism: $(wc -l <"$ours") hashes, not 100" >&2
  exit 1
fi
if ! diff "$ours" "$theirs"; then
  echo "check-determinism: these seeds differ between the compilers" >&2
  exit 1
fi
echo "check-determinism: 100 seeds have the same hash, whichever compiler built them"
