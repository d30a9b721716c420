#!/usr/bin/env python3
"""Chaos: links of the shipped echo client against servers and a network that misbehave, and what came of it.

  chaos.py [--duration 60] [--seed N] [--links 200] [--bin build/bin] [--out build/chaos]

Eight clients, one half on io_uring and the other on epoll, hold their links to eight servers, in network
namespaces of its own. For `duration` seconds the schedule of the seed strikes. Then everything heals, every
link gets its bound to be up again, and the checker judges the history, which stays in `out`.

Exit status: 0 nothing is wrong, or it was skipped, loudly, because it needs root; 1 else; 130 or 143 when a
signal ended it. Everything that it made ends with it, even if it is killed.
"""
import argparse
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import checker
import schedule
import world

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVERS = CLIENTS = 8
NEEDS = ('ip', 'nft', 'ss', 'mount', 'unshare', 'nsenter', 'setpriv')
INSIDE = 'HOLDFAST_CHAOS_INSIDE'
PROOF = 2.0       # Seconds in which every link must be seen at work after its bound.
# Short, so that a minute has many of each, and long enough for two cores that are busy.
LINK = {'silence_max': 2.0, 'backoff_initial': 0.05, 'backoff_multiplier': 1.5, 'backoff_max': 1.0,
        'healthy_after': 3.0, 'connect_timeout': 1.5}
# Messages a second and their bytes, by the client's number modulo 4: the last fills every buffer on the way.
LOADS = ((10, 64), (20, 500), (10, 4000), (10, 60000))


