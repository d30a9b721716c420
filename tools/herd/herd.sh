#!/usr/bin/env bash
# All that docs/herd.md shows: tables, a CSV file for each policy, and pictures where gnuplot is there. `make herd`
# calls it.
#
#   tools/herd/herd.sh PROGRAM DIRECTORY LINKS OUTAGE JOBS
set -euo pipefail
(($# == 5)) || { echo 'usage: tools/herd/herd.sh PROGRAM DIRECTORY LINKS OUTAGE JOBS' >&2; exit 2; }
here=$(dirname "$0")
program=$1 directory=$2 links=$3 outage=$4 jobs=$5
mkdir -p "$directory"

# Runs the options that follow a name, and shows and keeps what comes out.
run() {
  local name=$1
  shift
  set -- --links="$links" --outage="$outage" --limit=2min "$@"
  echo "holdfast-herd $*"
  "$program" "$@" --jobs="$jobs" --out="$directory/$name-" | tee "$directory/$name.txt"
  echo
}

# The same, with a title for its pictures.
draw() {
  local name=$1 title=$2
  shift 2
  run "$name" "$@"
  command -v gnuplot >/dev/null || return 0
  gnuplot -e "prefix = '$directory/$name-'; heading = '$title'" "$here/herd.gp"
}

half=$((links / 20))
draw kill 'the process is killed, the port refuses' --loss=kill
draw crash 'the host is gone, silence' --loss=crash
draw slow 'killed, and the server is half as fast' --loss=kill --accept-rate="$half"
draw shed 'killed, half as fast, and it hangs up on whom it cannot serve in time' \
  --loss=kill --accept-rate="$half" --queue="$((half * 4))"
# Where slow begins.
for percent in 9 8 7 6; do
  run "edge-$percent" --loss=kill --accept-rate="$((links * percent / 100))" --policy=ours
done
# What the naive loop does for so long is known.
outage=10min
known=(--policy={exponential,equal,ours,cap5,cap60,wide})
run long-kill --loss=kill "${known[@]}"
run long-crash --loss=crash "${known[@]}"

if command -v gnuplot >/dev/null; then
  echo "herd: $directory/*.csv, *.svg"
else
  "$here/../check/skip.sh" herd 'the pictures: gnuplot is not installed: apt-get install gnuplot-nox'
fi
