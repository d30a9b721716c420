#!/usr/bin/env bash
# Counts the system calls of the echo pair: under load, and through a restart of the server, on each backend.
#
#   tools/profile/strace.sh        the report: build/profile/strace.txt; how to read it: docs/profiling.md
#
# HOLDFAST_BIN says where the programs are (build/bin), HOLDFAST_PROFILE where the report goes (build/profile).
set -u
package=strace
. "$(dirname "$0")/pair.sh"
report=$out/strace.txt

# row BACKEND PHASE WHO ECHOES FILE: one line from the table of `strace -c`.
row() {
  awk -v backend="$1" -v phase="$2" -v who="$3" -v echoes="$4" '
    $1 ~ /^[0-9.]+$/ && $NF != "total" { calls[$NF] = $4; all += $4 }
    END {
      printf "%-6s  %-20s  %-6s  %7d  %7d  ", backend, phase, who, echoes, all
      if (echoes > 0) printf "%6.2f ", all / echoes; else printf "%6s ", "-"
      for (i = 0; i < 4; ++i) {
        best = ""
        for (name in calls) if (best == "" || calls[name] > calls[best]) best = name
        if (best == "") break
        printf " %s %d%s", best, calls[best], i < 3 ? "," : ""
        delete calls[best]
      }
      printf "\n"
    }' "$5"
}

# load BACKEND LINKS COUNT: both sides at once, so neither run pays for a second one.
load() {
  local backend=$1 links=$2 count=$3 phase
  phase="$2 links, 64 B"
  ((links == 1)) && phase='1 link, 64 B'
  start_server "$backend" 127.0.0.1:0 strace -f -c -o "$out/server.count"
  "$bin/holdfast-echo" --backend="$backend" --json --rate=0 --connections="$links" --count="$count" "$address" \
    >"$out/client.out" || die "the load fails: $(tail -1 "$out/client.out")"
  end "$server"
  row "$backend" "$phase" server "$(field echoed "$out/client.out")" "$out/server.count"

  start_server "$backend" 127.0.0.1:0
  strace -f -c -o "$out/client.count" "$bin/holdfast-echo" --backend="$backend" --json --rate=0 \
    --connections="$links" --count="$count" "$address" >"$out/client.out" || die 'the load fails'
  end "$server"
  row "$backend" "$phase" client "$(field echoed "$out/client.out")" "$out/client.count"
}

# A client that loses its server and gets it back; then, call by call, what it did between the two.
restart() {
  local backend=$1 client
  start_server "$backend" 127.0.0.1:0
  strace -f -c -o "$out/client.count" "$bin/holdfast-echo" --backend="$backend" --json --rate=100 \
    --backoff_max=200ms "$address" >"$out/client.out" &
  client=$!
  started+=("$client")
  await_line "$out/client.out" '"event":"up"'
  sleep 0.5
  end "$server" KILL
  await_line "$out/client.out" '"event":"dial_failed".*"attempt":4'
  start_server "$backend" "$address"
  await_line "$out/client.out" '"event":"up".*"attempt":[2-9]'
  sleep 0.5
  end "$client" INT
  end "$server"
  [[ $(field ups "$out/client.out") == 2 ]] || die "the client did not come back: $(tail -1 "$out/client.out")"
  row "$backend" 'server restarted' client "$(field echoed "$out/client.out")" "$out/client.count"
}

{
  heading 'System calls of the echo pair (strace -c -f); start and end of each program included'
  echo
  echo 'backend phase                 who      echoes    calls  a echo  most frequent'
  for backend in $(backends); do
    load "$backend" 1 10000
    load "$backend" 32 1000
    restart "$backend"
  done
} >"$report.new" || exit 1
mv "$report.new" "$report"
rm -f "$out"/{server,client}.{out,count}
cat "$report"
echo "written to $report"
