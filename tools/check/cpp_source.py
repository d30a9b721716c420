"""Reads C++ as the check scripts need it: which text is code, and what it includes.

A grep would do, but for comments: they name errnos and flags on every page, and that is wanted. So comments
are blanked first (and, on request, strings), line for line, so that line numbers stay true.
"""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]

_TOKEN = re.compile(
    r'''
    (?P<raw>\bu?8?[LUu]?R"(?P<delimiter>[^()\s\\"]{0,16})\((?:.|\n)*?\)(?P=delimiter)")
  | (?P<comment>//(?:[^\n\\]|\\(?:.|\n))*|/\*(?:.|\n)*?\*/)
  | (?P<string>"(?:[^"\\\n]|\\(?:.|\n))*")
  | (?P<number>\b[0-9](?:[0-9A-Za-z_.]|'(?=[0-9A-Za-z_]))*)
  | (?P<char>'(?:[^'\\\n]|\\.)+')
    ''',
    re.VERBOSE)


def code_of(text, keep_strings=True):
  """`text` with comments blanked, and strings too where `keep_strings` is false; lines stay."""

  def blank(match):
    kind = match.lastgroup if match.lastgroup != 'delimiter' else 'raw'
    found = match.group(0)
    if kind == 'number' or (kind != 'comment' and keep_strings):
      return found
    return re.sub(r'[^\n]', ' ', found)

  return _TOKEN.sub(blank, text)


def files(*folders):
  """All .h and .cc under these folders of the repository, sorted, as paths relative to it."""
  found = []
  for folder in folders:
    for suffix in ('*.h', '*.cc'):
      found += (ROOT / folder).rglob(suffix)
  return sorted(path.relative_to(ROOT) for path in found)


def read(path):
  return (ROOT / path).read_text(encoding='utf-8')


_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def includes_of(text):
  """(line, is_angled, name) of every include that is not in a comment."""
  code = code_of(text)
  return [(code.count('\n', 0, m.start()) + 1, m.group(1) == '<', m.group(2))
          for m in _INCLUDE.finditer(code)]


def words_in_code(text, wanted):
  """(line, word) of every whole word of `wanted` in code, outside comments and strings.

  Includes count as code: `#include <cerrno>` is where the use of an errno begins.
  """
  code = code_of(text, keep_strings=False)
  return [(code.count('\n', 0, m.start()) + 1, m.group(0))
          for m in re.finditer(r'\b[A-Za-z_]\w*', code) if m.group(0) in wanted]
