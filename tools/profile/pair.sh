# shellcheck shell=bash disable=SC2034,SC2154
# Shared by strace.sh and perf.sh, which source it: starts and ends the echo pair.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
bin=${HOLDFAST_BIN:-build/bin}
out=${HOLDFAST_PROFILE:-build/profile}
me=$(basename "$0" .sh)
started=() # Processes to be ended with this one.

die() {
  echo "$me: $*" >&2
  exit 1
}

end_all() {
  local pid
  for pid in "${started[@]}"; do kill -KILL "$pid" 2>/dev/null; done
  wait 2>/dev/null
}
trap end_all EXIT
trap 'exit 130' INT TERM

command -v "$me" >/dev/null || die "$me is not installed: apt-get install $package"
[[ -x $bin/holdfast-echo && -x $bin/holdfast-echod ]] || die "no programs in $bin: run make, or set HOLDFAST_BIN"
mkdir -p "$out" || exit 1

# Waits until FILE has a line that matches PATTERN, ten seconds at most.
await_line() {
  local tries
  for ((tries = 0; tries < 500; ++tries)); do
    grep -q "$2" "$1" 2>/dev/null && return 0
    sleep 0.02
  done
  die "no '$2' in $1"
}

# start_server BACKEND ENDPOINT [COMMAND...]: a server, under COMMAND if there is one; sets server (what
# was started) and address.
start_server() {
  local backend=$1 endpoint=$2
  shift 2
  : >"$out/server.out"
  "$@" "$bin/holdfast-echod" --backend="$backend" "$endpoint" >"$out/server.out" 2>&1 &
  server=$!
  started+=("$server")
  await_line "$out/server.out" '^listening on '
  address=$(sed -n 's/^listening on //p' "$out/server.out")
}

# The program itself, where a tool was started with it as its child.
program_of() {
  local child
  child=$(cat "/proc/$1/task/$1/children" 2>/dev/null)
  echo "${child:-$1}"
}

# end PROCESS [SIGNAL]: ends what start_server or `&` started, and waits for it.
end() {
  kill "-${2:-TERM}" "$(program_of "$1")" 2>/dev/null
  wait "$1" 2>/dev/null
  return 0
}

# The backends that this machine has.
backends() {
  local backend
  for backend in epoll uring; do
    if "$bin/holdfast-echo" --backend="$backend" --quiet --duration=1ms --attempts_max=1 127.0.0.1:9 2>&1 |
      grep -q '^account '; then
      echo "$backend"
    else
      echo "$me: $backend is not to be had here" >&2
    fi
  done
}

# field NAME FILE: a number of the client's summary, as --json writes it.
field() { sed -n 's/.*"event":"summary".*"'"$1"'":\([0-9]*\).*/\1/p' "$2"; }

heading() {
  echo "$1"
  echo "$(date -u '+%Y-%m-%d %H:%M UTC'), Linux $(uname -r), $(nproc) cores, $("$bin/holdfast-echo" --version)"
}
