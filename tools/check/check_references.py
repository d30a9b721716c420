#!/usr/bin/env python3
"""Every page, data file, test and mutant that something here names exists: nothing leads nowhere.

The name of a page or a data file is text that ends in .md or .csv. It must exist as it is written, from the
root of the repository or from the folder of the file that names it. Nothing that the programs here make ends
in these. In pages, `SuiteTest.Name` is a test, and `some_name` beside one in a table is a mutant of tests/mutants.
"""
import re
import subprocess
import sys

sys.dont_write_bytecode = True
import cpp_source

NAME = re.compile(r'(?<![\w./-])[\w./-]*[\w-]\.(?:md|csv)\b(?![\w/])')
SOURCES = ('src', 'include', 'tests', 'tools', 'docs', 'README.md', 'CHANGELOG.md', 'Makefile', '.ci')


def sources():
  """What belongs to the repository, also before its first commit; all of it where there is no git."""
  try:
    listed = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z', *SOURCES],
                            cwd=cpp_source.ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    paths = [cpp_source.ROOT / name for name in listed.split('\0') if name]
  except (OSError, subprocess.CalledProcessError):
    tops = [cpp_source.ROOT / name for name in SOURCES]
    paths = [path for top in tops for path in (top.rglob('*') if top.is_dir() else [top])]
  return sorted(path for path in paths if path.is_file())


TEST = re.compile(r'^TEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\)', re.MULTILINE)
TEST_NAME = re.compile(r'`(\w+Test)\.([A-Z]\w+)`')
MUTANT_CELL = re.compile(r'\| ((?:`[a-z0-9_]+`(?:, )?)+) \|$')


def tests():
  """(suite, name) of every test."""
  text = '\n'.join(path.read_text(encoding='utf-8') for path in (cpp_source.ROOT / 'tests').rglob('*_test.cc'))
  return set(TEST.findall(text))


def missing_in_page(path, known_tests):
  """The lines of a page that name a test or a mutant that does not exist."""
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    found = TEST_NAME.findall(line)
    for name in found:
      if name not in known_tests:
        yield number, f'there is no test {".".join(name)}'
    cell = MUTANT_CELL.search(line) if found else None
    for name in re.findall(r'`(\w+)`', cell.group(1)) if cell else []:
      if not any((cpp_source.ROOT / 'tests/mutants').rglob(f'{name}.patch')):
        yield number, f'there is no mutant {name}'


def main():
  errors, names = [], 0
  paths = sources()
  known_tests = tests()
  for path in paths:
    for number, line in enumerate(path.read_text(encoding='utf-8', errors='replace').splitlines(), 1):
      for name in NAME.findall(line):
        names += 1
        if not any((folder / name).is_file() for folder in (cpp_source.ROOT, path.parent)):
          errors.append(f'{path.relative_to(cpp_source.ROOT)}:{number}: {name} does not exist')
    if path.suffix == '.md':
      for number, what in missing_in_page(path, known_tests):
        errors.append(f'{path.relative_to(cpp_source.ROOT)}:{number}: {what}')
  if errors:
    print('\n'.join(errors), file=sys.stderr)
    sys.exit(1)
  print(f'check-references: {names} names in {len(paths)} files')


main()
