#!/usr/bin/env python3
"""Judges a history of chaos: what the clients were told and the servers received, joined, against the promises.

  checker.py DIRECTORY

A history is a folder with manifest.json, and for each client NAME.events and NAME.account (holdfast-echo
--json --account=), for each server process NAME.events and NAME.log (holdfast-echod --json --log=). A message
is joined by the client's own address, its link and its number. The rules come from the public contract alone
(include/holdfast/link.h, docs/link.md) with arithmetic of their own; nothing here knows which faults struck.

Prints one line for each violation, at most so many of a kind, and the figures. Exit status 0: none.
"""
import collections
import csv
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHOWN_MAX = 10  # Violations of one kind that are printed.

# What an event's time may lag behind the loop's own: the line is written later in the turn, and two busy
# cores make others wait. It never excuses more than this.
TELLING = 0.25

# Calls of tests/data/errors.csv by the operation that an event names.
CALLS = {
    'resolve': ('getaddrinfo', 'socket'),
    'socket': ('socket',),
    'connect': ('connect', 'connect-result', 'cqe:connect', 'getpeername'),
    'send': ('send', 'cqe:send'),
    'receive': ('recv', 'cqe:recv', 'epoll-event', 'connect-result'),
}
# (operation, class) of errors that no call returned: our own deadlines, ends in good order, our own calls,
# and a connection that is gone without a reason.
WITHOUT_ERRNO = {('resolve', 'timeout'), ('connect', 'timeout'), ('heartbeat', 'timeout'), ('receive', 'eof'),
                 ('receive', 'reset'), ('connect', 'reset'), ('connect', 'refused'), ('user', 'cancelled'),
                 ('close', 'timeout')}


def bound(link):
  """Seconds within which a link is up once nothing is wrong any more.

  Then at most one thing still fails, what began before: a session that is dead and not yet noticed (its
  silence, and a quarter of it for a loop that never runs dry), or an attempt (a look-up, two addresses). The
  wait after it is at most the slow one, 4 * max. The next attempt meets nothing but health: a look-up, and a
  SYN that is repeated once because a neighbour was still unknown. Two busy cores get a second.
  """
  look_up = 2.0  # The resolver asks at most twice, for a second each.
  fails = max(1.25 * link['silence_max'], look_up + 2 * link['connect_timeout'])
  return fails + 4 * link['backoff_max'] + look_up + 1.0 + 1.0


def snake(name):
  return re.sub(r'(?<!^)(?=[A-Z])', '_', name[1:]).lower()


def load_classes():
  """(operation, errno) -> the classes that the table of errors has for it."""
  classes = collections.defaultdict(set)
  with open(ROOT / 'tests/data/errors.csv', encoding='utf-8', newline='') as table:
    for row in csv.DictReader(table):
      for operation, calls in CALLS.items():
        if row['syscall'] in calls:
          classes[operation, re.split(r'[:/ ]', row['errno'])[0]].add(snake(row['class']))
  # Where errno says more, the error has that errno. Without one the resolver lost what its socket(2) said.
  classes['resolve', 'EAI_SYSTEM'] = {'resource'}
  return classes


class Session:
  """From on_up to on_down, with the numbers of its messages."""

  def __init__(self, client, link, up):
    self.client, self.link, self.up, self.down = client, link, up, None
    self.local = up['local']
    self.first = self.total = self.acked = self.unsent = 0
    self.lost = {}        # Number -> fate, of what was not echoed.
    self.received = 0     # Messages in the server's log,
    self.proven = False   # one of them behind the mark, and echoed.
    self.server = None    # The server process that logged it.

  def end(self, down, first):
    self.down, self.first = down, first
    self.acked, self.unsent = down['acked'], down['unsent']
    self.total = down['acked'] + down['in_doubt'] + down['unsent']

  def fate(self, number):
    index = number - self.first
    return 'acked' if index < self.acked else 'unsent' if index >= self.total - self.unsent else 'in_doubt'

  def __str__(self):
    return f'{self.client["name"]} link {self.link} session {self.local}'


