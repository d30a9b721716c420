#!/usr/bin/env bash
# Does the swarm find anything? Each patch of tests/mutants breaks one promise of the library; the swarm,
# built with it, must fail. `make mutants`; MUTANTS='01*' narrows it, SEEDS=2000 is how far it looks.
#
# The tree is copied once; each patch is applied to the copy, what it touches is compiled again, and taken
# back. Last line: `N passed, N failed`, a mutant that is killed being a pass.
set -uo pipefail
build=${1:?usage: mutants.sh BUILD}
seeds=${SEEDS:-2000}
tree=$build/mutants/tree
mkdir -p "$tree"
git ls-files -z include src tools Makefile | xargs -0 cp --parents -u -t "$tree"
make() { command make -C "$tree" BUILD=out -j"$(nproc)" out/bin/holdfast-sim; }

echo 'building without a mutant'
make >"$build/mutants/build.log" 2>&1 || { tail -5 "$build/mutants/build.log"; exit 1; }

passed=0 failed=0
for patch in tests/mutants/${MUTANTS:-*}.patch; do
  name=$(basename "$patch" .patch)
  if ! patch -s -p1 -d "$tree" <"$patch"; then
    printf '%-36s DOES NOT APPLY\n' "$name"
    failed=$((failed + 1))
    continue
  fi
  if ! make >"$build/mutants/$name.log" 2>&1; then
    printf '%-36s DOES NOT COMPILE (%s)\n' "$name" "$build/mutants/$name.log"
    failed=$((failed + 1))
  else
    # A few seeds kill most: those that live are looked at for longer each time.
    killed=
    for ((first = 1, count = 20; first <= seeds && ${#killed} == 0; first += count, count *= 4)); do
      ((count > seeds - first + 1)) && count=$((seeds - first + 1))
      out=$("$tree/out/bin/holdfast-sim" --first=$first --seeds=$count --jobs="$(nproc)" 2>&1) ||
        killed=$(grep -m1 -A1 '^seed ' <<<"$out" | tr -s '\n ' ' ')
    done
    if [[ -n $killed ]]; then
      printf '%-36s killed: %s\n' "$name" "$killed"
      passed=$((passed + 1))
    else
      printf '%-36s SURVIVED %s seeds\n' "$name" "$seeds"
      failed=$((failed + 1))
    fi
  fi
  patch -s -R -p1 -d "$tree" <"$patch"
done
echo "$passed passed, $failed failed"
((failed == 0))
