// Each rank tells the root the port that it listens on, and gets the ports of all. Then it connects
// to every other rank, and is connected to: two lanes for each pair, one for each direction.
#include "rendezvous.h"

#include "../fakecann.h"

#include <memory>
#include <thread>

namespace fakecann {
namespace {

constexpr uint32_t kMagic = 0xFA4ECA44;

struct Hello {
  uint32_t magic;
  uint32_t ranks;
  uint32_t rank;
  int32_t port;
};

Deadline connect_deadline() {
  return Clock::now() + std::chrono::seconds(number_setting("HCCL_CONNECT_TIMEOUT", 120));
}

void serve(const std::shared_ptr<Listener> &listener) {
  const Deadline deadline = connect_deadline();
  std::vector<Socket> ranks;
  std::vector<int32_t> ports;
  for (size_t here = 0; ranks.empty() || here < ranks.size();) {
    Socket socket = listener->accept(deadline);
    if (!socket.is_open()) return;
    Hello hello = {};
    if (socket.receive(&hello, sizeof hello, deadline, nullptr) != Outcome::kDone) continue;
    if (hello.magic != kMagic || hello.rank >= hello.ranks) continue;
    if (ranks.empty()) {
      ranks.resize(hello.ranks);
      ports.resize(hello.ranks);
    }
    if (hello.ranks != ranks.size() || ranks[hello.rank].is_open()) continue;
    ranks[hello.rank] = std::move(socket);
    ports[hello.rank] = hello.port;
    ++here;
  }
  for (Socket &socket : ranks) {
    socket.send(ports.data(), ports.size() * sizeof ports[0], deadline, nullptr);
  }
}

}  // namespace

Root open_root() {
  const auto listener = std::make_shared<Listener>();
  if (listener->port() != 0) std::thread(serve, listener).detach();
  return {kMagic, listener->port()};
}

bool is_root(const Root &root) { return root.magic == kMagic; }

HcclResult meet(const Root &root, Communicator &communicator) {
  const uint32_t ranks = communicator.ranks();
  const uint32_t me = communicator.rank();
  if (ranks == 1) return HCCL_SUCCESS;
  const Deadline deadline = connect_deadline();
  Listener listener;
  if (listener.port() == 0) {
    complain("HCCL found no port to listen on");
    return HCCL_E_NETWORK;
  }
  const Hello hello = {kMagic, ranks, me, listener.port()};
  std::vector<int32_t> ports(ranks);
  Socket to_root = connect_to(root.port, deadline);
  if (!to_root.is_open() ||
      to_root.send(&hello, sizeof hello, deadline, nullptr) != Outcome::kDone ||
      to_root.receive(ports.data(), ranks * sizeof ports[0], deadline, nullptr) != Outcome::kDone) {
    complain("HCCL: rank %u of %u waited in vain for the others", me, ranks);
    return HCCL_E_TIMEOUT;
  }
  for (uint32_t peer = 0; peer < ranks; ++peer) {
    if (peer == me) continue;
    Socket socket = connect_to(ports[peer], deadline);
    if (!socket.is_open() || socket.send(&me, sizeof me, deadline, nullptr) != Outcome::kDone) {
      complain("HCCL: rank %u does not reach rank %u", me, peer);
      return HCCL_E_TIMEOUT;
    }
    communicator.outgoing(peer).socket = std::move(socket);
  }
  for (uint32_t count = 1; count < ranks; ++count) {
    Socket socket = listener.accept(deadline);
    uint32_t peer = ranks;
    if (!socket.is_open() ||
        socket.receive(&peer, sizeof peer, deadline, nullptr) != Outcome::kDone || peer >= ranks) {
      complain("HCCL: rank %u was not reached by all", me);
      return HCCL_E_TIMEOUT;
    }
    communicator.incoming(peer).socket = std::move(socket);
  }
  return HCCL_SUCCESS;
}

}  // namespace fakecann
