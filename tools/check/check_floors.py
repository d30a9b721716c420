#!/usr/bin/env python3
"""Includes go downward: base < core < machine | sys < backend < reactor < net < sim, and in no circle.

Sources say their floor by their folder; public headers are flat, so PUBLIC says it for them, and one that
is not listed there is an error. machine and sys stand side by side and never see each other: the part that
decides touches no kernel, the part that touches the kernel decides nothing.

A circle is looked for between modules: x.h and x.cc of src are one, so that a pair of sources that need each
other is found as well as a pair of headers. A public header stands alone, because the class behind it sees
it, and is seen by the source that implements it.
"""
import pathlib
import sys

sys.dont_write_bytecode = True
import cpp_source

LEVEL = {'base': 0, 'core': 1, 'machine': 2, 'sys': 2, 'backend': 3, 'reactor': 4, 'net': 5,
         'sim': 6}

PUBLIC = {
    'holdfast/version.h': 'base',
    'holdfast/time.h': 'core',
    'holdfast/error.h': 'core',
    'holdfast/endpoint.h': 'core',
    'holdfast/socket_options.h': 'core',
    'holdfast/backoff.h': 'machine',
    'holdfast/framing.h': 'machine',
    'holdfast/link_state.h': 'machine',
    'holdfast/message.h': 'machine',
    'holdfast/timer.h': 'reactor',
    'holdfast/reactor.h': 'reactor',
    'holdfast/stream.h': 'net',
    'holdfast/listener.h': 'net',
    'holdfast/link.h': 'net',
    'holdfast/holdfast.h': 'net',
    'holdfast/sim.h': 'sim',
}

errors = []


def error(path, line, text):
  errors.append(f'{path}:{line}: {text}')


def floor_of(path):
  """The floor of a file of include/ or src/, or None when there is none for it."""
  parts = path.parts
  if parts[0] == 'include':
    return PUBLIC.get('/'.join(parts[1:]))
  return parts[1] if len(parts) == 3 and parts[1] in LEVEL else None


def target_of(path, line, angled, name):
  """The file that an include means: ours as a path, others (std, packages, kernel) as None."""
  if name.startswith('holdfast/'):
    if not angled:
      error(path, line, f'write <{name}>: public headers are included as users do')
    return pathlib.Path('include') / name
  if name.split('/')[0] in LEVEL and '/' in name:
    if angled:
      if not (cpp_source.ROOT / 'src' / name).exists():
        return None  # <net/if.h> belongs to the system.
      error(path, line, f'write "{name}": angles are for public and system headers')
    return pathlib.Path('src') / name
  if not angled and not name.startswith('absl/'):
    error(path, line, f'"{name}": write "floor/name.h"')
  return None


def module_of(path):
  return path.as_posix() if path.parts[0] == 'include' else path.with_suffix('').as_posix()


def check_edge(path, line, target):
  if not (cpp_source.ROOT / target).exists():
    error(path, line, f'{target} does not exist')
    return False
  if path.parts[0] == 'include' and target.parts[0] == 'src':
    error(path, line, f'a public header includes {target}, which is not installed')
    return False
  above, below = floor_of(path), floor_of(target)
  if above is None or below is None:
    return False  # Said already, where that file itself is looked at.
  if {above, below} == {'machine', 'sys'}:
    error(path, line, f'{above} includes {below} ({target}): the two wings never see each other')
  elif LEVEL[below] > LEVEL[above]:
    error(path, line, f'{above} includes {below} ({target}), which lies above it')
  return True


def circle_in(graph):
  """One circle of modules as a list that ends where it began, or None."""
  done, path = set(), []

  def visit(module):
    if module in path:
      return path[path.index(module):] + [module]
    if module in done:
      return None
    path.append(module)
    for target in sorted(graph.get(module, ())):
      if found := visit(target):
        return found
    path.pop()
    done.add(module)
    return None

  for module in sorted(graph):
    if found := visit(module):
      return found
  return None


def main():
  paths = cpp_source.files('include', 'src')
  graph, witness = {}, {}
  for path in paths:
    if floor_of(path) is None:
      error(path, 1, 'belongs to no floor' if path.parts[0] == 'src' else
            'public header without a floor: add it to PUBLIC in tools/check/check_floors.py')
    for line, angled, name in cpp_source.includes_of(cpp_source.read(path)):
      target = target_of(path, line, angled, name)
      if target and check_edge(path, line, target) and module_of(path) != module_of(target):
        graph.setdefault(module_of(path), set()).add(module_of(target))
        witness[module_of(path), module_of(target)] = f'{path}:{line}'
  if circle := circle_in(graph):
    errors.append('a circle of includes: ' + ' -> '.join(circle))
    errors.extend(f'  {witness[edge]}' for edge in zip(circle, circle[1:]))
  if errors:
    print('\n'.join(errors), file=sys.stderr)
    sys.exit(1)
  print(f'check-floors: {len(paths)} files')


main()
