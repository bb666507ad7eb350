// Communicator: one rank's connections to the others, and what HCCL does over them.
#pragma once

#include "faults.h"
#include "sockets.h"

#include <third_party/hccl/inc/hccl/hccl_types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace fakecann {

// A connection in one direction. One transfer at a time.
struct Lane {
  std::mutex lock;
  Socket socket;
};

class Communicator {
 public:
  Communicator(std::string name, uint32_t ranks, uint32_t rank, void *buffers);
  ~Communicator();

  const std::string &name() const { return name_; }
  uint32_t ranks() const { return ranks_; }
  uint32_t rank() const { return rank_; }
  Lane &outgoing(uint32_t peer) { return outgoing_[peer]; }
  Lane &incoming(uint32_t peer) { return incoming_[peer]; }
  // What HcclGetCommAsyncError tells.
  HcclResult error() const { return static_cast<HcclResult>(error_.load()); }

  // Run on a stream's thread; return 0, or what the stream shall fail with. Sizes in bytes.
  int send(const void *data, uint64_t bytes, uint32_t peer);
  int receive(void *data, uint64_t bytes, uint32_t peer);
  // Of every rank's `bytes` into `all`, in the order of ranks.
  int all_gather(const void *mine, uint64_t bytes, char *all);
  int all_reduce(const void *mine, void *out, uint64_t count, HcclDataType type, HcclReduceOp how);
  int reduce_scatter(const void *mine, void *out, uint64_t count, HcclDataType type,
                     HcclReduceOp how);
  int broadcast(void *data, uint64_t bytes, uint32_t root);
  int barrier();

  // Ends what is running and lets the peers notice.
  void abort();

 private:
  Outcome move(Lane &lane, Way way, char *data, uint64_t bytes, Deadline deadline);
  Outcome stall(Deadline deadline);
  int failed(Outcome outcome, const char *doing, uint32_t peer);
  int is_not_emulated();

  const std::string name_;
  const uint32_t ranks_;
  const uint32_t rank_;
  void *const buffers_;
  std::vector<Lane> outgoing_;
  std::vector<Lane> incoming_;
  std::atomic<int> error_{HCCL_SUCCESS};
  std::atomic<bool> aborted_{false};
};

}  // namespace fakecann
