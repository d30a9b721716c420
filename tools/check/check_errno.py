#!/usr/bin/env python3
"""No errno constant outside core/error*, sys and sim: whoever wants to know what went wrong asks the table.

The names are those of Python's errno module and the EAI_ ones of getaddrinfo(3), as whole words: EPOLLIN
is no errno. Comments and strings may say them. `errno` itself and its headers count as well, because a
value read outside of sys would be a second way for an error to come in. sim is the other side of the seam: it
is a kernel, and errors are what it answers.
"""
import errno
import sys

sys.dont_write_bytecode = True
import cpp_source

EAI = {
    'EAI_BADFLAGS', 'EAI_NONAME', 'EAI_AGAIN', 'EAI_FAIL', 'EAI_FAMILY', 'EAI_SOCKTYPE', 'EAI_SERVICE',
    'EAI_MEMORY', 'EAI_SYSTEM', 'EAI_OVERFLOW', 'EAI_NODATA', 'EAI_ADDRFAMILY', 'EAI_INPROGRESS',
    'EAI_CANCELED', 'EAI_NOTCANCELED', 'EAI_ALLDONE', 'EAI_INTR', 'EAI_IDN_ENCODE'
}
NAMES = set(errno.errorcode.values()) | {'EWOULDBLOCK', 'EDEADLOCK', 'ENOTSUP'} | EAI
MACRO = {'errno', 'cerrno'}


def allowed(path):
  where = path.as_posix()
  return where.startswith(('src/sys/', 'src/sim/', 'src/core/error'))


def main():
  paths = [path for path in cpp_source.files('include', 'src') if not allowed(path)]
  bad = 0
  for path in paths:
    for line, word in cpp_source.words_in_code(cpp_source.read(path), NAMES | MACRO):
      print(f'{path}:{line}: {word} outside src/core/error*, src/sys and src/sim', file=sys.stderr)
      bad += 1
  if bad:
    sys.exit(1)
  print(f'check-errno: {len(paths)} files')


main()
