// Link options as a plan has them.
#ifndef HOLDFAST_TOOLS_SWARM_LINK_OPTIONS_H_
#define HOLDFAST_TOOLS_SWARM_LINK_OPTIONS_H_

#include <holdfast/link.h>

namespace holdfast::swarm {

// Options cannot be copied, because callbacks cannot. What a plan may draw is copied here.
inline LinkOptions CopyWithoutCallbacks(const LinkOptions& from) {
  LinkOptions to;
  to.endpoints = from.endpoints;
  to.backoff = from.backoff;
  to.attempts_max = from.attempts_max;
  to.give_up_after = from.give_up_after;
  to.protocol_errors_max = from.protocol_errors_max;
  to.healthy_after = from.healthy_after;
  to.connect_timeout = from.connect_timeout;
  to.attempt_timeout = from.attempt_timeout;
  to.login_timeout = from.login_timeout;
  to.silence_max = from.silence_max;
  to.ping = from.ping;
  to.ping_interval = from.ping_interval;
  to.queue_high = from.queue_high;
  to.queue_low = from.queue_low;
  to.queue_max = from.queue_max;
  to.on_loss = from.on_loss;
  to.drain = from.drain;
  to.socket.send_buffer = from.socket.send_buffer;
  to.socket.receive_buffer = from.socket.receive_buffer;
  return to;
}

}  // namespace holdfast::swarm

#endif  // HOLDFAST_TOOLS_SWARM_LINK_OPTIONS_H_
