#!/usr/bin/env bash
# Installs what a fresh Debian 12 (or Ubuntu) lacks, and nothing that is there already, then runs `make TARGET`.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: tools/bootstrap.sh TARGET [MAKE OPTION]...

Installs with apt-get the packages that `make TARGET` needs and that are missing here (with sudo
where the user is not root), then runs it on all cores.

  tools/bootstrap.sh demo          a server dies and comes back, and the link with it
  tools/bootstrap.sh test          the tests
  tools/bootstrap.sh check         the tests under sanitizers, and everything else that is checked
  tools/bootstrap.sh all URING=0   any target and variable of the Makefile; `make help` lists them
EOF
}

say() { printf 'bootstrap: %s\n' "$*"; }

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  '' | -*) usage >&2; exit 2 ;;
esac
target=$1
shift
cd "$(dirname "$0")/.."

# What each target needs beyond the one before it.
packages=(g++ make pkg-config liburing-dev libabsl-dev)
testing=(libgtest-dev libgmock-dev  # the tests
  python3                           # their runner, the checks
  iproute2 nftables                 # networks that break
  strace procps binutils)           # what the tests look at processes and objects with
checking=(clang clang-format libclang-rt-14-dev patch)
case $target in
  all | lib | demo | install | uninstall | clean | help) ;;
  herd) packages+=(gnuplot-nox) ;;  # its pictures
  check | check-* | format | fuzz | fuzz-*) packages+=("${testing[@]}" "${checking[@]}") ;;
  coverage) packages+=("${testing[@]}" clang llvm) ;;
  mutants | mutants-*) packages+=("${testing[@]}" git patch) ;;
  tidy) packages+=("${checking[@]}" clang-tidy) ;;
  *) packages+=("${testing[@]}") ;;
esac

# Says one line for each step; what apt-get itself has to say is shown when it fails.
as_root=()
apt_get() {
  local log
  say "${as_root[*]:+${as_root[*]} }apt-get $*"
  log=$(mktemp)
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -o Acquire::Retries=3 "$@" </dev/null >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    say "apt-get $1 failed" >&2
    exit 1
  fi
  rm -f "$log"
}

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
  lacking=()
  for package in "${packages[@]}"; do
    installed "$package" || lacking+=("$package")
  done
  if ((${#lacking[@]} > 0)); then
    if ((EUID != 0)); then
      if ! command -v sudo >/dev/null; then
        say "not root and no sudo; as root run: apt-get install ${lacking[*]}" >&2
        exit 1
      fi
      as_root=(sudo)
    fi
    apt_get update
    apt_get install -y --no-install-recommends "${lacking[@]}"
  else
    say 'every package is there'
  fi
else
  say "no apt-get here; make says what is missing of: ${packages[*]}"
fi

say "make $target${*:+ $*}"
exec make -j"$(nproc)" "$target" "$@"
