#!/usr/bin/env python3
"""No object of the library outside src/sys calls the kernel's network, time or randomness itself.

  check_nm.py OBJECT_DIRECTORY OBJECT...

All of it goes through sys::Kernel, so that a simulated kernel can stand in its place; the objects tell it
better than the sources, because a call can hide in a macro or in somebody else's inline function. liburing's
own functions are syscalls in disguise: none of them is allowed either.

syscall(2) alone is looked for in the sources, because libstdc++ has it in inline functions: std::stop_callback
and the waits of std::atomic are a futex.
"""
import pathlib
import re
import subprocess
import sys

sys.dont_write_bytecode = True
import cpp_source

FORBIDDEN = re.compile(
    r'''(
      socket | socketpair | connect | bind | listen | accept4? | close | shutdown | ioctl
    | (send|recv)(to|from|msg|mmsg)? | getsockopt | setsockopt | getsockname | getpeername
    | read | readv | write | writev | fcntl(64)? | poll | ppoll | select | pselect
    | epoll_\w+ | eventfd\w* | timerfd_\w+ | signalfd
    | getaddrinfo | freeaddrinfo | getnameinfo | gethostby\w+
    | clock_gettime | gettimeofday | time | nanosleep | clock_nanosleep | usleep | getrandom | getentropy
    | io_uring_\w+
    | std::chrono::_V2::(steady|system)_clock::now\(\) | std::random_device::.*
    )''', re.VERBOSE)
FORTIFIED = re.compile(r'^__(\w+)_chk$')  # -D_FORTIFY_SOURCE renames recv to __recv_chk.


def undefined(objects):
  """(object, symbol) of every undefined symbol, names of C++ readable."""
  out = subprocess.run(['nm', '-A', '-C', '-u', *objects], check=True, stdout=subprocess.PIPE, text=True).stdout
  for line in out.splitlines():
    place, symbol = re.match(r'(.*?):\s+[UwWvV]\s+(.*)$', line).groups()
    yield place, symbol.split('@')[0]


def main():
  root, *objects = sys.argv[1:]
  sys_objects = pathlib.PurePath(root) / 'sys'
  checked = [o for o in objects if sys_objects not in pathlib.PurePath(o).parents]
  if not checked:
    print('check-nm: no objects', file=sys.stderr)
    sys.exit(1)
  bad = 0
  for place, symbol in undefined(checked):
    name = FORTIFIED.sub(r'\1', symbol)
    if FORBIDDEN.fullmatch(name.lstrip('_') if 'io_uring' in name else name):
      print(f'{place}: calls {symbol}, which only src/sys may', file=sys.stderr)
      bad += 1
  for path in cpp_source.files('include', 'src'):
    if path.parts[:2] == ('src', 'sys'):
      continue
    for line, word in cpp_source.words_in_code(cpp_source.read(path), {'syscall'}):
      print(f'{path}:{line}: {word}, which only src/sys may call', file=sys.stderr)
      bad += 1
  if bad:
    sys.exit(1)
  print(f'check-nm: {len(checked)} objects')


main()
