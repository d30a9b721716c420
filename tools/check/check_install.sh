#!/usr/bin/env bash
# Installs into a clean prefix, builds README's program from there as a user would, and uninstalls.
#
#   MAKE=make CXX=g++ check_install.sh URING
#
# The program is the first C++ block of README.md with a main. It is compiled and linked with nothing but what
# `pkg-config --static holdfast` says, and run against the installed echo server.
set -euo pipefail
uring=$1
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
fail() {
  echo "check-install: $*" >&2
  exit 1
}

$MAKE URING="$uring" PREFIX="$prefix/usr" DESTDIR= install >/dev/null
export PKG_CONFIG_PATH=$prefix/usr/lib/pkgconfig

header_count=0
for header in include/holdfast/*.h; do
  cmp -s "$header" "$prefix/usr/$header" || fail "$header is not installed"
  ((header_count += 1))
done
((header_count == $(find "$prefix/usr/include" -type f | wc -l))) || fail 'more headers installed than there are'

program=README.md
[[ -e README.md ]] && awk '
  /^```/ { if (inside) { if (block ~ /int main/) { printf "%s", block; exit } inside = 0 } else if (/^```(cpp|c\+\+)/) { inside = 1; block = "" } next }
  inside { block = block $0 "\n" }' README.md >"$prefix/program.cc"
if [[ ! -s $prefix/program.cc ]]; then
  fail 'README.md has no C++ program with a main'
fi
# shellcheck disable=SC2046,SC2086  # flags are words
$CXX -std=c++20 -Wall -Wextra -Werror $(pkg-config --cflags holdfast) "$prefix/program.cc" \
  $(pkg-config --static --libs holdfast) -o "$prefix/program" || fail "$program: its program does not build from the installed files"

# So does a test in a simulated world, and it runs.
cat >"$prefix/sim.cc" <<'END'
#include <holdfast/sim.h>
int main() {
  holdfast::SimWorld world;
  world.AddHost("host");
  world.RunFor(std::chrono::hours(24));
  return world.elapsed() == std::chrono::hours(24) ? 0 : 1;
}
END
# shellcheck disable=SC2046,SC2086  # flags are words
$CXX -std=c++20 -Wall -Wextra -Werror $(pkg-config --cflags holdfast_sim) "$prefix/sim.cc" \
  $(pkg-config --static --libs holdfast_sim) -o "$prefix/sim" || fail 'a program does not build with holdfast_sim'
"$prefix/sim" || fail 'a program with holdfast_sim does not run'

# README's program says hello to the installed echo server, prints the answer, closes, and ends by itself.
"$prefix/usr/bin/holdfast-echod" 127.0.0.1:0 >"$prefix/server" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -rf "$prefix"' EXIT
for ((i = 0; i < 100; ++i)); do
  address=$(sed -n 's/^listening on //p' "$prefix/server")
  [[ -z $address ]] || break
  read -rt 0.1 <><(:) || true
done
[[ -n $address ]] || fail 'holdfast-echod does not say where it listens'
status=0
answer=$(timeout 20 "$prefix/program" "$address" </dev/null | head -n 1) || status=$?
[[ $status == 0 && $answer == hello ]] || fail "$program: its program answered '$answer' with status $status"
kill "$server" && wait "$server" || fail 'holdfast-echod did not end well'

for tool in holdfast-echo holdfast-echod; do
  [[ -x $prefix/usr/bin/$tool ]] || fail "$tool is not installed"
  "$prefix/usr/bin/$tool" --help >/dev/null || fail "$tool --help fails"
done

$MAKE URING="$uring" PREFIX="$prefix/usr" DESTDIR= uninstall >/dev/null
left=$(find "$prefix/usr" -type f -o -path '*/holdfast' | head)
[[ -z $left ]] || fail "left behind by uninstall: $left"

# DESTDIR stages a package: the files lie below it, and their own paths do not know of it.
$MAKE URING="$uring" PREFIX=/usr DESTDIR="$prefix/stage" install >/dev/null
[[ -e $prefix/stage/usr/lib/libholdfast.a ]] || fail 'DESTDIR is not honoured'
if grep -q "$prefix" "$prefix/stage/usr/lib/pkgconfig/holdfast.pc"; then fail 'holdfast.pc names DESTDIR'; fi
$MAKE URING="$uring" PREFIX=/usr DESTDIR="$prefix/stage" uninstall >/dev/null
left=$(find "$prefix/stage" -type f | head)
[[ -z $left ]] || fail "left behind by uninstall: $left"
echo "check-install: $header_count headers, the library, two programs; README's program builds and runs"
