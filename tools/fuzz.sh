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
# A fake stack for each fiber costs more than it finds here; `make asan` has it on. Freed memory that waits to
# be used again is 256 MiB where nobody says less, which is all that a fuzzer may have (below).
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_stack_use_after_return=0:quarantine_size_mb=64"
# An input that takes a second or a process of 256 MiB is a find. An input takes some 20 ms, and a process came
# to 175 MiB over 2,800 inputs, sanitizers and 64 MiB of quarantine included (two cores of a virtual machine).
# Entropic schedules look at each of ten thousand features after each run, which takes longer than the run.
flags=(-timeout=1 -rss_limit_mb=256 -max_len=4096 -len_control=0 -entropic=0)
count() { find "$1" -type f | wc -l; }

for fuzzer in "$out"/bin/*_fuzz; do
  target=$(basename "$fuzzer" _fuzz)
  corpus=tests/fuzz/corpus/$target
  found=$out/found/$target
  mkdir -p "$found"
  if [[ $what == run ]]; then
    seconds=${3:?$usage}
    echo "$target: $seconds s, from $(count "$corpus") inputs of $corpus and $(count "$found") of $found"
    # libFuzzer counts from the start of the process, and the seconds are to come after what is there has been
    # read and played: so that is played once before, which says how long it takes.
    run=("$fuzzer" "${flags[@]}" -artifact_prefix="$found-")
    log=$out/$target.log
    begin=$SECONDS
    "${run[@]}" -runs=0 "$found" "$corpus" >"$log" 2>&1 || { cat "$log"; exit 1; }
    # 0: libFuzzer draws a seed, and prints it.
    "${run[@]}" -max_total_time=$((seconds + SECONDS - begin + 1)) -seed="${4:-0}" -print_final_stats=1 \
      "$found" "$corpus"
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
