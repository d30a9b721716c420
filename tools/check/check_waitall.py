#!/usr/bin/env python3
"""MSG_WAITALL stands exactly once in the code of the library.

On a receive it swallows errors, and on a send that may block it sinks into io-wq; its one right place is
beside MSG_DONTWAIT on io_uring's fast send. Comments may name it. src/sim receives no flags of its own: it is
the kernel that looks at ours.
"""
import sys

sys.dont_write_bytecode = True
import cpp_source


def main():
  found = [(path, line)
           for path in cpp_source.files('include', 'src')
           if not path.as_posix().startswith('src/sim/')
           for line, _ in cpp_source.words_in_code(cpp_source.read(path), {'MSG_WAITALL'})]
  if len(found) != 1:
    for path, line in found:
      print(f'{path}:{line}: MSG_WAITALL', file=sys.stderr)
    print(f'check-waitall: MSG_WAITALL stands {len(found)} times, not once', file=sys.stderr)
    sys.exit(1)
  path, line = found[0]
  print(f'check-waitall: once, {path}:{line}')


main()
