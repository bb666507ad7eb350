#include "sockets.h"

#include "../fakecann.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <thread>
#include <utility>

namespace fakecann {
namespace {

// How long a wait may overlook that it was told to stop.
constexpr int kLookAgainMs = 50;
constexpr int kPorts = 32;

sockaddr_in loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

int new_socket() { return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); }

bool bind_to(int descriptor, int port) {
  const sockaddr_in address = loopback(port);
  return bind(descriptor, reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0;
}

}  // namespace

Socket::Socket(int descriptor) : descriptor_(descriptor) {
  if (descriptor_ < 0) return;
  const int one = 1;
  fcntl(descriptor_, F_SETFL, fcntl(descriptor_, F_GETFL) | O_NONBLOCK);
  setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

Socket::Socket(Socket &&other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

Socket &Socket::operator=(Socket &&other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Socket::~Socket() {
  if (descriptor_ >= 0) close(descriptor_);
}

void Socket::shut() {
  if (descriptor_ >= 0) shutdown(descriptor_, SHUT_RDWR);
}

template <typename Move>
Outcome Socket::move_all(size_t bytes, short event, Deadline deadline,
                         const std::atomic<bool> *stop, Move move) {
  for (size_t done = 0; done < bytes;) {
    if (stop != nullptr && *stop) return Outcome::kAborted;
    const ssize_t moved = move(done, bytes - done);
    if (moved > 0) {
      done += static_cast<size_t>(moved);
      continue;
    }
    if (moved < 0 && errno == EINTR) continue;
    const bool would_wait = moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    if (!would_wait) return stop != nullptr && *stop ? Outcome::kAborted : Outcome::kLost;
    if (Clock::now() > deadline) return Outcome::kTimedOut;
    pollfd waiting = {descriptor_, event, 0};
    poll(&waiting, 1, kLookAgainMs);
  }
  return Outcome::kDone;
}

Outcome Socket::send(const void *data, size_t bytes, Deadline deadline,
                     const std::atomic<bool> *stop) {
  const char *const start = static_cast<const char *>(data);
  return move_all(bytes, POLLOUT, deadline, stop, [&](size_t done, size_t left) {
    return ::send(descriptor_, start + done, left, MSG_NOSIGNAL);
  });
}

Outcome Socket::receive(void *data, size_t bytes, Deadline deadline,
                        const std::atomic<bool> *stop) {
  char *const start = static_cast<char *>(data);
  return move_all(bytes, POLLIN, deadline, stop, [&](size_t done, size_t left) {
    return ::recv(descriptor_, start + done, left, 0);
  });
}

// HCCL_IF_BASE_PORT is the first of the ports that the real library uses.
Listener::Listener() : descriptor_(new_socket()) {
  const int one = 1;
  setsockopt(descriptor_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  const int base = static_cast<int>(number_setting("HCCL_IF_BASE_PORT", 0));
  bool bound = base == 0 && bind_to(descriptor_, 0);
  for (int port = base; base != 0 && !bound && port < base + kPorts; ++port) {
    bound = bind_to(descriptor_, port);
  }
  if (!bound || listen(descriptor_, kPorts) != 0) return;
  sockaddr_in address = {};
  socklen_t length = sizeof address;
  getsockname(descriptor_, reinterpret_cast<sockaddr *>(&address), &length);
  fcntl(descriptor_, F_SETFL, fcntl(descriptor_, F_GETFL) | O_NONBLOCK);
  port_ = ntohs(address.sin_port);
}

Listener::~Listener() {
  if (descriptor_ >= 0) close(descriptor_);
}

Socket Listener::accept(Deadline deadline) {
  while (Clock::now() < deadline) {
    const int descriptor = accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC);
    if (descriptor >= 0) return Socket(descriptor);
    pollfd waiting = {descriptor_, POLLIN, 0};
    poll(&waiting, 1, kLookAgainMs);
  }
  return Socket();
}

Socket connect_to(int port, Deadline deadline) {
  const sockaddr_in address = loopback(port);
  do {
    const int descriptor = new_socket();
    if (connect(descriptor, reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0) {
      return Socket(descriptor);
    }
    close(descriptor);
    std::this_thread::sleep_for(std::chrono::milliseconds(kLookAgainMs));
  } while (Clock::now() < deadline);
  return Socket();
}

}  // namespace fakecann
