// A host and its stacks. Apart from network.cc, which knows hosts and nothing of what runs on them.
#include <algorithm>
#include <utility>

#include "sim/network.h"
#include "sim/tcp.h"
#include "sim/unix_socket.h"

namespace holdfast::internal::sim {

Host::Host(Network& network, std::uint32_t number, std::string name,
           std::vector<SocketAddress> addresses)
    : network_(network),
      number_(number),
      name_(std::move(name)),
      addresses_(std::move(addresses)),
      tcp_(std::make_unique<TcpStack>(*this)),
      unix_(std::make_unique<UnixNames>()) {}

Host::~Host() = default;

bool Host::Owns(const SocketAddress& address) const noexcept {
  return Owns(TcpAddress::From(address.data()));
}

bool Host::Owns(const TcpAddress& address) const noexcept {
  if (address.is_loopback()) return true;
  return std::any_of(addresses_.begin(), addresses_.end(), [&](const SocketAddress& mine) {
    return TcpAddress::From(mine.data()).ip == address.ip;
  });
}

bool Host::SourceFor(const TcpAddress& to, TcpAddress* source) const noexcept {
  // To itself a host sends from the address that it sends to, but for 127.0.0.0/8.
  if (to.is_loopback()) {
    if (to.is_v4()) {
      *source = TcpAddress::V4(0x7f000001);
    } else {
      source->ip = to.ip;
    }
    return true;
  }
  if (Owns(to)) {
    source->ip = to.ip;
    return true;
  }
  for (const SocketAddress& mine : addresses_) {
    const TcpAddress address = TcpAddress::From(mine.data());
    if (address.is_v4() != to.is_v4()) continue;
    source->ip = address.ip;
    return true;
  }
  return false;
}

void Host::Crash() {
  up_ = false;
  tcp_->Clear();
  unix_->Crash();
}

void Host::NoteHeldBack(Duration duration) {
  const Instant now = network_.schedule().now();
  held_back_.Add(now, SaturatingAdd(now, duration));
}

void Host::Arrive(Segment segment) {
  if (up_) tcp_->Arrive(std::move(segment));
}

}  // namespace holdfast::internal::sim
