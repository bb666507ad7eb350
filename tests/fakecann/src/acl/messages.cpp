// Messages: what the emulation says on stderr, and the last error of a thread.
#include "../fakecann.h"
#include "../refusals.h"

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace fakecann {
namespace {

thread_local std::string recent;

std::string formatted(const char *format, va_list values) {
  char line[1024];
  std::vsnprintf(line, sizeof line, format, values);
  return line;
}

void print(const std::string &line) {
  std::fprintf(stderr, "[fakecann %d] %s\n", getpid(), line.c_str());
}

}  // namespace

void complain(const char *format, ...) {
  va_list values;
  va_start(values, format);
  recent = formatted(format, values);
  va_end(values);
  print(recent);
}

void trace(const char *format, ...) {
  static const bool wanted = flag_setting("FAKECANN_TRACE");
  if (!wanted) return;
  va_list values;
  va_start(values, format);
  print(formatted(format, values));
  va_end(values);
}

int refuse_function(const char *name) {
  complain("%s is not emulated", name);
  return kNotSupported;
}

void stop_at_function(const char *name) {
  complain("%s is not emulated, and cannot fail: stopping", name);
  std::abort();
}

}  // namespace fakecann

extern "C" {

const char *aclGetRecentErrMsg() {
  static thread_local std::string handed_out;
  handed_out = "fakecann: " + (fakecann::recent.empty() ? "no message" : fakecann::recent);
  fakecann::recent.clear();
  return handed_out.c_str();
}

// CANN's own log. ASCEND_GLOBAL_LOG_LEVEL and ASCEND_SLOG_PRINT_TO_STDOUT mean what they do there.
void aclAppLog(aclLogLevel level, const char *function, const char *, uint32_t,
               const char *format, ...) {
  static const bool wanted = fakecann::flag_setting("ASCEND_SLOG_PRINT_TO_STDOUT");
  static const int64_t least = fakecann::number_setting("ASCEND_GLOBAL_LOG_LEVEL", ACL_ERROR);
  if (!wanted || level < least) return;
  va_list values;
  va_start(values, format);
  fakecann::print(std::string(function) + ": " + fakecann::formatted(format, values));
  va_end(values);
}
}
