#include "faults.h"

#include "../fakecann.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace fakecann {
namespace {

struct Plan {
  const char *sent;
  const char *received;
  Fault fault;
};

constexpr Plan kPlans[] = {
    {"FAKECANN_KILL_AT_SENT", "FAKECANN_KILL_AT_RECEIVED", Fault::kKill},
    {"FAKECANN_CORRUPT_AT_SENT", "FAKECANN_CORRUPT_AT_RECEIVED", Fault::kCorrupt},
    {"FAKECANN_STALL_AT_SENT", "FAKECANN_STALL_AT_RECEIVED", Fault::kStall},
};

std::atomic<uint64_t> sent{0};
std::atomic<uint64_t> received{0};

// Where FAKECANN_ARMED_BY names a file, faults and counts begin once the file exists.
bool armed() {
  const std::string file = text_setting("FAKECANN_ARMED_BY", "");
  return file.empty() || access(file.c_str(), F_OK) == 0;
}

}  // namespace

Strike next_strike(Way way, uint64_t bytes) {
  if (!armed()) return {Fault::kNone, 0};
  const uint64_t start = (way == Way::kSent ? sent : received).fetch_add(bytes);
  for (const Plan &plan : kPlans) {
    const int64_t at = number_setting(way == Way::kSent ? plan.sent : plan.received, -1);
    if (at < 0) continue;
    const uint64_t byte = static_cast<uint64_t>(at);
    if (byte >= start && byte < start + bytes) return {plan.fault, byte - start};
  }
  return {Fault::kNone, 0};
}

void begin_late() {
  const int64_t delay = armed() ? number_setting("FAKECANN_DELAY_MS", 0) : 0;
  if (delay > 0) std::this_thread::sleep_for(std::chrono::milliseconds(delay));
}

bool death_is_told() {
  const std::string wanted = text_setting("FAKECANN_PEER_DEATH", "error");
  if (wanted == "error" || wanted == "silence") return wanted == "error";
  complain("FAKECANN_PEER_DEATH is '%s', neither error nor silence: stopping", wanted.c_str());
  std::abort();
}

}  // namespace fakecann
