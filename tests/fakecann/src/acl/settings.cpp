// Settings: read from the environment each time, so that a test may change them in a process.
#include "../fakecann.h"

#include <cstdlib>

namespace fakecann {

std::string text_setting(const char *name, const char *otherwise) {
  const char *value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

int64_t number_setting(const char *name, int64_t otherwise) {
  const char *value = std::getenv(name);
  if (value == nullptr || *value == '\0') return otherwise;
  char *end = nullptr;
  const int64_t number = std::strtoll(value, &end, 10);
  if (*end != '\0') {
    complain("%s is '%s', which is no number: stopping", name, value);
    std::abort();
  }
  return number;
}

bool flag_setting(const char *name) { return number_setting(name, 0) != 0; }

}  // namespace fakecann
