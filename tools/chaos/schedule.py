"""What goes wrong, and when: one seed decides all of it before anything happens.

Only Random.random() is drawn from, which Python keeps the same from version to version, so a seed is a
schedule. When an action is carried out is up to the machine; the history says when it was.
"""
import collections
import random

# Kind -> its variants, how often it is drawn, and whom it strikes. What `lasts` 0 is done at once.
KINDS = {
    'kill': (('kill',), 3, 'server'),
    'end': (('end',), 1, 'server'),
    'stop': (('stop',), 3, 'server'),
    'reset': (('by_server', 'by_client'), 3, 'server'),
    'firewall': (('drop_to', 'drop_from', 'reset', 'port', 'host', 'admin'), 4, 'server'),
    'unroute': (('unreachable', 'prohibit', 'blackhole', 'link_down'), 3, 'server'),
    'client_unroute': (('no_route', 'prohibit', 'blackhole'), 1, 'client'),
    'descriptors': (('server',), 1, 'server'),
    'client_descriptors': (('client',), 1, 'client'),
    'name': (('moved', 'not_found', 'servfail', 'silent', 'dead_first'), 4, 'server'),
}
AT_ONCE = ('reset',)
# What a target cannot suffer twice at the same time: a server that is dead is not ended.
GROUP = {'end': 'kill'}
PAUSE_MAX = 0.9  # Seconds between two faults.
SHORT_MAX = 0.5  # Three of five faults are over before a heartbeat is missed,
LONG_MAX = 5.0   # the others outlive it, the attempts, and a few waits.
# The last blow: every server is struck once more, until the very end, so that every link has to come back.
LAST_MAX = 4.0   # Seconds.
LAST_KINDS = ('kill', 'stop', 'firewall', 'unroute', 'descriptors', 'name')

# number; start and lasts in seconds from the beginning of the schedule; target: index of the server or client.
Fault = collections.namedtuple('Fault', 'number start lasts kind variant target')


def describe(fault):
  whom = f'{KINDS[fault.kind][2]} {fault.target}'
  return f'{fault.number:3} {fault.start:7.3f} s {fault.kind} {fault.variant} {whom}, {fault.lasts:.3f} s'


def steps(faults):
  """What is to be done, in its order: (when, 'strike' or 'lift', fault)."""
  todo = [(fault.start, 0, fault) for fault in faults] + [(fault.start + fault.lasts, 1, fault) for fault in faults]
  return [(due, ('strike', 'lift')[ends], fault) for due, ends, fault in sorted(todo)]


def draw(seed, duration, servers, clients):
  """The faults of `seed`, by start; the last ones end together, after `duration` seconds."""
  rng = random.Random(seed)
  pick = lambda options: options[int(rng.random() * len(options))]
  urn = [kind for kind, (_, weight, _) in KINDS.items() for _ in range(weight)]
  last = duration - min(LAST_MAX, duration / 2)
  faults, busy_until, time = [], {}, 0.0
  while True:
    time += PAUSE_MAX * rng.random()
    if time >= last:
      break
    kind = pick(urn)
    variant = pick(KINDS[kind][0])
    target = pick(range(servers if KINDS[kind][2] == 'server' else clients))
    lasts = rng.random() * (SHORT_MAX if rng.random() < 0.6 else LONG_MAX)
    lasts = 0.0 if kind in AT_ONCE else min(lasts, last - time)
    key = (GROUP.get(kind, kind), target)
    if busy_until.get(key, 0.0) > time:
      continue
    busy_until[key] = time + lasts
    faults.append(Fault(len(faults), time, lasts, kind, variant, target))
  starts = sorted(last + rng.random() * (duration - last) / 4 for _ in range(servers))
  for target, start in enumerate(starts):
    kind = pick(LAST_KINDS)
    faults.append(Fault(len(faults), start, duration - start, kind, pick(KINDS[kind][0]), target))
  return faults
