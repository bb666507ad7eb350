// Captures: which calls a captured stream forbids.
#pragma once

#include <acl/acl.h>

namespace fakecann {

// An error where a synchronous call spoils a capture that is under way, which it then does.
int spoils_a_capture(const char *who);
bool is_captured(aclrtStream stream);

}  // namespace fakecann
