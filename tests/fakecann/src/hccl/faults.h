// Faults: what a test asked to go wrong, by environment variables. README.md has the table.
#pragma once

#include <cstdint>

namespace fakecann {

enum class Way { kSent, kReceived };
enum class Fault { kNone, kKill, kCorrupt, kStall };

struct Strike {
  Fault fault;
  // How many bytes of the transfer come before it.
  uint64_t after;
};

// Counts the bytes of a transfer that begins now, and says whether a fault strikes in it.
Strike next_strike(Way way, uint64_t bytes);

// Waits as long as each operation shall begin late.
void begin_late();

// Whether a peer's death is told (as an error) or just never ends what waits for the peer.
bool death_is_told();

}  // namespace fakecann
