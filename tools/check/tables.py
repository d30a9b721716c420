#!/usr/bin/env python3
"""Keeps the printed tables in docs/ equal to the tables in the code.

  tables.py --check|--update PRINT_TABLES

`print_tables` lists its tables and their pages, `print_tables TABLE` prints what stands between the markers
of the page. --update (make docs) writes it there, --check (make check-docs) fails on a difference.
"""
import difflib
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BEGIN = '<!-- generated: make docs -->'
END = '<!-- end generated -->'


def with_table(page, old, table):
  """`old` with what stands between the markers replaced by `table`."""
  lines = old.splitlines()
  if lines.count(BEGIN) != 1 or lines.count(END) != 1 or lines.index(BEGIN) > lines.index(END):
    sys.exit(f'{page}: wants one line "{BEGIN}" and, after it, one line "{END}"')
  begin, end = lines.index(BEGIN), lines.index(END)
  return '\n'.join(lines[:begin + 1] + [''] + table.strip('\n').split('\n') + [''] + lines[end:]) + '\n'


def output_of(*command):
  return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main():
  mode, program = sys.argv[1:]
  pages = [line.split() for line in output_of(program).splitlines()]
  if not pages:
    sys.exit(f'{program} has no tables')
  stale = 0
  for what, page in pages:
    path = ROOT / page
    if not path.exists():
      sys.exit(f'{page} does not exist')
    table = output_of(program, what)
    if not table.strip():
      sys.exit(f'{program} {what} printed nothing')
    old = path.read_text(encoding='utf-8')
    new = with_table(page, old, table)
    if new == old:
      continue
    if mode == '--update':
      path.write_text(new, encoding='utf-8')
      print(f'docs: wrote {page}')
    else:
      sys.stderr.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), page, 'the code'))
      stale += 1
  if stale:
    sys.exit('check-docs: stale; run `make docs`')
  if mode == '--check':
    print(f'check-docs: {len(pages)} pages')


main()
