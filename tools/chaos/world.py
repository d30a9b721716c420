"""The network that chaos happens in: clients and servers, each in a namespace of its own, around a router.

    client p  10.78.p.2, fd78:p::2  ---  router  ---  10.77.s.2, fd77:s::2  server s

Everything is made in a mount, network and process namespace that the caller has entered, so nothing outlives
it and nothing of the host is touched. Servers have names, s0.chaos and so on; even ones are known by an IPv4
address, every fourth by an IPv6 one.
"""
import os
import pathlib
import re
import resource
import signal
import subprocess
import time

import names

PORT = 7000
PATIENCE = 30.0  # Seconds for what must happen while nothing is wrong.
DESCRIPTORS = 4  # Standard input, output and error, and the account or the log.
NOWHERE = '10.79.0.1'  # The router drops what goes there.
RESOLV_CONF = 'nameserver 127.0.0.1\nsearch .\noptions timeout:1 attempts:1\n'
NSSWITCH_CONF = 'hosts: dns\n'
REJECT = {'reset': 'tcp reset', 'port': 'icmpx type port-unreachable', 'host': 'icmpx type host-unreachable',
          'admin': 'icmpx type admin-prohibited'}


def run(*command, text=None):
  subprocess.run(command, input=text, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def inside(namespace, *command):
  return ('nsenter', f'--net=/run/netns/{namespace}', '--', *command)


class Server:
  """A holdfast-echod, and those before it that were killed; each incarnation has files of its own."""

  def __init__(self, index, backend):
    self.index, self.backend = index, backend
    self.address = f'fd77:{index + 1:x}::2' if index % 4 == 3 else f'10.77.{index + 1}.2'
    self.name, self.namespace = f's{index}.chaos', f's{index}'
    self.process, self.file, self.incarnations = None, None, []

  @property
  def endpoint(self):
    return f'[{self.address}]:{PORT}' if ':' in self.address else f'{self.address}:{PORT}'


class Client:
  def __init__(self, index, backend, endpoints, flags):
    self.index, self.backend, self.endpoints, self.flags = index, backend, endpoints, flags
    self.namespace = f'c{index}'
    self.name = f'client-{index}'
    self.process, self.started = None, None


class World:
  def __init__(self, programs, folder):
    self.programs, self.folder = programs, folder
    self.zone = names.Zone()
    self.servers, self.clients = [], []
    self.firewall = {}  # Number of the fault -> its rule.
    self.limited = {}   # Number of the fault -> (process, the limit that it had).

  # --- Making it ---------------------------------------------------------------------------------------

  def make(self, servers, clients):
    run('mount', '-t', 'tmpfs', 'none', '/run')
    self._replace('/etc/resolv.conf', RESOLV_CONF)
    self._replace('/etc/nsswitch.conf', NSSWITCH_CONF)
    run('ip', 'netns', 'add', 'router')
    for net in ('ipv4/ip_forward=1', 'ipv6/conf/all/forwarding=1', 'ipv6/conf/all/keep_addr_on_down=1',
                'ipv4/icmp_ratelimit=0', 'ipv6/icmp/ratelimit=0'):
      self._sysctl('router', net)
    self._ip('router', f'route add blackhole {NOWHERE}/32')
    for server in servers:
      self._connect(server.namespace, 77, server.index + 1)
      self.zone.names[server.name] = [server.address]
    for client in clients:
      self._connect(client.namespace, 78, client.index + 1)
      names.serve(self.zone, f'/run/netns/{client.namespace}')
    self._load_firewall()
    self.servers, self.clients = servers, clients

  def _replace(self, path, text):
    ours = self.folder / pathlib.Path(path).name
    ours.write_text(text)
    run('mount', '--bind', str(ours), os.path.realpath(path))

  def _sysctl(self, namespace, assignment):
    path, value = assignment.split('=')
    run(*inside(namespace, 'sh', '-c', f'echo {value} >/proc/sys/net/{path}'))

  def _ip(self, namespace, *lines):
    for family in ('-4', '-6'):  # A batch is of one family; lines without one go with the first.
      batch = [line.removeprefix('-6 ') for line in lines if line.startswith('-6 ') == (family == '-6')]
      if batch:
        run('ip', family, '-n', namespace, '-batch', '-', text='\n'.join(batch) + '\n')

  def _connect(self, namespace, net, number):
    """A namespace, with a cable to the router and a default route through it."""
    run('ip', 'netns', 'add', namespace)
    self._ip('router', f'link add {namespace} type veth peer name wire netns {namespace}',
             f'addr add 10.{net}.{number}.1/24 dev {namespace}',
             f'-6 addr add fd{net}:{number:x}::1/64 dev {namespace} nodad', f'link set {namespace} up')
    self._ip(namespace, 'link set lo up', f'addr add 10.{net}.{number}.2/24 dev wire',
             f'-6 addr add fd{net}:{number:x}::2/64 dev wire nodad', 'link set wire up',
             *self._default(net, number))

  @staticmethod
  def _default(net, number):
    return (f'route replace default via 10.{net}.{number}.1',
            f'-6 route replace default via fd{net}:{number:x}::1 dev wire')

  # --- Processes ---------------------------------------------------------------------------------------

  def _start(self, namespace, file, *command):
    with open(self.folder / f'{file}.events', 'wb') as out, open(self.folder / f'{file}.errors', 'wb') as errors:
      return subprocess.Popen(inside(namespace, *command), stdin=subprocess.DEVNULL, stdout=out, stderr=errors)

  def start_server(self, server):
    server.file = f'server-{server.index}-{len(server.incarnations)}'
    server.incarnations.append({'name': server.file, 'server': server.index, 'end': 'ended', 'status': None})
    host = '[::]' if ':' in server.address else '0.0.0.0'
    server.process = self._start(
        server.namespace, server.file, str(self.programs / 'holdfast-echod'), '--json',
        f'--backend={server.backend}', f'--log={self.folder / server.file}.log', f'{host}:{PORT}')
    # One that is struck before it can end in good order would be blamed for that.
    self._await(server.process, server.file, b'"listening"')

  def end_server(self, server, number):
    server.incarnations[-1]['end'] = 'killed' if number == signal.SIGKILL else 'ended'
    server.process.send_signal(signal.SIGCONT)  # One that is stopped would never end.
    server.process.send_signal(number)
    server.incarnations[-1]['status'] = server.process.wait(timeout=PATIENCE)

  def start_client(self, client):
    before = time.monotonic()
    client.process = self._start(
        client.namespace, client.name, str(self.programs / 'holdfast-echo'), '--json',
        f'--backend={client.backend}', f'--account={self.folder / client.name}.account', *client.flags, *client.endpoints)
    self._await(client.process, client.name, b'\n')
    # Its own clock began in between.
    client.started = (before, time.monotonic())

  def _await(self, process, file, said):
    path, until = self.folder / f'{file}.events', time.monotonic() + PATIENCE
    while said not in path.read_bytes():
      if process.poll() is not None or time.monotonic() > until:
        raise RuntimeError(f'{file} does not start: ' + (self.folder / f'{file}.errors').read_text())
      time.sleep(0.002)

  # --- Faults ------------------------------------------------------------------------------------------

  def strike(self, fault):
    """Makes it happen; lift() ends it."""
    getattr(self, f'_{fault.kind}')(fault)

  def lift(self, fault):
    end = getattr(self, f'_end_{fault.kind}', None)
    if end:
      end(fault)

  def _kill(self, fault):
    self.end_server(self.servers[fault.target], signal.SIGKILL)

  def _end(self, fault):
    self.end_server(self.servers[fault.target], signal.SIGTERM)

  def _end_kill(self, fault):
    self.start_server(self.servers[fault.target])

  _end_end = _end_kill

  def _stop(self, fault):
    self.servers[fault.target].process.send_signal(signal.SIGSTOP)

  def _end_stop(self, fault):
    self.servers[fault.target].process.send_signal(signal.SIGCONT)

  def _reset(self, fault):
    server = self.servers[fault.target]
    if fault.variant == 'by_server':
      return self._reset_at(server.namespace)
    for client in self.clients:
      run(*inside(client.namespace, 'ss', '-K', '-tn', 'dst', server.endpoint))

  @staticmethod
  def _reset_at(namespace):
    run(*inside(namespace, 'ss', '-K', '-tn', 'state', 'established'))

  def _firewall(self, fault):
    server = self.servers[fault.target]
    family = 'ip6' if ':' in server.address else 'ip'
    direction = 'saddr' if fault.variant == 'drop_from' else 'daddr'
    verdict = f'reject with {REJECT[fault.variant]}' if fault.variant in REJECT else 'drop'
    match = 'meta l4proto tcp ' if fault.variant == 'reset' else ''
    self.firewall[fault.number] = (
        f'add rule inet chaos forward {family} {direction} {server.address} {match}{verdict}')
    self._load_firewall()

  def _end_firewall(self, fault):
    del self.firewall[fault.number]
    self._load_firewall()

  def _load_firewall(self):
    rules = ('add table inet chaos', 'add chain inet chaos forward { type filter hook forward priority 0; }',
             'flush chain inet chaos forward', *self.firewall.values())
    run(*inside('router', 'nft', '-f', '-'), text='\n'.join(rules) + '\n')

  def _route_of(self, fault):
    address = self.servers[fault.target].address
    family, bits = ('-6 ', 128) if ':' in address else ('', 32)
    return f'{family}route {{}} {fault.variant} {address}/{bits}'

  def _unroute(self, fault):
    if fault.variant == 'link_down':
      return self._ip('router', f'link set {self.servers[fault.target].namespace} down')
    self._ip('router', self._route_of(fault).format('add'))

  def _end_unroute(self, fault):
    if fault.variant == 'link_down':
      return self._ip('router', f'link set {self.servers[fault.target].namespace} up')
    self._ip('router', self._route_of(fault).format('del'))

  def _client_unroute(self, fault):
    if fault.variant == 'no_route':
      return self._ip(f'c{fault.target}', 'route del default', '-6 route del default')
    self._ip(f'c{fault.target}', f'route replace {fault.variant} default', '-6 route del default',
             f'-6 route add {fault.variant} default')

  def _end_client_unroute(self, fault):
    if fault.variant != 'no_route':
      self._ip(f'c{fault.target}', '-6 route del default')
    self._ip(f'c{fault.target}', *self._default(78, fault.target + 1))

  def _limit(self, fault, process):
    """No new descriptor, however many are closed: the lowest ones stay in use until the end."""
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    self.limited[fault.number] = (process, before)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, before[1]))

  def _descriptors(self, fault):
    process = self.servers[fault.target].process
    if process.poll() is None:
      self._limit(fault, process)
      self._reset_at(self.servers[fault.target].namespace)  # Or nobody would come.

  def _client_descriptors(self, fault):
    self._limit(fault, self.clients[fault.target].process)
    self._reset_at(self.clients[fault.target].namespace)  # Or it would need none.

  def _end_descriptors(self, fault):
    process, before = self.limited.pop(fault.number, (None, None))
    if process and process.poll() is None:
      resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)

  _end_client_descriptors = _end_descriptors

  def _name(self, fault):
    server = self.servers[fault.target]
    other = self.servers[(fault.target + 1) % len(self.servers)]
    self.zone.names[server.name] = {'moved': [other.address], 'dead_first': [NOWHERE, server.address]}.get(
        fault.variant, fault.variant)
    self._reset_at(server.namespace)  # Or nobody would ask for it.

  def _end_name(self, fault):
    server = self.servers[fault.target]
    self.zone.names[server.name] = [server.address]


# --- What a process holds --------------------------------------------------------------------------------

def descriptors(pid):
  return len(os.listdir(f'/proc/{pid}/fd'))


def dead_sockets(pid):
  """Sockets that it holds although the kernel lists no such socket any more: connections that are over."""
  held = set()
  for name in os.listdir(f'/proc/{pid}/fd'):
    try:
      match = re.fullmatch(r'socket:\[(\d+)\]', os.readlink(f'/proc/{pid}/fd/{name}'))
    except FileNotFoundError:
      continue
    if match:
      held.add(match.group(1))
  for table, column in (('tcp', 9), ('tcp6', 9), ('udp', 9), ('udp6', 9), ('unix', 6)):
    for line in pathlib.Path(f'/proc/{pid}/net/{table}').read_text().splitlines()[1:]:
      held.discard(line.split()[column])
  return len(held)
