#!/usr/bin/env python3
"""Draws mutants of the library from a seed, as patches: one small change each, of the kind that a tired hand makes.

    draw_mutants.py --seed=1 --count=200 --out=build/mutants/drawn

Operators, each over every place where it applies in src/machine, src/backend and src/net:
  negate   the condition of an `if` or of a `?:`
  drop     a statement that is an assignment or a call (HOLDFAST_CHECK apart: it only tells)
  offbyone an integer literal, a comparison that forgets or gains its `=`
  swap     an enumerator for another one of its enum

An operator is drawn first, then a place, so that all four are drawn as often. The text of a file alone is looked at:
what does not compile is for the caller to skip, so twice as many are drawn as are asked for.
"""
import argparse
import difflib
import pathlib
import random
import re

FOLDERS = ("src/machine", "src/backend", "src/net")
NOT_CODE = re.compile(r"^\s*(//|#|static_assert|HOLDFAST_CHECK|namespace|using|template|enum|class|struct|friend)")


def mask(line):
    """The line with comments and strings blanked, so that columns stay what they are."""
    line = re.sub(r'"(\\.|[^"\\])*"', lambda m: '"' + " " * (len(m.group()) - 2) + '"', line)
    return re.sub(r"//.*", lambda m: " " * len(m.group()), line)


def closing(text, at):
    """Where the parenthesis that opens at `at` closes; -1: not in this text."""
    depth = 0
    for i in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    return -1


def negations(line):
    code = mask(line)
    for found in re.finditer(r"\bif (?:constexpr )?\(", code):
        end = closing(code, found.end() - 1)
        condition = line[found.end():end]
        if end < 0 or "constexpr" in found.group() or ";" in code[found.end():end]:
            continue
        yield line[: found.end()] + "!(" + condition + ")" + line[end:]
    found = re.match(r"^(\s*(?:return|[\w.>\-]+ =) )([^?;]+)( \? .*)$", code)
    if found:
        condition = line[len(found.group(1)):len(found.group(1)) + len(found.group(2))]
        yield line[: len(found.group(1))] + "!(" + condition + ")" + line[found.end(2):]


def drops(line):
    code = mask(line).rstrip()
    if re.match(r"^\s+[\w:>.\-\[\]\(\)*]+ (=|\+=|-=|\|=|&=) [^{}]*;$", code) or \
       re.match(r"^\s+(\+\+|--)[\w.>\-]+;$", code) or \
       re.match(r"^\s+[\w:>.\-]+\([^{}]*\);$", code):
        if code.count("(") == code.count(")") and not re.match(r"^\s+(return|delete|const|auto)\b", code):
            yield re.match(r"^\s*", line).group() + ";\n"


def off_by_ones(line):
    code = mask(line)
    for found in re.finditer(r"(?<![\w.'])(\d+)(?![\w.'])", code):
        yield line[: found.start()] + str(int(found.group()) + 1) + line[found.end():]
    for found in re.finditer(r" (<=|>=|<|>) ", code):
        if "template" in code or "operator" in code:
            continue
        sign = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}[found.group(1)]
        yield line[: found.start(1)] + sign + line[found.end(1):]


def enumerators():
    of = {}
    for path in sorted(pathlib.Path(".").glob("include/holdfast/*.h")) + sorted(pathlib.Path("src").glob("*/*.h")):
        if "sim" in path.parts:
            continue
        text = re.sub(r"//[^\n]*", "", path.read_text())
        for name, body in re.findall(r"enum class (\w+)[^{;]*\{([^}]*)\}", text):
            of.setdefault(name, [e.split("=")[0].strip() for e in body.split(",") if e.strip()])
    return of


def swaps(line, of):
    for found in re.finditer(r"\b(\w+)::(k\w+)", mask(line)):
        if re.match(r"^\s*case\b", line):
            continue
        for other in of.get(found.group(1), []):
            if other != found.group(2) and found.group(2) in of[found.group(1)]:
                yield line[: found.start(2)] + other + line[found.end(2):]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()

    of = enumerators()
    places = {"negate": [], "drop": [], "offbyone": [], "swap": []}
    for folder in FOLDERS:
        for path in sorted(pathlib.Path(folder).glob("*.cc")) + sorted(pathlib.Path(folder).glob("*.h")):
            lines = path.read_text().splitlines(keepends=True)
            for number, line in enumerate(lines):
                if NOT_CODE.match(line):
                    continue
                for name, changed in (("negate", negations(line)), ("drop", drops(line)),
                                      ("offbyone", off_by_ones(line)), ("swap", swaps(line, of))):
                    places[name].extend((path, number, new) for new in changed)

    # random.Random(n).random() is the same on every machine and version; choice and shuffle need not be.
    chance = random.Random(options.seed)
    below = lambda bound: int(chance.random() * bound)
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("*.patch"):
        old.unlink()
    drawn = 0
    while drawn < 2 * options.count and any(places.values()):
        name = sorted(places)[below(len(places))]
        if not places[name]:
            continue
        path, number, new = places[name].pop(below(len(places[name])))
        lines = path.read_text().splitlines(keepends=True)
        changed = lines[:number] + [new] + lines[number + 1:]
        patch = "".join(difflib.unified_diff(lines, changed, f"a/{path}", f"b/{path}"))
        drawn += 1
        text = f"{name} {path}:{number + 1}: {lines[number].strip()} -> {new.strip()}\n\n"
        (options.out / f"{drawn:03d}_{name}.patch").write_text(text + patch)
    if drawn < options.count:
        raise SystemExit(f"draw_mutants.py: {drawn} places in {', '.join(FOLDERS)}, not {options.count}")
    print(f"{drawn} patches from seed {options.seed}, of " +
          ", ".join(f"{len(v)} {k}" for k, v in sorted(places.items())) + " more places")


if __name__ == "__main__":
    main()