class Checker:
  def __init__(self, folder):
    self.folder = folder
    self.manifest = json.loads((folder / 'manifest.json').read_text())
    self.classes = load_classes()
    self.violations = collections.defaultdict(list)
    self.sessions = []
    self.by_address = collections.defaultdict(list)  # (local, link) -> sessions
    self.counts = collections.Counter()
    self.deaths = collections.Counter()
    self.slowest = 0.0

  def violate(self, rule, text):
    self.violations[rule].append(text)

  def check(self):
    for client in self.manifest['clients']:
      self._client(client)
    for server in self.manifest['servers']:
      self._server(server)
    for session in self.sessions:
      self._delivery(session)
    self._liveness()
    return not self.violations

  def _lines(self, name, killed=False):
    """(offset behind it, object) of each line. Only a writer that was killed leaves one unfinished."""
    data = (self.folder / name).read_bytes()
    offset = 0
    for line in data.split(b'\n')[:-1]:
      offset += len(line) + 1
      try:
        yield offset, json.loads(line)
      except ValueError:
        self.violate('format', f'{name}: no JSON: {line[:80]!r}')
    if offset != len(data) and not killed:
      self.violate('format', f'{name}: its last line is not finished')

  # --- A client ----------------------------------------------------------------------------------------

  def _client(self, client):
    name = client['name']
    events = [event for _, event in self._lines(f'{name}.events')]
    links = collections.defaultdict(list)
    for event in events:
      if 'link' in event:
        links[event['link']].append(event)
    if sorted(links) != list(range(client['links'])):
      self.violate('grammar', f'{name}: {len(links)} links said something, not {client["links"]}')
    if not events or events[-1]['event'] != 'summary':
      self.violate('end', f'{name}: no summary')
      return
    late = events[-1]['timer_lateness_us'] / 1e6
    sessions = []
    for link, of_link in sorted(links.items()):
      sessions += self._link(client, link, of_link, late)
    self.sessions += sessions
    for session in sessions:
      self.by_address[session.local, session.link].append(session)
    self._account(client)
    self._summary(name, events, sessions)
    self._end(client)

  FOLLOWS = {('', 'dial'), ('retry', 'dial'), ('dial', 'up'), ('dial', 'dial_failed'), ('up', 'down'),
             ('down', 'retry'), ('dial_failed', 'retry'),
             ('down', 'closed'), ('retry', 'closed'), ('dial', 'closed')}

  def _link(self, client, link, events, late):
    """Grammar of one link; returns its sessions."""
    where = f'{client["name"]} link {link}'
    last, time, sessions, number = '', 0, [], 1
    for event in events:
      what = event['event']
      if (last, what) not in self.FOLLOWS:
        self.violate('grammar', f'{where}: {what} after {last or "nothing"} at {event["t_us"]} us')
      if event['t_us'] < time:
        self.violate('grammar', f'{where}: {what} at {event["t_us"]} us, after {time} us')
      last, time = what, event['t_us']
      if what == 'up':
        sessions.append(Session(client, link, event))
      if what == 'down' and sessions and sessions[-1].down is None:
        sessions[-1].end(event, number)
        number += sessions[-1].total
      if what in ('down', 'dial_failed'):
        self._error(where, event)
    if last != 'closed':
      self.violate('grammar', f'{where}: the last event is {last}, not closed')
    elif events[-1]['reason'] != 'user':
      self.violate('end', f'{where}: closed by itself: {events[-1]["reason"]}, {events[-1]["class"]}')
    for session in sessions:
      if session.down is None:
        self.violate('grammar', f'{session}: an up without a down')
    self._backoff(where, client['link'], events, late)
    return [session for session in sessions if session.down]

  def _error(self, where, event):
    operation, error_class, code = event.get('operation'), event.get('class'), event.get('errno')
    self.deaths[event['event'], operation, error_class, code] += 1
    text = f'{where}: {event["event"]} at {event["t_us"]} us: {operation}, {error_class}, {code!r}'
    if operation in (None, '', 'none') or error_class in (None, '', 'none') or code is None:
      self.violate('errors', f'{text}: not all of operation, class and errno')
    elif code == '':
      if (operation, error_class) not in WITHOUT_ERRNO:
        self.violate('errors', f'{text}: only deadlines and good ends have no errno')
    elif error_class not in self.classes.get((operation, code), ()):
      self.violate('errors', f'{text}: the table has {sorted(self.classes.get((operation, code), ()))}')

  # --- Waits -------------------------------------------------------------------------------------------

  def _backoff(self, where, link, events, late):
    """Attempts count, and waits grow, from the last time that the link was healthy, and only from then."""
    attempt, failures, retry = 0, 0, None
    for before, event in zip([None] + events, events):
      if event['event'] == 'dial':
        expected = retry['attempt'] if retry else 1
        if event['attempt'] != expected:
          self.violate('attempts', f'{where}: dial of attempt {event["attempt"]}, not {expected}, '
                                   f'at {event["t_us"]} us')
        if retry:
          self._waited(where, retry, event, late)
        attempt = event['attempt']
      elif event['event'] == 'dial_failed' and event['attempt'] != attempt:
        self.violate('attempts', f'{where}: attempt {event["attempt"]} failed, not {attempt}')
      elif event['event'] == 'retry':
        retry = event
        if self._was_healthy(link, before, event, late):
          attempt, failures = 0, 0
        if event['attempt'] != attempt + 1:
          self.violate('attempts', f'{where}: attempt {event["attempt"]} comes after {attempt}, '
                                   f'at {event["t_us"]} us')
        low, high = self._wait_bounds(link, before, failures)
        if not low <= event['delay_us'] <= high:
          self.violate('backoff', f'{where}: wait {failures} is {event["delay_us"]} us, not within '
                                  f'[{low}, {high}], at {event["t_us"]} us')
        failures += 1

  @staticmethod
  def _was_healthy(link, before, retry, late):
    """Whether the session that ended proved healthy. In the moment of it either may come first."""
    if before is None or before['event'] != 'down':
      return False
    over = before['up_us'] / 1e6 - link['healthy_after']
    return over >= 0 and (over > late + TELLING or retry['attempt'] == 1)

  @staticmethod
  def _wait_bounds(link, before, failures):
    slow = 4 if before and before.get('action') == 'back_off_slow' else 1
    initial = round(link['backoff_initial'] * 1e9) * slow
    grown, factor = initial, round(link['backoff_multiplier'] * 1024)
    cap = round(link['backoff_max'] * 1e9) * slow
    for _ in range(failures):
      grown = min(grown * factor / 1024, cap)
    high = min(grown, cap)
    from_zero = failures == 0 and (before or {}).get('class') != 'resource'
    return (0 if from_zero else int(min(initial, high) // 1000)), int(high // 1000)

  def _waited(self, where, retry, dial, late):
    over = (dial['t_us'] - retry['t_us'] - retry['delay_us']) / 1e6
    if over < -TELLING:
      self.violate('backoff', f'{where}: dialed {-over:.3f} s early, at {dial["t_us"]} us')
    if over > late + TELLING:
      self.violate('backoff', f'{where}: dialed {over:.3f} s late, at {dial["t_us"]} us')

  # --- What became of the messages ---------------------------------------------------------------------

  def _find(self, local, link, number):
    for session in self.by_address.get((local, link), ()):
      if session.first <= number < session.first + session.total:
        return session
    return None

  def _account(self, client):
    refused = 0
    for _, line in self._lines(f'{client["name"]}.account'):
      if line['fate'] == 'refused':
        refused += 1
        continue
      text = f'{client["name"]} link {line["link"]} message {line["sequence"]} from {line["local"]}'
      session = self._find(line['local'], line['link'], line['sequence'])
      if session is None:
        self.violate('account', f'{text}: no session accepted it')
      elif line['sequence'] in session.lost:
        self.violate('account', f'{text}: accounted for twice')
      else:
        session.lost[line['sequence']] = line['fate']
        if line['fate'] != session.fate(line['sequence']):
          self.violate('account', f'{text}: {line["fate"]}, but its down says {session.fate(line["sequence"])}')
    client['refused'] = refused

  def _summary(self, name, events, sessions):
    summary = events[-1]
    sums = collections.Counter(event['event'] for event in events)
    lost = sum(len(session.lost) for session in sessions)
    sent = sum(session.total for session in sessions)
    fates = collections.Counter(fate for session in sessions for fate in session.lost.values())
    expected = {'sent': sent, 'lost': lost, 'echoed': sent - lost, 'duplicated': 0, 'reordered': 0, 'replayed': 0,
                'ups': sums['up'], 'downs': sums['down'], 'dials': sums['dial'], 'adds_up': True,
                'lost_acked': fates['acked'], 'lost_in_doubt': fates['in_doubt'], 'lost_unsent': fates['unsent']}
    for field, value in expected.items():
      if summary[field] != value:
        self.violate('summary', f'{name}: {field} is {summary[field]}, its events and account say {value}')
    self.counts.update({field: expected[field] for field in (
        'sent', 'echoed', 'dials', 'ups', 'downs', 'lost_acked', 'lost_in_doubt', 'lost_unsent')})
    self.counts['late_us'] = max(self.counts['late_us'], summary['timer_lateness_us'])

  # --- A server ----------------------------------------------------------------------------------------

  def _server(self, server):
    """Joins its log with the sessions, and finds the connections that it read to their end."""
    name, killed = server['name'], server['end'] == 'killed'
    for offset, line in self._lines(f'{name}.log', killed):
      self._received(name, line, server['mark'] is not None and offset > server['mark'])
    accepted, ended = collections.Counter(), {}
    for _, event in self._lines(f'{name}.events', killed):
      accepted[event.get('peer')] += event['event'] == 'accepted'
      if event['event'] == 'closed':
        ended[event['peer']] = event['class']
        if event['class'] in ('protocol', 'invalid', 'unknown'):
          self.violate('errors', f'{name}: {event["peer"]} closed: {event["class"]}')
    server['ended'] = {peer: how for peer, how in ended.items() if accepted[peer] == 1}
    self._end(server)

  def _received(self, server, line, behind_mark):
    number = line['sequence']
    if not line['peer']:
      return self._received_from_nobody(server, line)
    session = self._find(line['peer'], line['link'], number)
    if session is None:
      return self.violate('delivery', f'{server}: message {number} of link {line["link"]} from {line["peer"]}: '
                                      'no session sent it')
    if session.server not in (None, server):
      return self.violate('delivery', f'{session}: received by {session.server} and {server}')
    session.server = server
    if number != session.first + session.received:
      return self.violate('delivery', f'{session}: {server} received {number}, '
                                      f'not {session.first + session.received}')
    session.received += 1
    session.proven = session.proven or (behind_mark and number not in session.lost)
    self.counts['received'] += 1
    return None

  def _received_from_nobody(self, server, line):
    """A connection that died before it was accepted has no address any more: its messages are some client's."""
    self.counts['from_nobody'] += 1
    number = line['sequence']
    fates = [session.fate(number) for session in self.sessions
             if session.link == line['link'] and session.first <= number < session.first + session.total]
    if set(fates) <= {'unsent'}:
      self.violate('delivery', f'{server}: message {number} of link {line["link"]} from nobody: '
                               + ('every client calls it unsent' if fates else 'no session sent it'))

  def _delivery(self, session):
    """What was received against what was called echoed, acked and unsent."""
    left = session.total - session.unsent
    if session.received > left:
      self.violate('account', f'{session}: {session.received - left} messages called unsent were received')
    echoed = max((number for number in range(session.first, session.first + session.total)
                  if number not in session.lost), default=0)
    if echoed >= session.first + session.received:
      self.violate('delivery', f'{session}: {echoed} was echoed, but {session.received} were received')
    how = self._ended(session)
    if how not in (None, 'cancelled') and session.received < session.acked:
      self.violate('account', f'{session}: {session.acked} acked, '
                              f'but the server read {session.received} to the end')

  def _ended(self, session):
    """How the server's connection ended, which then read all that its kernel ever received.

    None: the process died before; 'cancelled': it closed by itself, and perhaps left bytes unread.
    """
    for server in self.manifest['servers']:
      if server['name'] == session.server:
        return server['ended'].get(session.local)
    return None

  # --- The end -----------------------------------------------------------------------------------------

  def _end(self, process):
    name, held = process['name'], process['held']
    if process.get('end') != 'killed' and process['status'] != 0:
      self.violate('end', f'{name}: exit status {process["status"]}')
    if held and held['dead'] != 0:
      self.violate('descriptors', f'{name}: {held["dead"]} sockets of dead connections')
    if held and held['before'] is not None and held['before'] != held['after']:
      self.violate('descriptors', f'{name}: {held["before"]} descriptors at first, {held["after"]} at last')

  def _liveness(self):
    """Every link was up in time, stayed up, and carried a message there and back after its bound."""
    last = {(session.client['name'], session.link): session for session in self.sessions}
    healed = self.manifest['healed']
    for client in self.manifest['clients']:
      limit = bound(client['link'])
      for link in range(client['links']):
        session = last.get((client['name'], link))
        if session is None:
          self.violate('liveness', f'{client["name"]} link {link}: never up')
          continue
        after = client['started'][0] + session.up['t_us'] / 1e6 - healed
        self.slowest = max(self.slowest, after)
        if after > limit:
          self.violate('liveness', f'{session}: up {after:.3f} s after the last fault, not within {limit:.3f} s')
        elif session.down['class'] != 'cancelled':
          self.violate('liveness', f'{session}: its last session was lost: {session.down["class"]}')
        elif not session.proven:
          self.violate('liveness', f'{session}: no new message was echoed after its bound')

  # --- What it says ------------------------------------------------------------------------------------

  def report(self):
    for rule, texts in sorted(self.violations.items()):
      for text in texts[:SHOWN_MAX]:
        print(f'chaos: VIOLATION ({rule}): {text}')
      if len(texts) > SHOWN_MAX:
        print(f'chaos: VIOLATION ({rule}): and {len(texts) - SHOWN_MAX} more')
    count, manifest = self.counts, self.manifest
    links = sum(client['links'] for client in manifest['clients'])
    kinds = collections.Counter(fault['kind'] for fault in manifest['faults'])
    print('  faults      ' + ', '.join(f'{kind} {number}' for kind, number in sorted(kinds.items())))
    print(f'  links       {links}: {count["dials"]} dials, {count["ups"]} ups, {count["downs"]} downs; '
          f'timers at most {count["late_us"] / 1000:.1f} ms late')
    print(f'  messages    {count["sent"]} sent, {count["received"]} received, {count["echoed"]} echoed; lost: '
          f'{count["lost_acked"]} acked, {count["lost_in_doubt"]} in doubt, {count["lost_unsent"]} unsent; '
          f'{count["from_nobody"]} received on connections that were dead when accepted')
    for event in ('down', 'dial_failed'):
      told = [(number, ' '.join(filter(None, key[1:]))) for key, number in self.deaths.items() if key[0] == event]
      print(f'  {event:<11} ' + ', '.join(f'{what} {number}' for number, what in sorted(told, reverse=True)))
    total = sum(map(len, self.violations.values()))
    verdict = 'see above' if total else f'every link was up {self.slowest:.3f} s after the last fault'
    print(f'chaos: seed {manifest["seed"]}: {len(manifest["faults"])} faults of {len(kinds)} kinds struck {links} links, '
          f'{count["ups"]} ups, {count["downs"]} downs, {count["sent"]} messages; {verdict}; {total} violations')


def main(arguments):
  if len(arguments) != 1:
    print(__doc__)
    return 1
  checker = Checker(pathlib.Path(arguments[0]))
  fine = checker.check()
  checker.report()
  return 0 if fine else 1


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
