#!/usr/bin/env bash
# Does the swarm find anything? A mutant is a patch that breaks the library; the swarm, built with it, must
# fail.
#
#   mutants.sh BUILD named    those of tests/mutants: each breaks one promise. MUTANTS='01*' narrows it
#   mutants.sh BUILD drawn    DRAW=200 drawn by draw_mutants.py from DRAW_SEED=1, not counting those that do not
#                             compile
#   mutants.sh BUILD tests    the survivors of `drawn`, held against the other tests. SUITES="machine net"
#                             narrows it
#
# SEEDS=2000 is how far the swarm looks, JOBS how many mutants are looked at beside each other, each in a
# copy of the tree of its own. Last line: `N passed, N failed`, a mutant that is killed being a pass.
set -uo pipefail
build=${1:?usage: mutants.sh BUILD named|drawn|tests}
mode=${2:-named}
seeds=${SEEDS:-2000}
jobs=${JOBS:-$(nproc)}
out=$build/mutants
mkdir -p "$out"

# copy N: the tree that worker N patches. What is the same stays as old as it is, so that it is not built anew.
copy() {
  local file
  mkdir -p "$out/tree-$1"
  git ls-files include src tools tests Makefile | while read -r file; do
    cmp -s "$file" "$out/tree-$1/$file" || cp --parents -t "$out/tree-$1" "$file"
  done
}

# mutate TREE PATCH TARGET...: 0 when the targets are made with the patch. What it breaks beside the promise
# (a variable that nobody uses any more) is no error. restore TREE PATCH takes it back.
mutate() {
  local tree=$1 patch=$2
  shift 2
  patch -s -p1 -d "$tree" <"$patch" && build_in "$tree" "$@" >"$tree.log" 2>&1
}
build_in() {
  local tree=$1
  shift
  make -C "$tree" BUILD=out CXXFLAGS='-Wno-error' "$@"
}
restore() { patch -s -R -p1 -d "$1" <"$2"; }

# swarm TREE: prints the first violation, and nothing when there is none. A few seeds kill most mutants;
# those that live are looked at for longer each time.
swarm() {
  local first count said
  for ((first = 1, count = 20; first <= seeds; first += count, count *= 4)); do
    ((count > seeds - first + 1)) && count=$((seeds - first + 1))
    said=$("$1/out/bin/holdfast-sim" --first=$first --seeds=$count --jobs=1 2>/dev/null) && continue
    grep -m1 -A1 '^seed ' <<<"$said" | tr -s '\n ' ' '
    return
  done
}

# next COUNT FILE: a number that no other worker has got, until COUNT patches have compiled.
next() {
  (
    flock 9
    (($(grep -vc 'does not compile' "$2") < $1)) || exit 1
    wc -c <"$2.taken"  # From 0.
    printf . >>"$2.taken"
  ) 9>"$2.lock"
}

# look N COUNT PATCH...: worker N. A line for each that it took: name, verdict.
look() {
  local worker=$1 count=$2 tree=$out/tree-$1 i name killed
  shift 2
  local patches=("$@")
  copy "$worker"
  build_in "$tree" out/bin/holdfast-sim >"$tree.log" 2>&1 || { tail -5 "$tree.log" >&2; return 1; }
  while i=$(next "$count" "$results") && ((i < ${#patches[@]})); do
    name=$(basename "${patches[i]}" .patch)
    if mutate "$tree" "${patches[i]}" out/bin/holdfast-sim; then
      killed=$(swarm "$tree")
      printf '%-36s %s\n' "$name" "${killed:+killed: }${killed:-SURVIVED $seeds seeds}"
    else
      printf '%-36s does not compile\n' "$name"
    fi | tee -a "$results"
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

# test_survivors: which test kills what the swarm let live: those of the mutant's floor, and of the top floor.
test_survivors() {
  local tree=$out/tree-0 suite suites name patch test said
  copy 0
  while read -r name _; do
    patch=$out/drawn/$name.patch
    suites=(${SUITES:-$(sed -n 's#^--- a/src/\([a-z]*\)/.*#\1#p' "$patch") net})
    said=
    for suite in "${suites[@]}"; do
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

case $mode in
  named)
    patches=(tests/mutants/${MUTANTS:-*}.patch)
    count=${#patches[@]}
    ;;
  drawn)
    count=${DRAW:-200}
    python3 -B tools/swarm/draw_mutants.py --seed="${DRAW_SEED:-1}" --count="$count" --out="$out/drawn" || exit 1
    patches=("$out"/drawn/${MUTANTS:-*}.patch)
    ;;
  tests)
    test_survivors | tee "$out/tests.txt"
    ! grep SURVIVED -q "$out/tests.txt"
    exit
    ;;
esac
results=$out/$mode.txt
: >"$results"
: >"$results.taken"
for ((worker = 0; worker < jobs; ++worker)); do look "$worker" "$count" "${patches[@]}" & done
wait
# Workers may have looked at some more in the end: the first that compile are those that were drawn.
sort -o "$results" "$results"
judged=$(grep -v 'does not compile' "$results" | head -n "$count")
passed=$(grep -c ' killed: ' <<<"$judged")
echo "$passed passed, $((count - passed)) failed"
((passed == count))
