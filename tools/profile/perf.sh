#!/usr/bin/env bash
# Samples where the echo pair spends its time: under load, and through restarts of the server, on each backend.
#
#   tools/profile/perf.sh          the report: build/profile/perf.txt; how to read it: docs/profiling.md
#
# The recordings stay beside it, for `perf report`. cpu-clock works in virtual machines too, where there are no
# hardware counters. HOLDFAST_BIN and HOLDFAST_PROFILE as in strace.sh.
set -u
package=linux-perf
. "$(dirname "$0")/pair.sh"
report=$out/perf.txt

# record NAME PROCESS: samples a process until `end` of the sampler.
record() {
  rm -f "$out/$1.data"
  perf record -q -e cpu-clock -F 2000 -g -o "$out/$1.data" -p "$2" >/dev/null 2>"$out/perf.err" &
  sampler=$!
  started+=("$sampler")
}

# part COUNT OPTION...: the first lines of a report, without its comments.
part() {
  local count=$1
  shift
  perf report --stdio --no-children -g none "$@" 2>/dev/null |
    sed -e '/^#/d; /^ *$/d; s/ *-  *- *$//; s/ *$//' | head -"$count"
}

# tell WHO PROGRAM NAME: who had the processor (kernel, program, C library), and in which functions.
tell() {
  local data=$out/$3.data
  echo
  echo "-- the $1: $data"
  part 4 -i "$data" --sort dso || die "perf: $(cat "$out/perf.err")"
  echo '   of it, in the program:'
  part 8 -i "$data" --sort symbol --dsos "$2"
  echo '   of it, in the kernel:'
  part 6 -i "$data" --sort symbol --dsos '[kernel.kallsyms]'
}

load() {
  local backend=$1 client
  start_server "$backend" 127.0.0.1:0
  "$bin/holdfast-echo" --backend="$backend" --json --rate=0 --connections=32 --duration=3s "$address" \
    >"$out/client.out" &
  client=$!
  started+=("$client")
  await_line "$out/client.out" '"event":"up"'
  record "$backend.server" "$server"
  local server_sampler=$sampler
  record "$backend.client" "$client"
  wait "$client" || die 'the load fails'
  end "$server"
  wait "$server_sampler" "$sampler"
  echo
  echo "== $backend: 32 links, 64 B, $(field echoed "$out/client.out") echoes in 3 s," \
    "round trip p50 $(field rtt_p50_us "$out/client.out") us"
  tell server holdfast-echod "$backend.server"
  tell client holdfast-echo "$backend.client"
}

# Many links that lose their server and get it back, three times: what coming back costs.
restart() {
  local backend=$1 client round
  : >"$out/client.out" # Emptied between the rounds, so the client appends.
  start_server "$backend" 127.0.0.1:0
  "$bin/holdfast-echo" --backend="$backend" --json --connections=500 --rate=1 --backoff_initial=10ms \
    --backoff_max=100ms "$address" >>"$out/client.out" &
  client=$!
  started+=("$client")
  record "$backend.restart" "$client"
  for round in 1 2 3; do
    await_line "$out/client.out" '"event":"up".*"link":499'
    end "$server" KILL
    await_line "$out/client.out" '"event":"dial_failed".*"link":499'
    : >"$out/client.out"
    start_server "$backend" "$address"
  done
  await_line "$out/client.out" '"event":"up".*"link":499'
  end "$client" INT
  end "$server"
  wait "$sampler"
  echo
  echo "== $backend: 500 links, the server killed and started again $round times," \
    "$(field ups "$out/client.out") ups, $(field dials "$out/client.out") dials"
  tell client holdfast-echo "$backend.restart"
}

{
  heading 'Where the echo pair spends its time (perf, cpu-clock)'
  for backend in $(backends); do
    load "$backend"
    restart "$backend"
  done
} >"$report.new" || exit 1
mv "$report.new" "$report"
rm -f "$out"/{server,client}.out "$out/perf.err"
cat "$report"
echo "written to $report"
