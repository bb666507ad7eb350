// Sockets on loopback whose every wait has an end.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>

namespace fakecann {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

enum class Outcome { kDone, kLost, kTimedOut, kAborted };

class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor);
  Socket(Socket &&other) noexcept;
  Socket &operator=(Socket &&other) noexcept;
  ~Socket();

  bool is_open() const { return descriptor_ >= 0; }
  // Give up once `stop` is set, which may be null.
  Outcome send(const void *data, size_t bytes, Deadline deadline, const std::atomic<bool> *stop);
  Outcome receive(void *data, size_t bytes, Deadline deadline, const std::atomic<bool> *stop);
  // Wakes everybody who waits, here and at the other end.
  void shut();

 private:
  template <typename Move>
  Outcome move_all(size_t bytes, short event, Deadline deadline, const std::atomic<bool> *stop,
                   Move move);

  int descriptor_ = -1;
};

class Listener {
 public:
  Listener();
  ~Listener();
  Listener(const Listener &) = delete;
  Listener &operator=(const Listener &) = delete;

  // 0 where no port was to be had.
  int port() const { return port_; }
  // A closed socket after the deadline.
  Socket accept(Deadline deadline);

 private:
  int descriptor_ = -1;
  int port_ = 0;
};

// Tries again until the deadline; then a closed socket.
Socket connect_to(int port, Deadline deadline);

}  // namespace fakecann
