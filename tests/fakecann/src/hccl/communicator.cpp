// A transfer is a header with its size, the bytes, and a byte back once all have arrived: so a send
// is done when the peer has the data, and a size that does not fit is noticed.
#include "communicator.h"

#include "../fakecann.h"
#include "reduce.h"

#include <csignal>
#include <cstring>
#include <thread>
#include <unistd.h>

namespace fakecann {
namespace {

constexpr uint64_t kTransfer = 0xFA4ECA44'00000001;
constexpr auto kLookAgain = std::chrono::milliseconds(20);

struct Header {
  uint64_t magic;
  uint64_t bytes;
};

Deadline execution_deadline() {
  return Clock::now() + std::chrono::seconds(number_setting("HCCL_EXEC_TIMEOUT", 1836));
}

}  // namespace

Communicator::Communicator(std::string name, uint32_t ranks, uint32_t rank, void *buffers)
    : name_(std::move(name)),
      ranks_(ranks),
      rank_(rank),
      buffers_(buffers),
      outgoing_(ranks),
      incoming_(ranks) {}

Communicator::~Communicator() { give_back_memory(buffers_); }

void Communicator::abort() {
  aborted_ = true;
  for (uint32_t peer = 0; peer < ranks_; ++peer) {
    outgoing_[peer].socket.shut();
    incoming_[peer].socket.shut();
  }
}

Outcome Communicator::stall(Deadline deadline) {
  while (!aborted_ && Clock::now() < deadline) std::this_thread::sleep_for(kLookAgain);
  return aborted_ ? Outcome::kAborted : Outcome::kTimedOut;
}

Outcome Communicator::move(Lane &lane, Way way, char *data, uint64_t bytes, Deadline deadline) {
  const auto run = [&](char *at, uint64_t count) {
    return way == Way::kSent ? lane.socket.send(at, count, deadline, &aborted_)
                             : lane.socket.receive(at, count, deadline, &aborted_);
  };
  const Strike strike = next_strike(way, bytes);
  if (strike.fault == Fault::kNone) return run(data, bytes);
  const char *const verb = way == Way::kSent ? "sent" : "received";
  Outcome outcome = run(data, strike.after);
  if (outcome != Outcome::kDone) return outcome;
  switch (strike.fault) {
    case Fault::kKill:
      complain("fault: killed with %lu bytes of a transfer %s", strike.after, verb);
      kill(getpid(), SIGKILL);
      return Outcome::kLost;
    case Fault::kStall:
      complain("fault: silent with %lu bytes of a transfer %s", strike.after, verb);
      return stall(deadline);
    default:
      break;
  }
  complain("fault: a wrong byte after %lu bytes of a transfer %s", strike.after, verb);
  // The sender's own memory stays as it is.
  char wrong = static_cast<char>(~data[strike.after]);
  outcome = run(&wrong, 1);
  if (way == Way::kReceived) data[strike.after] = static_cast<char>(~wrong);
  if (outcome != Outcome::kDone) return outcome;
  return run(data + strike.after + 1, bytes - strike.after - 1);
}

int Communicator::failed(Outcome outcome, const char *doing, uint32_t peer) {
  if (outcome == Outcome::kDone) return 0;
  if (outcome == Outcome::kAborted) return kTaskFailed;
  const bool lost = outcome == Outcome::kLost;
  complain("communicator '%s', rank %u: %s %u: %s", name_.c_str(), rank_, doing, peer,
           lost ? "the connection is lost" : "HCCL_EXEC_TIMEOUT has passed");
  if (lost && !death_is_told()) {
    // Nobody hears of it before the operation takes too long.
    if (stall(execution_deadline()) == Outcome::kAborted) return kTaskFailed;
  }
  error_ = lost && death_is_told() ? HCCL_E_REMOTE : HCCL_E_TIMEOUT;
  return kTaskFailed;
}

int Communicator::send(const void *data, uint64_t bytes, uint32_t peer) {
  begin_late();
  Lane &lane = outgoing_[peer];
  const std::lock_guard<std::mutex> guard(lane.lock);
  const Deadline deadline = execution_deadline();
  const Header header = {kTransfer, bytes};
  char *const start = static_cast<char *>(const_cast<void *>(data));
  char arrived = 0;
  Outcome outcome = lane.socket.send(&header, sizeof header, deadline, &aborted_);
  if (outcome == Outcome::kDone) outcome = move(lane, Way::kSent, start, bytes, deadline);
  if (outcome == Outcome::kDone) outcome = lane.socket.receive(&arrived, 1, deadline, &aborted_);
  return failed(outcome, "send to rank", peer);
}

int Communicator::receive(void *data, uint64_t bytes, uint32_t peer) {
  begin_late();
  Lane &lane = incoming_[peer];
  const std::lock_guard<std::mutex> guard(lane.lock);
  const Deadline deadline = execution_deadline();
  Header header = {};
  const char arrived = 1;
  Outcome outcome = lane.socket.receive(&header, sizeof header, deadline, &aborted_);
  if (outcome == Outcome::kDone && (header.magic != kTransfer || header.bytes != bytes)) {
    complain("communicator '%s', rank %u: rank %u sends %lu bytes, %lu are received",
             name_.c_str(), rank_, peer, header.bytes, bytes);
    error_ = HCCL_E_PARA;
    // The sender must not wait for a byte that never comes.
    lane.socket.shut();
    return kTaskFailed;
  }
  if (outcome == Outcome::kDone) {
    outcome = move(lane, Way::kReceived, static_cast<char *>(data), bytes, deadline);
  }
  if (outcome == Outcome::kDone) outcome = lane.socket.send(&arrived, 1, deadline, &aborted_);
  return failed(outcome, "receive from rank", peer);
}

int Communicator::all_gather(const void *mine, uint64_t bytes, char *all) {
  // `mine` may be the place in `all` where it belongs.
  std::memmove(all + rank_ * bytes, mine, bytes);
  int sending = 0;
  std::thread sender([&] {
    for (uint32_t step = 1; step < ranks_ && sending == 0; ++step) {
      sending = send(all + rank_ * bytes, bytes, (rank_ + step) % ranks_);
    }
  });
  int receiving = 0;
  for (uint32_t step = 1; step < ranks_ && receiving == 0; ++step) {
    const uint32_t peer = (rank_ + ranks_ - step) % ranks_;
    receiving = receive(all + peer * bytes, bytes, peer);
  }
  sender.join();
  return sending != 0 ? sending : receiving;
}

int Communicator::is_not_emulated() {
  error_ = HCCL_E_NOT_SUPPORT;
  return kTaskFailed;
}

int Communicator::all_reduce(const void *mine, void *out, uint64_t count, HcclDataType type,
                             HcclReduceOp how) {
  const uint64_t bytes = count * element_bytes(type);
  std::vector<char> all(bytes * ranks_);
  if (const int error = all_gather(mine, bytes, all.data())) return error;
  std::vector<const char *> parts;
  for (uint32_t rank = 0; rank < ranks_; ++rank) parts.push_back(all.data() + rank * bytes);
  return reduce(out, parts, count, type, how) ? 0 : is_not_emulated();
}

int Communicator::reduce_scatter(const void *mine, void *out, uint64_t count, HcclDataType type,
                                 HcclReduceOp how) {
  const uint64_t part = count * element_bytes(type);
  const uint64_t bytes = part * ranks_;
  std::vector<char> all(bytes * ranks_);
  if (const int error = all_gather(mine, bytes, all.data())) return error;
  std::vector<const char *> parts;
  for (uint32_t rank = 0; rank < ranks_; ++rank) {
    parts.push_back(all.data() + rank * bytes + rank_ * part);
  }
  return reduce(out, parts, count, type, how) ? 0 : is_not_emulated();
}

int Communicator::broadcast(void *data, uint64_t bytes, uint32_t root) {
  if (rank_ != root) return receive(data, bytes, root);
  for (uint32_t peer = 0; peer < ranks_; ++peer) {
    if (peer == root) continue;
    if (const int error = send(data, bytes, peer)) return error;
  }
  return 0;
}

int Communicator::barrier() {
  const char here = 1;
  std::vector<char> all(ranks_);
  return all_gather(&here, 1, all.data());
}

}  // namespace fakecann
