"""A name server of our own: what each name is changes while the program runs.

It speaks the DNS of RFC 1035 as far as getaddrinfo(3) asks it: one question, of type A or AAAA. It serves in
network namespaces of others, by a thread for each, which has moved there.
"""
import ctypes
import ipaddress
import os
import socket
import struct
import threading

CLONE_NEWNET = 0x40000000
TYPE_A, TYPE_AAAA = 1, 28
OK, SERVFAIL, NXDOMAIN = 0, 2, 3
RESPONSE = 0x8180  # An answer, recursion desired and available.


class Zone:
  """Name -> addresses, or 'not_found', 'servfail', 'silent'. Assignment is atomic: no lock."""

  def __init__(self):
    self.names = {}

  def answer(self, query):
    """The reply to `query` in bytes, or None for silence."""
    labels, at = [], 12
    while query[at]:
      labels.append(query[at + 1:at + 1 + query[at]].decode('ascii'))
      at += 1 + query[at]
    question = query[12:at + 5]
    wanted = struct.unpack('!H', query[at + 1:at + 3])[0]
    what = self.names.get('.'.join(labels).lower(), 'not_found')
    if what == 'silent':
      return None
    code = NXDOMAIN if what == 'not_found' else SERVFAIL if what == 'servfail' else OK
    records = []
    for text in what if code == OK else ():
      address = ipaddress.ip_address(text)
      if wanted == (TYPE_A if address.version == 4 else TYPE_AAAA):
        data = address.packed
        records.append(b'\xc0\x0c' + struct.pack('!HHIH', wanted, 1, 0, len(data)) + data)
    return query[:2] + struct.pack('!HHHHH', RESPONSE | code, 1, len(records), 0, 0) + question + b''.join(records)


def serve(zone, namespace):
  """Answers on port 53 of the loopback of `namespace`, for as long as this process lives."""
  ready, problems = threading.Event(), []

  def run():
    try:
      fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
      libc = ctypes.CDLL(None, use_errno=True)
      if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), 'setns')
      os.close(fd)
      server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
      server.bind(('127.0.0.1', 53))
    except OSError as error:
      problems.append(error)
      return ready.set()
    ready.set()
    while True:
      query, client = server.recvfrom(4096)
      try:
        reply = zone.answer(query)
      except (IndexError, struct.error, UnicodeDecodeError):
        continue
      if reply:
        server.sendto(reply, client)

  threading.Thread(target=run, daemon=True).start()
  ready.wait()
  if problems:
    raise problems[0]
