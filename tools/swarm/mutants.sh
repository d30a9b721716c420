#!/usr/bin/env bash
# Does the swarm find anything? A mutant is a patch that breaks the library; the swarm, built with it, must
# fail.
#
#   mutants.sh BUILD named    those of tests/mutants: each breaks one promise. MUTANTS='01*' narrows it
#   mutants.sh BUILD drawn    DRAW=200 drawn by draw_mutants.py from DRAW_SEED=1, not counting those that do not
#                             compile
#   mutants.sh BUILD tests    the survivors of `drawn`, held against the other tests: SUITES="machine net"
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

# look N COUNT PATCH...: worker N, until COUNT of them have compiled. A line for each: name, verdict.
look() {
  local worker=$1 tree=$out/tree-$1 left=$2 patch name killed
  shift 2
  copy "$worker"
  build_in "$tree" out/bin/holdfast-sim >"$tree.log" 2>&1 || { tail -5 "$tree.log" >&2; return 1; }
  for patch in "$@"; do
    ((left > 0)) || return 0
    name=$(basename "$patch" .patch)
    if mutate "$tree" "$patch" out/bin/holdfast-sim; then
      left=$((left - 1))
      killed=$(swarm "$tree")
      printf '%-36s %s\n' "$name" "${killed:+killed: }${killed:-SURVIVED $seeds seeds}"
    else
      printf '%-36s does not compile\n' "$name"
    fi
    restore "$tree" "$patch"
  done
}

# test_survivors SUITE...: which test kills what the swarm let live.
test_survivors() {
  local tree=$out/tree-0 suite name patch said
  copy 0
  while read -r name _; do
    patch=$(echo "$out"/drawn/"$name".patch)
    said=
    for suite in "$@"; do
      if mutate "$tree" "$patch" -j"$jobs" "out/bin/${suite}_test"; then
        said=$(cd "$tree" && timeout 300 "out/bin/${suite}_test" --gtest_fail_fast --gtest_brief=1 2>&1) ||
          said="killed by the suite $suite: $(grep -m1 -o '^\[  FAILED  \] [^ ,]*' <<<"$said" | cut -c14-)"
      fi
      restore "$tree" "$patch"
      [[ $said == killed* ]] && break
      said=
    done
    printf '%-36s %s\n' "$name" "${said:-SURVIVED the suites $*}"
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
    test_survivors ${SUITES:-machine backend net} | tee "$out/tests.txt"
    exit
    ;;
esac
for ((worker = 0; worker < jobs; ++worker)); do
  mine=()
  for ((i = worker; i < ${#patches[@]}; i += jobs)); do mine+=("${patches[i]}"); done
  look "$worker" $(((count - worker + jobs - 1) / jobs)) "${mine[@]}" &
done | tee "$out/$mode.txt"
passed=$(grep -c ' killed: ' "$out/$mode.txt")
echo "$passed passed, $((count - passed)) failed"
((passed == count))
