// Rendezvous: ranks that know one root's address become a communicator.
#pragma once

#include "communicator.h"

namespace fakecann {

// What HcclRootInfo holds.
struct Root {
  uint32_t magic;
  int32_t port;
};

// Starts a thread that waits for the ranks of one communicator. `port` is 0 if that failed.
Root open_root();
bool is_root(const Root &root);

// Connects a new communicator's lanes to all ranks. Bounded by HCCL_CONNECT_TIMEOUT.
HcclResult meet(const Root &root, Communicator &communicator);

}  // namespace fakecann
