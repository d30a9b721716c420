// The version of these headers; holdfast.pc says the same.
#ifndef HOLDFAST_VERSION_H_
#define HOLDFAST_VERSION_H_

#define HOLDFAST_VERSION "0.1.0"

#endif  // HOLDFAST_VERSION_H_
