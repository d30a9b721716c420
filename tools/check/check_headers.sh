#!/usr/bin/env bash
# Compiles each public header alone, with each compiler, with and without exceptions and RTTI.
#
#   check_headers.sh FLAGS COMPILER...
#
# Alone and twice: the first include shows that the header brings what it needs, the second that its guard
# holds. Only include/ is on the path, as it is for a user: a public header that needs src/ fails here.
set -euo pipefail
flags=$1
shift

mapfile -t headers < <(cd include && find holdfast -name '*.h' | sort)
((${#headers[@]} > 0)) || { echo 'check-headers: no headers in include/holdfast' >&2; exit 1; }

compile_one() {  # COMPILER|EXTRA|HEADER, one argument, as xargs gives it
  IFS='|' read -r compiler extra header <<<"$1"
  # shellcheck disable=SC2086  # flags are words
  if ! printf '#include <%s>\n#include <%s>\n' "$header" "$header" |
    $compiler -x c++ -fsyntax-only $CHECK_FLAGS -Iinclude $extra -; then
    echo "check-headers: <$header> does not compile alone: $compiler $extra" >&2
    return 1
  fi
}
export -f compile_one
export CHECK_FLAGS=$flags

jobs=()
skipped=0
for compiler in "$@"; do
  if ! command -v "${compiler%% *}" >/dev/null; then
    printf 'check-headers: SKIPPED for %s: it is not installed\n' "$compiler"
    skipped=1
    continue
  fi
  for header in "${headers[@]}"; do
    jobs+=("$compiler||$header" "$compiler|-fno-exceptions -fno-rtti|$header")
  done
done
((${#jobs[@]} > 0)) || exit 1
printf '%s\n' "${jobs[@]}" | xargs -d '\n' -n 1 -P "$(nproc)" bash -c 'compile_one "$1"' compile_one
echo "check-headers: ${#headers[@]} headers, ${#jobs[@]} compilations"
if ((skipped > 0)); then echo '1 passed, 0 failed, 1 skipped'; fi
