// holdfast: connections that stay up. This header is all of them.
//
// Read link.h first; reactor.h for the loop, listener.h and stream.h for the other side, error.h for
// what a failure means.
#ifndef HOLDFAST_HOLDFAST_H_
#define HOLDFAST_HOLDFAST_H_

#include <holdfast/backoff.h>
#include <holdfast/endpoint.h>
#include <holdfast/error.h>
#include <holdfast/framing.h>
#include <holdfast/link.h>
#include <holdfast/link_state.h>
#include <holdfast/listener.h>
#include <holdfast/message.h>
#include <holdfast/reactor.h>
#include <holdfast/socket_options.h>
#include <holdfast/stream.h>
#include <holdfast/time.h>
#include <holdfast/timer.h>
#include <holdfast/version.h>

#endif  // HOLDFAST_HOLDFAST_H_
