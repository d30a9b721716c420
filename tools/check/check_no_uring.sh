#!/usr/bin/env bash
# The epoll-only build owes nothing to liburing: check_no_uring.sh LIBRARY [PROGRAM...]
set -euo pipefail
library=$1
shift

if nm -u "$library" | grep -E ' _*io_uring_'; then
  echo "check-epoll: $library calls liburing" >&2
  exit 1
fi
for program in "$@"; do
  if readelf -d "$program" | grep 'NEEDED.*liburing'; then
    echo "check-epoll: $program is linked with liburing" >&2
    exit 1
  fi
done
echo "check-epoll: $library and $# programs without liburing"
