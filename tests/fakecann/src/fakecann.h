// What the files of the emulated CANN share: settings, messages, devices, memory and streams.
//
// Everything here is exported by libascendcl.so, and libhccl.so uses it.
#pragma once

#include <acl/acl.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace fakecann {

// Codes that CANN documents without a name in the headers torch_npu ships.
constexpr int kDeviceInvalid = 107001;
constexpr int kNoContext = 107002;
constexpr int kStreamInvalid = 107003;
// What the runtime says of a feature that a device does not have: torch_npu then does without.
constexpr int kNotSupported = 207000;
constexpr int kOutOfMemory = 207001;
constexpr int kStreamTimeout = 507046;
// What a stream reports after one of its tasks failed.
constexpr int kTaskFailed = 507048;

// --- settings.cpp: what the environment says. README.md has the table.

std::string text_setting(const char *name, const char *otherwise);
int64_t number_setting(const char *name, int64_t otherwise);
bool flag_setting(const char *name);

// --- messages.cpp

// Writes a line to stderr and keeps it for this thread's aclGetRecentErrMsg. Every refusal does.
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
// Writes a line to stderr where FAKECANN_TRACE is set.
void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

// --- devices.cpp

int device_count();
// The calling thread's device: the one it set, or 0 after aclInit. -1 before.
int current_device();
// Makes a thread of the emulation belong to a device.
void adopt_device(int device);

// --- memory.cpp

// Takes bytes of the calling thread's device. Null when its memory is used up.
void *take_device_memory(size_t bytes);
void give_back_memory(void *address);
// Whether a device allocation holds all of [address, address + bytes). Says what is wrong if not.
bool within_device_memory(const char *who, const void *address, size_t bytes);

// --- streams.cpp

// Runs on a stream, after what was put there before. A result other than 0 fails the stream.
using Task = std::function<int()>;
// Returns ACL_SUCCESS, or an error for a stream that does not exist.
int put_on_stream(aclrtStream stream, Task task);

}  // namespace fakecann
