#!/usr/bin/env python3
"""What the tests of the library reach, by llvm-cov(1): a table, and every branch of the parts that decide.

  coverage.py PROFDATA OUT BINARY...

Writes OUT/library.txt (a line a file), OUT/branches.txt (what is not reached of the parts below) and prints a
summary. The parts of which every reachable branch must be reached are PARTS; docs/coverage.md lists what is
not reachable, a line each, and why. A branch that is neither reached nor listed there, and a line there that
is reached or gone, end this with status 1: so the list cannot rot.
"""
import json
import pathlib
import re
import subprocess
import sys

sys.dont_write_bytecode = True
import cpp_source

PARTS = {
    'classification': ['src/core/error.cc', 'src/core/error_table.cc', 'src/core/error_table.h',
                       'src/core/error_codes.h', 'src/machine/death.cc'],
    'retry policy': ['src/machine/retry_policy.cc', 'src/machine/backoff.cc'],
    'wheel': ['src/machine/timer_wheel.cc', 'src/machine/timer_wheel.h'],
    'liveness': ['src/machine/liveness.cc', 'src/machine/liveness.h'],
    'messages and account': ['src/machine/message_queue.cc', 'src/machine/message_queue.h', 'src/machine/account.cc'],
    'close path': ['src/net/connection.cc', 'src/net/connection.h'],
}
# What the compiler counts as a branch and is none: a switch that has a case for everything, a loop without
# end, a comparison that nobody wrote.
NO_BRANCH = re.compile(r'^switch \(|while \(true\)|= default;')
LIST = cpp_source.ROOT / 'docs/coverage.md'


def export(profdata, binaries):
  """The JSON of llvm-cov for the library's own files, all binaries taken together."""
  command = ['llvm-cov', 'export', f'-instr-profile={profdata}', binaries[0]]
  for binary in binaries[1:]:
    command += ['-object', binary]
  command += ['-ignore-filename-regex=(^|/)(tests|tools)/|/usr/|src/sim/|src/sys/fault_kernel']
  return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)['data'][0]


def in_repository(name):
  path = pathlib.Path(name)
  path = path if path.is_absolute() else cpp_source.ROOT / path
  try:
    return path.resolve().relative_to(cpp_source.ROOT).as_posix()
  except ValueError:
    return None


def missed_branches(file):
  """(line, side) of every branch side that no run took; an instance of a template counts for all."""
  taken = {}
  for branch in file['branches']:
    line, column, _, _, true_count, false_count = branch[:6]
    for side, count in (('true', true_count), ('false', false_count)):
      key = (line, column, side)
      taken[key] = taken.get(key, 0) + count
  return sorted({(line, column, side) for (line, column, side), count in taken.items() if not count})


def listed():
  """The lines `path`: `source text` side of docs/coverage.md."""
  if not LIST.exists():
    return set()
  return set(re.findall(r'^\| `([^`]+)` \| `([^`]+)` \| (true|false) \|', LIST.read_text(), re.M))


def rows_met(log):
  """What tests/sweep counted of the error table, by GoogleTest's report."""
  report = json.loads((log / 'sweep.json').read_text())
  for suite in report['testsuites']:
    for test in suite['testsuite']:
      if 'rows_met' in test:
        return {key: int(test[key]) for key in ('rows', 'rows_met', 'rows_unreachable', 'runs')}
  raise SystemExit(f'coverage: {log}/sweep.json has no figures of the error table')


def main(profdata, out, *binaries):
  out = pathlib.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  files = {}
  for file in export(profdata, binaries)['files']:
    name = in_repository(file['filename'])
    if name and name.startswith(('src/', 'include/')):
      files[name] = file

  totals = {'lines': [0, 0], 'branches': [0, 0]}
  rows = []
  for name, file in sorted(files.items()):
    row = [name]
    for what in totals:
      summary = file['summary'][what]
      totals[what][0] += summary['covered']
      totals[what][1] += summary['count']
      row.append(f"{summary['covered']}/{summary['count']}")
    rows.append(row)
  (out / 'library.txt').write_text(''.join(f'{n:40} {l:>12} lines {b:>12} branches\n' for n, l, b in rows))
  for what, (covered, count) in totals.items():
    print(f'coverage: {what} of the library: {covered} of {count}, {100 * covered / max(count, 1):.1f} %')

  table = rows_met(out / 'test')
  reachable = table['rows'] - table['rows_unreachable']
  print(f"coverage: rows of the error table: {table['rows_met']} of {reachable} that can be reached "
        f"({table['rows']} in all, {table['runs']} runs)")

  known = listed()
  missed = set()
  report = []
  for part, names in PARTS.items():
    left = 0
    for name in names:
      if name not in files:
        continue
      source = (cpp_source.ROOT / name).read_text().split('\n')
      for line, column, side in missed_branches(files[name]):
        if NO_BRANCH.search(source[line - 1].strip()):
          continue
        text = ' '.join(source[line - 1].split()).replace('|', '\\|').replace('`', "'")
        missed.add((name, text, side))
        left += (name, text, side) not in known
        report.append(f'{part}: {name}:{line}:{column}: never {side}: {source[line - 1].strip()}\n')
    print(f'coverage: {part}: {left} branches neither reached nor listed')
  (out / 'branches.txt').write_text(''.join(report))

  failed = table['rows_met'] < reachable
  for name, text, side in sorted(missed - known):
    print(f'  not reached: {name}: {text}: never {side}')
    failed = True
  for name, text, side in sorted(known - missed):
    print(f'  {LIST.name} lists what is reached, or gone: {name}: {text}: {side}')
    failed = True
  print(f'coverage: {out}/library.txt, {out}/branches.txt')
  return 1 if failed else 0


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
