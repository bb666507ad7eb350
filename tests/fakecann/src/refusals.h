// What a function of CANN does that the emulation does not have: it says its name, and fails.
#pragma once

namespace fakecann {

// Returns CANN's code for a feature that is not supported.
int refuse_function(const char *name);
// For a function that has no way to fail.
[[noreturn]] void stop_at_function(const char *name);

}  // namespace fakecann
