// Captures: while a stream is captured in the global mode, synchronous copies of all threads fail,
// and the capture with them, but for threads that have exchanged their mode. As in CANN's open
// runtime (its guide on captured streams). A capture here holds no task: what is put on its stream
// is refused.
#include "../fakecann.h"
#include "captures.h"

#include <mutex>

namespace fakecann {
namespace {

constexpr int kCaptured = 107027;
constexpr int kNotCaptured = 107028;
constexpr int kModeNotSupported = 107030;
constexpr int kInvalidated = 507903;

std::mutex lock;
aclrtStream captured = nullptr;
aclmdlRICaptureMode mode = ACL_MODEL_RI_CAPTURE_MODE_RELAXED;
bool invalidated = false;
thread_local bool captures = false;
thread_local aclmdlRICaptureMode allowed = ACL_MODEL_RI_CAPTURE_MODE_GLOBAL;

}  // namespace

int spoils_a_capture(const char *who) {
  const std::lock_guard<std::mutex> guard(lock);
  if (captured == nullptr || allowed == ACL_MODEL_RI_CAPTURE_MODE_RELAXED) return ACL_SUCCESS;
  const bool everywhere = mode == ACL_MODEL_RI_CAPTURE_MODE_GLOBAL &&
                          allowed == ACL_MODEL_RI_CAPTURE_MODE_GLOBAL;
  const bool here = captures && mode != ACL_MODEL_RI_CAPTURE_MODE_RELAXED;
  if (!everywhere && !here) return ACL_SUCCESS;
  invalidated = true;
  complain("%s while a stream is captured", who);
  return kModeNotSupported;
}

bool is_captured(aclrtStream stream) {
  const std::lock_guard<std::mutex> guard(lock);
  return stream != nullptr && stream == captured;
}

}  // namespace fakecann

extern "C" {

aclError aclmdlRICaptureBegin(aclrtStream stream, aclmdlRICaptureMode wanted) {
  const std::lock_guard<std::mutex> guard(fakecann::lock);
  if (fakecann::captured != nullptr) return fakecann::kCaptured;
  fakecann::captured = stream;
  fakecann::mode = wanted;
  fakecann::invalidated = false;
  fakecann::captures = true;
  return ACL_SUCCESS;
}

aclError aclmdlRICaptureEnd(aclrtStream stream, aclmdlRI *made) {
  const std::lock_guard<std::mutex> guard(fakecann::lock);
  if (stream != fakecann::captured) return fakecann::kNotCaptured;
  fakecann::captured = nullptr;
  fakecann::captures = false;
  *made = nullptr;
  return fakecann::invalidated ? fakecann::kInvalidated : ACL_SUCCESS;
}

aclError aclmdlRICaptureThreadExchangeMode(aclmdlRICaptureMode *wanted) {
  const aclmdlRICaptureMode before = fakecann::allowed;
  fakecann::allowed = *wanted;
  *wanted = before;
  return ACL_SUCCESS;
}
}
