#include "sim/names.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string_view>
#include <system_error>

namespace holdfast::internal::sim {
namespace {

constexpr Duration kSlow = std::chrono::seconds(30);
// In the trace, where others write the number of a host.
constexpr std::uint64_t kWho = 0xffff;

SocketAddress V4(std::uint32_t host_order) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(host_order);
  return {reinterpret_cast<const sockaddr*>(&address), sizeof(address)};
}

SocketAddress V6(const in6_addr& ip) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_addr = ip;
  return {reinterpret_cast<const sockaddr*>(&address), sizeof(address)};
}

std::optional<SocketAddress> ParseNumeric(const char* node) {
  in_addr v4{};
  if (::inet_pton(AF_INET, node, &v4) == 1) return V4(ntohl(v4.s_addr));
  in6_addr v6{};
  if (::inet_pton(AF_INET6, node, &v6) == 1) return V6(v6);
  return std::nullopt;
}

// As glibc 2.36: 70000 is a port, of which 16 bits are left.
bool ParsePort(const char* service, std::uint16_t* port) {
  *port = 0;
  if (service == nullptr) return true;
  const char* const end = service + std::strlen(service);
  std::uint32_t value = 0;
  const auto [stopped, error] = std::from_chars(service, end, value);
  *port = static_cast<std::uint16_t>(value);
  return error == std::errc() && stopped == end;
}

addrinfo* NewEntry(const SocketAddress& address, std::uint16_t port, int type) {
  auto* const storage = new sockaddr_storage{};
  std::memcpy(storage, address.data(), address.size());
  if (address.family() == AF_INET) {
    reinterpret_cast<sockaddr_in*>(storage)->sin_port = htons(port);
  } else if (address.family() == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(storage)->sin6_port = htons(port);
  }
  auto* const entry = new addrinfo{};
  entry->ai_family = address.family();
  entry->ai_socktype = type;
  entry->ai_protocol = IPPROTO_TCP;
  entry->ai_addrlen = address.size();
  entry->ai_addr = reinterpret_cast<sockaddr*>(storage);
  return entry;
}

}  // namespace

void Names::EndAll() {
  for (Pending& pending : pending_) schedule_.Wake(pending.sleeper);
}

bool Names::Pause(Duration delay) {
  Pending pending;
  pending_.PushBack(pending);
  const bool ended = schedule_.Block(pending.sleeper, SaturatingAdd(schedule_.now(), delay));
  pending.Unlink();
  return !ended;
}

bool Names::Strikes(Fault fault, const std::string& name) {
  if (!faults_.Strikes(fault)) return false;
  trace_.Mix(kWho, static_cast<std::uint64_t>(fault), schedule_.now().time_since_epoch().count());
  if (trace_.told()) {
    trace_.Tell(schedule_.now(), "names", name + ": " + std::string(ToString(fault)));
  }
  return true;
}

// What the zone says from now on, in `answer`; what it said just now is the result.
std::vector<SocketAddress> Names::Change(Answer& answer) {
  Chance& chance = faults_.random();
  std::vector<SocketAddress>& stored = answer.addresses;
  if (stored.size() == 1) {
    // 192.0.2.0/24 is for documentation (RFC 5737): no host of a world has it.
    const auto nobody = static_cast<std::uint32_t>(chance.Between(1, 254));
    return {V4(0xc0000200 + nobody), stored.front()};
  }
  const auto shift = static_cast<std::ptrdiff_t>(chance.Between(1, stored.size() - 1));
  std::rotate(stored.begin(), stored.begin() + shift, stored.end());
  std::vector<SocketAddress> said = stored;
  if (chance.Below(2) == 0) said.pop_back();
  return said;
}

int Names::LookupName(const std::string& name, std::vector<SocketAddress>* addresses,
                      int* error_number) {
  const auto delayed = answers_.find(name);
  Duration delay = delayed != answers_.end() ? delayed->second.delay : Answer().delay;
  if (Strikes(Fault::kNameSlow, name)) {
    delay = delay > Duration::max() - kSlow ? Duration::max() : delay + kSlow;
  }
  if (!Pause(delay)) return EAI_AGAIN;

  if (Strikes(Fault::kNameTryAgain, name)) return EAI_AGAIN;
  if (Strikes(Fault::kNameUnknown, name)) return EAI_NONAME;
  if (Strikes(Fault::kNameOutOfDescriptors, name)) {
    *error_number = EMFILE;
    return EAI_NONAME;
  }
  if (Strikes(Fault::kNameNoData, name)) return EAI_NODATA;

  const auto found = answers_.find(name);
  if (found == answers_.end()) return EAI_NONAME;
  Answer& answer = found->second;
  *error_number = answer.error_number;
  if (answer.error != 0) return answer.error;
  const bool changes = !answer.addresses.empty() && Strikes(Fault::kNameChanged, name);
  *addresses = changes ? Change(answer) : answer.addresses;
  return 0;
}

int Names::Lookup(const char* node, const char* service, const addrinfo* hints, addrinfo** result,
                  int* error_number) {
  *result = nullptr;
  *error_number = 0;
  std::uint16_t port = 0;
  if (node == nullptr) return EAI_NONAME;
  if (!ParsePort(service, &port)) return EAI_SERVICE;
  const int family = hints != nullptr ? hints->ai_family : AF_UNSPEC;
  const int type = hints != nullptr ? hints->ai_socktype : SOCK_STREAM;

  std::vector<SocketAddress> addresses;
  if (const std::optional<SocketAddress> numeric = ParseNumeric(node); numeric.has_value()) {
    addresses.push_back(*numeric);
  } else if (hints != nullptr && (hints->ai_flags & AI_NUMERICHOST) != 0) {
    return EAI_NONAME;
  } else if (std::string_view(node) == "localhost") {
    addresses = {V6(in6addr_loopback), V4(INADDR_LOOPBACK)};
  } else if (const int error = LookupName(node, &addresses, error_number); error != 0) {
    return error;
  }

  if (family != AF_UNSPEC) {
    std::erase_if(addresses, [&](const SocketAddress& a) { return a.family() != family; });
  }
  if (addresses.empty()) return EAI_NODATA;
  addrinfo** next = result;
  for (const SocketAddress& address : addresses) {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(address.data());
    for (socklen_t i = 0; i < address.size(); ++i) trace_.Mix(bytes[i]);
    *next = NewEntry(address, port, type);
    next = &(*next)->ai_next;
  }
  return 0;
}

void Names::Free(addrinfo* list) {
  while (list != nullptr) {
    addrinfo* const next = list->ai_next;
    delete reinterpret_cast<sockaddr_storage*>(list->ai_addr);
    delete list;
    list = next;
  }
}

}  // namespace holdfast::internal::sim
