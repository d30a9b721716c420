#!/usr/bin/env bash
# Shows a link that stays up, on each backend: a server and a client, the server is killed and comes back on
# its port, the link with it, and the client accounts for every message. Takes about ten seconds, needs
# nothing but bash and the two programs, and fails if the link did not come back or the account is wrong.
#
#   tools/demo.sh [BACKEND]...      uring and epoll by default; HOLDFAST_BIN says where the programs are
set -u
cd "$(dirname "$0")/.." || exit 1
bin=${HOLDFAST_BIN:-build/bin}
patience=10 # Seconds for anything that must happen; all of it takes a fraction of one.

server_pid='' client_pid='' server_fd='' client_fd=''
begin=${EPOCHREALTIME/[.,]/}

kill_all() {
  local pid
  for pid in $server_pid $client_pid; do kill -KILL "$pid" 2>/dev/null; done
  wait 2>/dev/null
}
trap kill_all EXIT
trap 'exit 130' INT TERM

# say WHO TEXT: one line of the timeline. The programs' own clocks give way to ours.
say() {
  local text=$2 now=${EPOCHREALTIME/[.,]/}
  [[ $text =~ ^\ *[0-9]+\.[0-9]+\ s\ \ (.*)$ ]] && text=${BASH_REMATCH[1]}
  printf '%3d.%03d s  %-6s  %s\n' $(((now - begin) / 1000000)) $(((now - begin) / 1000 % 1000)) "$1" "$text"
}

fail() {
  say demo "FAILED: $1"
  exit 1
}

# await WHO FD PATTERN: tells its lines up to the first that matches, which is left in $line.
await() {
  local end=$((SECONDS + patience))
  while ((SECONDS < end)); do
    IFS= read -r -t "$patience" -u "$2" line || return 1
    say "$1" "$line"
    [[ $line == *' up '* ]] && ((ups += 1))
    [[ $line =~ $3 ]] && return 0
  done
  return 1
}

# Tells what the client says for so many seconds.
watch_client() {
  local end=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000)) left
  while left=$((end - ${EPOCHREALTIME/[.,]/})) && ((left > 0)); do
    IFS= read -r -t "$((left / 1000000)).$(printf %06d $((left % 1000000)))" -u "$client_fd" line || continue
    say client "$line"
  done
}

# Starts a server on $address, which is then the address that it got.
start_server() {
  [[ -z $server_fd ]] || exec {server_fd}<&-
  exec {server_fd}< <(exec "$bin/holdfast-echod" --backend="$backend" "$address" 2>&1)
  server_pid=$!
  await server "$server_fd" '^listening on (.*)$' && address=${BASH_REMATCH[1]}
}

# Ends a program by a signal and leaves its exit status in $status.
end() {
  kill "-$2" "$1"
  wait "$1" 2>/dev/null
  status=$?
}

show() {
  backend=$1 address=127.0.0.1:0 ups=0
  printf '\n== %s\n' "$backend"
  if ! start_server; then
    wait "$server_pid"
    # Status 1 is what it says when it cannot begin; anything else is no reason to go on.
    if (($? == 1)) && [[ $backend == uring ]]; then
      say demo 'io_uring is not to be had here; going on without it'
      return 0
    fi
    fail 'the server does not start'
  fi

  [[ -z $client_fd ]] || exec {client_fd}<&-
  exec {client_fd}< <(exec "$bin/holdfast-echo" --backend="$backend" --rate=20 "$address" 2>&1)
  client_pid=$!
  await client "$client_fd" ' up ' || fail 'the client does not come up'
  watch_client 1

  say demo 'the server is killed'
  end "$server_pid" KILL
  await client "$client_fd" ' down ' || fail 'the client does not notice that its server is gone'
  for _ in 1 2 3 4; do
    await client "$client_fd" ' failed ' || fail 'the client does not dial again'
  done

  say demo 'the server is started again, on the same port'
  start_server || fail 'the server does not start on its port'
  await client "$client_fd" ' up ' || fail 'the client does not come back'
  watch_client 1

  say demo 'the client is interrupted (Ctrl-C)'
  kill -INT "$client_pid"
  await client "$client_fd" '^account ' || fail 'the client does not account for its messages'
  [[ $line == *' adds up' ]] || fail 'the account does not add up'
  wait "$client_pid"
  status=$?
  client_pid=''
  ((status == 0)) || fail "the client ended with status $status"
  ((ups == 2)) || fail "the client came up $ups times, not twice"
  end "$server_pid" TERM
  server_pid=''
  ((status == 0)) || fail "the server ended with status $status"
  say demo "$backend: the link came back, and every message is accounted for"
}

(($# > 0)) || set -- uring epoll
for backend; do
  show "$backend"
done
