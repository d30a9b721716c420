#!/usr/bin/env python3
"""Every page and data file that something here names exists: comments, docs and scripts lead nowhere else.

A name is text that ends in .md or .csv. It must exist as it is written, from the root of the repository or
from the folder of the file that names it. Nothing that the programs here make ends in these.
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


def main():
  errors, names = [], 0
  paths = sources()
  for path in paths:
    for number, line in enumerate(path.read_text(encoding='utf-8', errors='replace').splitlines(), 1):
      for name in NAME.findall(line):
        names += 1
        if not any((folder / name).is_file() for folder in (cpp_source.ROOT, path.parent)):
          errors.append(f'{path.relative_to(cpp_source.ROOT)}:{number}: {name} does not exist')
  if errors:
    print('\n'.join(errors), file=sys.stderr)
    sys.exit(1)
  print(f'check-references: {names} names in {len(paths)} files')


main()