def flags_of(index, links, seed):
  rate, size = LOADS[index // 2 % len(LOADS)]
  numbers = [f'--{name}={value}' + ('' if name == 'backoff_multiplier' else 's') for name, value in LINK.items()]
  return [f'--connections={links}', f'--rate={rate}', f'--size={size}', '--ping=alive', '--drain=5s',
          f'--seed={(seed * CLIENTS + index) % (1 << 63) + 1}', *numbers]


def endpoints_of(index, servers):
  """Every other client has a second endpoint to go to, and one of four does without names."""
  first, second = servers[index], servers[(index + 3) % len(servers)]
  if index % 4 == 2:
    return [first.endpoint, second.endpoint]
  names = [f'{server.name}:{world.PORT}' for server in (first, second)]
  return names if index % 2 else names[:1]


def backend_of(index):
  return 'epoll' if index % 2 else 'uring'


def await_true(condition, what):
  until = time.monotonic() + world.PATIENCE
  while not condition():
    if time.monotonic() > until:
      raise RuntimeError(f'{what}: not within {world.PATIENCE:.0f} s')
    time.sleep(0.02)


class Run:
  def __init__(self, options):
    self.options = options
    self.world = world.World(options.bin, options.out)
    self.servers = [world.Server(i, backend_of(i // 2)) for i in range(SERVERS)]
    self.clients = [world.Client(i, backend_of(i), endpoints_of(i, self.servers), flags_of(i, links, options.seed))
                    for i, links in enumerate(self._shares(options.links))]
    self.links = dict(zip((client.name for client in self.clients), self._shares(options.links)))
    self.actions = []

  @staticmethod
  def _shares(links):
    return [links // CLIENTS + (i < links % CLIENTS) for i in range(CLIENTS)]

  def play(self):
    faults = schedule.draw(self.options.seed, self.options.duration, SERVERS, CLIENTS)
    self.world.make(self.servers, self.clients)
    for server in self.servers:
      self.world.start_server(server)
    for client in self.clients:
      self.world.start_client(client)
    await_true(self._all_came_up, 'every link is up before anything is wrong')
    before = {client.name: world.descriptors(client.process.pid) for client in self.clients}
    self._strike(faults)
    healed = time.monotonic()
    bound = checker.bound(LINK)
    print(f'chaos: {len(faults)} faults are over; every link has {bound:.1f} s to be up', flush=True)
    time.sleep(bound)
    marks = {server.file: (self.options.out / f'{server.file}.log').stat().st_size for server in self.servers}
    time.sleep(PROOF)
    held = self._holdings(before)
    self._end()
    self._write_manifest(faults, healed, marks, held)

  def _events(self, name):
    return (self.options.out / f'{name}.events').read_bytes()

  def _all_came_up(self):
    return all(len({json.loads(line)['link'] for line in self._events(client.name).splitlines()
                    if line.startswith(b'{"event":"up"')}) == self.links[client.name] for client in self.clients)

  def _strike(self, faults):
    """Plays the schedule. However late it is, the order is kept, or a server that is dead would be ended."""
    begin = time.monotonic()
    for due, what, fault in schedule.steps(faults):
      time.sleep(max(0.0, begin + due - time.monotonic()))
      getattr(self.world, what)(fault)
      self.actions.append({'t': time.monotonic(), 'number': fault.number, 'what': what})

  def _holdings(self, before):
    """Descriptors of each process once everything is up: as at the beginning, and none of a dead connection."""
    def read():
      of = {}
      for name, process in [(client.name, client.process) for client in self.clients] + [
          (server.file, server.process) for server in self.servers]:
        if process.poll() is None:
          of[name] = {'before': before.get(name), 'after': world.descriptors(process.pid),
                      'dead': world.dead_sockets(process.pid)}
      return of
    until = time.monotonic() + PROOF
    while True:  # A connection that ends just now, a look-up that is going on, are no leak.
      held = read()
      fine = all(one['dead'] == 0 and one['before'] in (None, one['after']) for one in held.values())
      if fine or time.monotonic() > until:
        return held
      time.sleep(0.05)

  def _end(self):
    for client in self.clients:
      client.process.send_signal(signal.SIGINT)
    for client in self.clients:
      client.process.wait(timeout=world.PATIENCE)
    for server in self.servers:
      self.world.end_server(server, signal.SIGTERM)

  def _write_manifest(self, faults, healed, marks, held):
    clients = [{'name': client.name, 'backend': client.backend, 'links': self.links[client.name],
                'started': client.started, 'status': client.process.returncode, 'held': held.get(client.name),
                'link': LINK} for client in self.clients]
    servers = [dict(incarnation, mark=marks.get(incarnation['name']), held=held.get(incarnation['name']))
               for server in self.servers for incarnation in server.incarnations]
    manifest = {'seed': self.options.seed, 'healed': healed, 'clients': clients, 'servers': servers,
                'faults': [fault._asdict() for fault in faults], 'actions': self.actions}
    (self.options.out / 'manifest.json').write_text(json.dumps(manifest, indent=1))


def options_of(arguments):
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--duration', default='60s', help='of the faults: 60s, 2m, 1h')
  parser.add_argument('--seed', default=os.environ.get('HOLDFAST_SEED', ''), help='plays its schedule again')
  parser.add_argument('--links', type=int, default=200)
  parser.add_argument('--bin', type=pathlib.Path, default=ROOT / 'build/bin')
  parser.add_argument('--out', type=pathlib.Path, default=ROOT / 'build/chaos')
  parser.add_argument('--show', action='store_true', help='print the schedule and end')
  options = parser.parse_args(arguments)
  unit = {'s': 1, 'm': 60, 'h': 3600}.get(options.duration[-1:])
  try:
    options.duration = float(options.duration[:-1]) * unit if unit else float(options.duration)
    options.seed = int(options.seed, 0) if options.seed else secrets.randbelow(1 << 32)
  except ValueError as error:
    parser.error(str(error))
  if options.links < CLIENTS:
    parser.error(f'--links={options.links}: at least {CLIENTS}')
  options.bin, options.out = options.bin.resolve(), options.out.resolve()
  return options


def skip(reason):
  sys.stdout.flush()
  sys.exit(subprocess.run([ROOT / 'tools/check/skip.sh', 'chaos', reason]).returncode)


class Interrupted(Exception):
  def __init__(self, number):
    super().__init__()
    self.signal = signal.Signals(number)


def interrupt(number, _):
  raise Interrupted(number)


def enter(options):
  """Runs this program anew where all that it makes ends with it: mounts, networks and processes.

  The one inside is process 1 of its world, so its end is the end of all others. It is killed if this one
  ends, however it ends; a signal from the terminal comes to this one alone.
  """
  if os.geteuid() != 0:
    skip('it makes network namespaces, and that needs root')
  absent = [tool for tool in NEEDS if not shutil.which(tool)]
  if absent:
    skip(f'not installed: {" ".join(absent)} (apt-get install iproute2 nftables util-linux)')
  unshare = ['unshare', '--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc']
  if subprocess.run(unshare + ['true'], stderr=subprocess.DEVNULL).returncode != 0:
    skip('the kernel lets root make no namespaces here')
  # The seed is drawn once, out here.
  command = [sys.executable, '-B', __file__, *sys.argv[1:], f'--seed={options.seed}']
  signal.signal(signal.SIGTERM, interrupt)
  signal.signal(signal.SIGINT, interrupt)
  world_of_its_own = subprocess.Popen(['setpriv', '--pdeathsig', 'KILL', *unshare, *command],
                                      env=dict(os.environ, **{INSIDE: '1'}), start_new_session=True)
  try:
    return world_of_its_own.wait()
  except Interrupted as interrupted:
    world_of_its_own.kill()
    world_of_its_own.wait()
    print(f'chaos: seed {options.seed}: ended by {interrupted.signal.name}, nothing is judged', flush=True)
    return 128 + interrupted.signal


def main():
  options = options_of(sys.argv[1:])
  if options.show:
    print('\n'.join(map(schedule.describe, schedule.draw(options.seed, options.duration, SERVERS, CLIENTS))))
    return 0
  if INSIDE not in os.environ:
    print(f'chaos: seed {options.seed}, {options.links} links, {options.duration:.0f} s of faults; '
          f'HOLDFAST_SEED={options.seed} plays this schedule again', flush=True)
    return enter(options)
  options.out.mkdir(parents=True, exist_ok=True)
  for old in options.out.iterdir():  # Of another run, and nothing that is not ours.
    if old.suffix in ('.events', '.errors', '.account', '.log') or old.name == 'manifest.json':
      old.unlink()
  os.environ.pop(INSIDE)
  run = Run(options)
  try:
    run.play()
  except (RuntimeError, OSError, subprocess.SubprocessError) as error:
    print(f'chaos: seed {options.seed}: {error}\n{getattr(error, "stderr", None) or ""}')
    return 1
  return checker.main([str(options.out)])


if __name__ == '__main__':
  sys.exit(main())
