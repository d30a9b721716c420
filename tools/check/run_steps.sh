#!/usr/bin/env bash
# Runs commands one after the other, all of them whatever fails, and adds up what they counted.
#
#   run_steps.sh COMMAND...
#
# A command whose output has a line `N passed, N failed[, N skipped]` (the last such line) counts as that;
# any other counts as one, passed or failed by its exit status. A command that fails without having counted
# a failure adds one, so that nothing fails unseen. What failed stands once more at the end, in short: what a
# step listed below its own `FAILED (N):`, or its last lines where it has no such list. The last line of the
# output is the sum, in the same words, alone; the exit status is 0 only when something passed and nothing
# failed.
#
# Bash, because it is what runs before anything is installed; `make check` and .ci/run both use it.
set -uo pipefail

passed=0 failed=0 skipped=0
table=() failures=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

for command in "$@"; do
  printf '\n== %s\n' "$command"
  start=$SECONDS
  bash -c "$command" 2>&1 </dev/null | tee "$log"
  status=${PIPESTATUS[0]}
  p=0 f=0 s=0
  counted=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$log" | tail -n 1)
  if [[ $counted =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed(,\ ([0-9]+)\ skipped)?$ ]]; then
    p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]} s=${BASH_REMATCH[4]:-0}
    if ((status != 0 && f == 0)); then f=1; fi
  elif ((status == 0)); then
    p=1
  else
    f=1
  fi
  ((passed += p, failed += f, skipped += s))
  if ((f > 0)); then
    word=FAILED
    listed=$(awk '/^FAILED( \([0-9]+\))?:$/ { on = 1; next } !/^  / { on = 0 } on' "$log")
    mapfile -t -O ${#failures[@]} failures < <(if [[ $listed ]]; then echo "$listed"; else tail -n 5 "$log" | sed "s|^|  $command: |"; fi)
  elif ((s > 0 && p == 0)); then
    word=SKIPPED
  else
    word=ok
  fi
  table+=("$(printf '%-8s %5d passed %4d failed %4d skipped %5d s  %s' \
    "$word" "$p" "$f" "$s" $((SECONDS - start)) "$command")")
done

printf '\n'
printf '%s\n' "${table[@]}"
if ((${#failures[@]} > 0)); then
  mapfile -t failures < <(printf '%s\n' "${failures[@]}" | awk '!seen[$0]++')
  printf '\nFAILED:\n'
  printf '%s\n' "${failures[@]}"
fi
if ((skipped > 0)); then
  printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
else
  printf '%d passed, %d failed\n' "$passed" "$failed"
fi
((failed == 0 && passed > 0))
