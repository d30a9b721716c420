#!/usr/bin/env bash
# Does the swarm find anything? A mutant is a patch that breaks the library; the swarm, built with it, must
# fail.
#
#   mutants.sh BUILD named    those of tests/mutants: each breaks one promise. MUTANTS='01*' narrows it
#   mutants.sh BUILD kernel   those of tests/mutants/kernel: each takes away what guards against one surprise of the
#                             kernel, and names the tests that must fail. MUTANTS='so_*' narrows it
#   mutants.sh BUILD drawn    DRAW=200 drawn by draw_mutants.py from DRAW_SEED=1, not counting those that do not
#                             compile
#   mutants.sh BUILD tests    the survivors of `drawn`, with the same DRAW, held against the other tests.
#                             SUITES="machine net" narrows it
#
# SEEDS=2000 is how far the swarm looks, JOBS how many mutants are looked at beside each other, each in a
# copy of the tree of its own. Last line: `N passed, N failed`, a mutant that is killed being a pass; status
# 1 when one survives. Status 2 when nothing can be said: what judges the mutants must build, and find nothing
# wrong, where nothing is broken.
set -uo pipefail
build=${1:?usage: mutants.sh BUILD named|kernel|drawn|tests}
mode=${2:-named}
seeds=${SEEDS-2000}
jobs=${JOBS-$(nproc)}
draw=${DRAW-200}
out=$build/mutants
unset HOLDFAST_SEED  # One seed is no swarm.

die() {
  printf 'mutants.sh: %s\n' "$*" >&2
  exit 2
}
for number in "$seeds" "$jobs" "$draw"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || die "SEEDS, JOBS and DRAW are whole numbers, not '$number'"
done
mkdir -p "$out" || exit 2

# copy N: the tree that worker N patches. What is the same stays as old as it is, so that it is not built anew.
copy() {
  local tree=$out/tree-$1 file sources=(include src tools tests Makefile)
  mkdir -p "$tree" || return
  find "${sources[@]}" -type f | sort >"$tree.files" || return
  while read -r file; do
    cmp -s "$file" "$tree/$file" || cp --parents -t "$tree" "$file" || return
  done <"$tree.files"
  # What is gone here, or was left by a patch.
  (cd "$tree" && find "${sources[@]}" -type f | sort) | comm -13 "$tree.files" - |
    while read -r file; do rm "$tree/$file" || return; done
}

# mutate TREE PATCH TARGET...: whether the targets can be made with the patch. What it breaks beside the promise (a variable that nobody uses any more) is no error.
# restore TREE PATCH takes it back.
mutate() {
  local tree=$1 patch=$2
  shift 2
  patch --dry-run -s -f -p1 -d "$tree" <"$patch" >&2 || die "$patch does not apply"
  patch -s -f -p1 -d "$tree" <"$patch" || die "$patch does not apply"
  build_in "$tree" "$@"
}
build_in() {
  local tree=$1
  shift
  make -C "$tree" BUILD=out CXXFLAGS='-Wno-error' "$@" >"$tree.log" 2>&1
}
restore() { patch -s -f -R -p1 -d "$1" <"$2" || die "$1 keeps $2"; }
# build_clean TREE TARGET...: before the first patch, so that a build that fails later says something of it.
build_clean() {
  build_in "$@" && return
  tail -5 "$1.log" >&2
  die "$1 does not build as it is"
}

# swarm TREE PROCESSES: prints the first violation, and nothing when there is none. A few seeds kill most
# mutants; those that live are looked at for longer each time.
swarm() {
  local first count said status
  for ((first = 1, count = 20; first <= seeds; first += count, count *= 4)); do
    ((count > seeds - first + 1)) && count=$((seeds - first + 1))
    said=$("$1/out/bin/holdfast-sim" --first=$first --seeds=$count --jobs="$2" 2>/dev/null)
    status=$?
    ((status == 0)) && continue
    ((status == 1)) || die "$1/out/bin/holdfast-sim ends with status $status"
    # A leak that a process was told of at its end belongs to no seed.
    { grep -m1 -A1 '^seed ' <<<"$said" || head -n1 <<<"$said"; } | tr -s '\n ' ' '
    return
  done
}

