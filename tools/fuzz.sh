#!/usr/bin/env bash
# Runs the fuzzers of tests/fuzz from their corpora, or merges what they found into these. For `make fuzz` and
# `make fuzz-merge`.
#
# An input that breaks a promise is kept as OUT/found/TARGET-crash-*: `OUT/bin/TARGET_fuzz FILE` plays it
# again, HOLDFAST_TRACE=1 tells it as a story, and -minimize_crash=1 makes it shorter.
set -euo pipefail
usage='usage: fuzz.sh run OUT SECONDS [SEED] | fuzz.sh merge OUT'
what=${1:?$usage}
out=${2:?$usage}
# A fake stack for each fiber costs more than it finds here; `make asan` has it on.
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_stack_use_after_return=0"
# Entropic schedules look at each of ten thousand features after each run, which takes longer than the run.
flags=(-timeout=10 -rss_limit_mb=2048 -max_len=4096 -len_control=0 -entropic=0)
count() { find "$1" -type f | wc -l; }

for fuzzer in "$out"/bin/*_fuzz; do
  target=$(basename "$fuzzer" _fuzz)
  corpus=tests/fuzz/corpus/$target
  found=$out/found/$target
  mkdir -p "$found"
  if [[ $what == run ]]; then
    seconds=${3:?$usage}
    echo "$target: $seconds s, from $(count "$corpus") inputs of $corpus and $(count "$found") of $found"
    # 0: libFuzzer draws a seed, and prints it.
    "$fuzzer" "${flags[@]}" -max_total_time="$seconds" -seed="${4:-0}" -print_final_stats=1 \
      -artifact_prefix="$found-" "$found" "$corpus"
  else
    # The smallest set that reaches all code that all of them reach, into an empty folder: of the old ones
    # only those stay that are still of use.
    merged=$out/merged/$target
    rm -rf "$merged"
    mkdir -p "$merged"
    HOLDFAST_FUZZ_EDGES=1 "$fuzzer" "${flags[@]}" -set_cover_merge=1 -use_counters=0 \
      "$merged" "$corpus" "$found"
    rm -rf "$corpus"
    cp -r "$merged" "$corpus"
    echo "$target: $(count "$corpus") inputs, $(du -sb "$corpus" | cut -f1) bytes"
  fi
done