# next COUNT FILE: a number that no other worker has got, until COUNT patches have compiled.
next() {
  (
    flock 9
    (($(grep -vc "$uncounted" "$2") < $1)) || exit 1
    wc -c <"$2.taken"  # From 0.
    printf . >>"$2.taken"
  ) 9>"$2.lock"
}

# look N COUNT PATCH...: worker N. A line for each that it took: name, verdict.
look() {
  local tree=$out/tree-$1 count=$2 i name killed verdict
  shift 2
  local patches=("$@")
  build_clean "$tree" out/bin/holdfast-sim
  while i=$(next "$count" "$results") && ((i < ${#patches[@]})); do
    name=$(basename "${patches[i]}" .patch)
    verdict='does not compile'
    if mutate "$tree" "${patches[i]}" out/bin/holdfast-sim; then
      killed=$(swarm "$tree" 1) || exit
      verdict=${killed:+killed: }${killed:-SURVIVED $seeds seeds}
    fi
    printf '%-36s %s\n' "$name" "$verdict" | tee -a "$results"
    restore "$tree" "${patches[i]}"
  done
}

# failing SUITE TREE: prints the first test that fails, and nothing when none does. Most of what a suite takes
# is waiting, so it is cut into pieces that wait beside each other.
failing() {
  local suite=$1 tree=$2 piece pieces=4
  for ((piece = 0; piece < pieces; ++piece)); do
    (cd "$tree" && GTEST_TOTAL_SHARDS=$pieces GTEST_SHARD_INDEX=$piece timeout 300 \
      "out/bin/${suite}_test" --gtest_fail_fast --gtest_brief=1 2>&1 || echo "[  FAILED  ] exit $?") &
  done | grep -m1 '^\[  FAILED  \]' | cut -c14-
}

# sound SUITE TREE: the suite is built, and nothing in it fails, where nothing is broken.
declare -A is_sound=()
sound() {
  local test
  [[ -n ${is_sound[$1]:-} ]] && return
  build_clean "$2" -j"$jobs" "out/bin/$1_test"
  test=$(failing "$1" "$2")
  [[ -z $test ]] || die "the suite $1 fails with the library as it is: $test"
  is_sound[$1]=yes
}

# test_survivors: which test kills what the swarm let live: those of the mutant's floor, and of the top floor.
test_survivors() {
  local tree=$out/tree-0 suite suites name patch test said
  copy 0 || die 'no copy of the tree'
  while read -r name _; do
    patch=$out/drawn/$name.patch
    suites=(${SUITES:-$(sed -n 's#^--- a/src/\([a-z]*\)/.*#\1#p' "$patch") net})
    said=
    for suite in "${suites[@]}"; do
      sound "$suite" "$tree"
      if mutate "$tree" "$patch" -j"$jobs" "out/bin/${suite}_test"; then
        test=$(failing "$suite" "$tree")
        said=${test:+killed by the suite $suite: $test}
      else
        said='killed by the compiler'
      fi
      restore "$tree" "$patch"
      [[ -n $said ]] && break
    done
    printf '%-36s %s\n' "$name" "${said:-SURVIVED the suites ${suites[*]}}"
  done < <(grep SURVIVED "$out/drawn.txt")
}

# guards TREE PATCH: the first test of those that the patch names which fails, or nothing.
guards() {
  local tree=$1 suite filter said
  read -r _ suite filter <"$2"
  said=$(cd "$tree" && timeout 300 "out/bin/${suite}_test" --gtest_fail_fast --gtest_filter="$filter" 2>&1)
  local status=$?
  grep -q '^\[==========\] Running [1-9]' <<<"$said" || die "$2 names no test"
  ((status == 0)) || { grep -m1 '^\[  FAILED  \]' <<<"$said" || echo "exit $status"; } | sed 's/^\[  FAILED  \] //; s/ (.*//; s/,.*//'
}

# kernel_mutants PATCH...: a line for each.
kernel_mutants() {
  local tree=$out/tree-0 patch suite killed
  copy 0 || die 'no copy of the tree'
  # shellcheck disable=SC2046  # The suites are words.
  build_clean "$tree" -j"$jobs" $(sed -sn '1s#^Tests: \([a-z]*\) .*#out/bin/\1_test#p' "$@" | sort -u)
  for patch; do
    killed=$(guards "$tree" "$patch") || exit
    [[ -z $killed ]] || die "$killed fails with the library as it is"
  done
  for patch; do
    read -r _ suite _ <"$patch"
    if mutate "$tree" "$patch" -j"$jobs" "out/bin/${suite}_test"; then
      killed=$(guards "$tree" "$patch") || exit
      killed=${killed:+killed: }${killed:-SURVIVED its tests}
    else
      killed='does not compile'
    fi
    restore "$tree" "$patch"
    printf '%-36s %s\n' "$(basename "$patch" .patch)" "$killed"
  done
}

uncounted='does not compile'  # Another mutant takes the place of such a one.
results=$out/$mode.run
rm -f "$out/$mode.txt" "$results" "$results.taken"
case $mode in
  named)
    patches=(tests/mutants/${MUTANTS:-*}.patch)
    count=${#patches[@]}
    [[ -e ${patches[0]} ]] || die "there is no ${patches[0]}"
    uncounted='^$'  # There is no other: one that does not compile fails.
    ;;
  kernel)
    patches=(tests/mutants/kernel/${MUTANTS:-*}.patch)
    [[ -e ${patches[0]} ]] || die "there is no ${patches[0]}"
    kernel_mutants "${patches[@]}" | tee "$out/kernel.txt"
    ((PIPESTATUS[0] == 0)) || exit 2
    passed=$(grep -c ' killed: ' "$out/kernel.txt")
    echo "$passed passed, $((${#patches[@]} - passed)) failed"
    ((passed == ${#patches[@]}))
    exit
    ;;
  drawn)
    rm -f "$out/tests.txt"  # It is of other mutants.
    count=$draw
    python3 -B tools/swarm/draw_mutants.py --seed="${DRAW_SEED:-1}" --count="$count" --out="$out/drawn" || exit 2
    patches=("$out"/drawn/*.patch)
    ;;
  tests)
    [[ -f $out/drawn.txt ]] || die "there is no $out/drawn.txt: make it with 'drawn'"
    drawn=$(wc -l <"$out/drawn.txt")
    ((drawn == draw)) || die "$out/drawn.txt has $drawn mutants, not $draw: make them with 'drawn'"
    test_survivors | tee "$out/tests.txt" || exit 2
    survived=$(grep -c ' SURVIVED ' "$out/tests.txt")
    echo "$(($(wc -l <"$out/tests.txt") - survived)) passed, $survived failed"
    ((survived == 0))
    exit
    ;;
  *) die "what is $mode?" ;;
esac
: >"$results"
: >"$results.taken"
for ((worker = 0; worker < jobs; ++worker)); do copy "$worker" || die 'no copy of the tree'; done
build_clean "$out/tree-0" -j"$jobs" out/bin/holdfast-sim
said=$(swarm "$out/tree-0" "$jobs") || exit
[[ -z $said ]] || die "the swarm fails with the library as it is: $said"
workers=()
for ((worker = 0; worker < jobs; ++worker)); do
  look "$worker" "$count" "${patches[@]}" &
  workers+=($!)
done
for worker in "${workers[@]}"; do wait "$worker" || failed=yes; done
[[ -z ${failed:-} ]] || die 'a worker did not come to its end'
# Workers may have looked at some more in the end: the first that compile are those that were drawn.
sort "$results" | grep -v "$uncounted" | head -n "$count" >"$out/$mode.txt"
judged=$(wc -l <"$out/$mode.txt")
((judged == count)) || die "$judged of $count mutants were judged"
passed=$(grep -c ' killed: ' "$out/$mode.txt")
echo "$passed passed, $((count - passed)) failed"
((passed == count))
