// Memory: device memory and pinned memory are host memory with a guard page on either side.
//
// A table knows every allocation, so that a copy, a transfer or an operator that leaves one is
// refused. Host code that leaves one (a CPU kernel run on emulated memory) meets a guard page: an
// allocation ends within 511 bytes of the page behind it.
#include "../fakecann.h"
#include "captures.h"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

namespace fakecann {
namespace {

constexpr size_t kAlignment = 512;

struct Allocation {
  uintptr_t start;
  size_t bytes;
  uintptr_t mapping;
  size_t mapped;
  bool on_device;
  int device;
};

std::mutex lock;
std::map<uintptr_t, Allocation> allocations;
std::map<int, size_t> used;

size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

size_t device_bytes() {
  return static_cast<size_t>(number_setting("FAKECANN_MEMORY_MB", 64 << 10)) << 20;
}

void *take(size_t bytes, bool on_device) {
  const int device = current_device() < 0 ? 0 : current_device();
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t charged = rounded(bytes, kAlignment);
  const size_t body = rounded(charged, page);
  const std::lock_guard<std::mutex> guard(lock);
  if (on_device && used[device] + charged > device_bytes()) {
    trace("device %d has no %zu bytes: %zu of %zu are used", device, charged, used[device],
          device_bytes());
    return nullptr;
  }
  const size_t mapped = body + 2 * page;
  const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void *mapping = mmap(nullptr, mapped, PROT_NONE, how, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  const uintptr_t base = reinterpret_cast<uintptr_t>(mapping);
  if (mprotect(reinterpret_cast<void *>(base + page), body, PROT_READ | PROT_WRITE) != 0) {
    munmap(mapping, mapped);
    return nullptr;
  }
  const uintptr_t start = base + page + body - charged;
  allocations[start] = {start, bytes, base, mapped, on_device, device};
  if (on_device) used[device] += charged;
  return reinterpret_cast<void *>(start);
}

int give_back(void *address) {
  if (address == nullptr) return ACL_SUCCESS;
  const std::lock_guard<std::mutex> guard(lock);
  const auto found = allocations.find(reinterpret_cast<uintptr_t>(address));
  if (found == allocations.end()) {
    complain("%p is freed, which is no allocation", address);
    return ACL_ERROR_INVALID_PARAM;
  }
  const Allocation &gone = found->second;
  if (gone.on_device) used[gone.device] -= rounded(gone.bytes, kAlignment);
  munmap(reinterpret_cast<void *>(gone.mapping), gone.mapped);
  allocations.erase(found);
  return ACL_SUCCESS;
}

// The allocation whose mapping, guard pages included, an address lies in.
std::optional<Allocation> around(const void *address) {
  const uintptr_t wanted = reinterpret_cast<uintptr_t>(address);
  const std::lock_guard<std::mutex> guard(lock);
  auto next = allocations.upper_bound(wanted);
  // An address in the page before an allocation lies below its start.
  if (next != allocations.end() && wanted >= next->second.mapping) return next->second;
  if (next == allocations.begin()) return std::nullopt;
  const Allocation &before = std::prev(next)->second;
  if (wanted < before.mapping + before.mapped) return before;
  return std::nullopt;
}

bool holds(const Allocation &allocation, const void *address, size_t bytes) {
  const uintptr_t wanted = reinterpret_cast<uintptr_t>(address);
  return wanted >= allocation.start && wanted + bytes <= allocation.start + allocation.bytes;
}

// Whether a copy may touch [address, address + bytes), on the device or not.
bool may_touch(const char *who, const void *address, size_t bytes, bool on_device) {
  const std::optional<Allocation> allocation = around(address);
  if ((allocation && allocation->on_device) != on_device) {
    complain("%s: %p is %s device", who, address, on_device ? "not on the" : "on a");
    return false;
  }
  if (allocation && !holds(*allocation, address, bytes)) {
    complain("%s: %zu bytes at %p leave the allocation of %zu bytes at %p", who, bytes, address,
             allocation->bytes, reinterpret_cast<void *>(allocation->start));
    return false;
  }
  return true;
}

int copy(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind kind) {
  if (bytes > room) {
    complain("copy of %zu bytes into %zu", bytes, room);
    return ACL_ERROR_INVALID_PARAM;
  }
  const bool to_device = kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  const bool from_device = kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  if (!may_touch("copy to", to, bytes, to_device)) return ACL_ERROR_INVALID_PARAM;
  if (!may_touch("copy from", from, bytes, from_device)) return ACL_ERROR_INVALID_PARAM;
  std::memmove(to, from, bytes);
  return ACL_SUCCESS;
}

int fill(void *at, size_t room, int value, size_t bytes) {
  if (bytes > room || !within_device_memory("memset", at, bytes)) return ACL_ERROR_INVALID_PARAM;
  std::memset(at, value, bytes);
  return ACL_SUCCESS;
}

struct sigaction before_us;

// Says which allocation a wild access left, then lets the signal do what it did before.
void on_wild_access(int number, siginfo_t *info, void *) {
  // The crashing thread may hold the lock itself. Then the plain crash has to do.
  if (lock.try_lock()) {
    for (const auto &[start, allocation] : allocations) {
      const uintptr_t at = reinterpret_cast<uintptr_t>(info->si_addr);
      if (at < allocation.mapping || at >= allocation.mapping + allocation.mapped) continue;
      char line[160];
      const int length = std::snprintf(
          line, sizeof line,
          "[fakecann %d] access at %p, out of the allocation of %zu bytes at %p\n", getpid(),
          info->si_addr, allocation.bytes, reinterpret_cast<void *>(start));
      if (write(STDERR_FILENO, line, static_cast<size_t>(length)) < 0) break;
    }
    lock.unlock();
  }
  sigaction(number, &before_us, nullptr);
}

}  // namespace

void *take_device_memory(size_t bytes) { return take(bytes, true); }

void give_back_memory(void *address) { give_back(address); }

bool within_device_memory(const char *who, const void *address, size_t bytes) {
  return bytes == 0 || may_touch(who, address, bytes, true);
}

void watch_wild_accesses() {
  struct sigaction action = {};
  action.sa_sigaction = on_wild_access;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &before_us);
}

}  // namespace fakecann

using fakecann::complain;

namespace {

aclError malloc_as(void **address, size_t bytes, bool on_device) {
  if (address == nullptr || bytes == 0) return ACL_ERROR_INVALID_PARAM;
  *address = fakecann::take(bytes, on_device);
  return *address == nullptr ? fakecann::kOutOfMemory : ACL_SUCCESS;
}

}  // namespace

extern "C" {

aclError aclrtMalloc(void **address, size_t bytes, aclrtMemMallocPolicy) {
  return malloc_as(address, bytes, true);
}

aclError aclrtMallocAlign32(void **address, size_t bytes, aclrtMemMallocPolicy) {
  return malloc_as(address, bytes, true);
}

aclError aclrtFree(void *address) { return fakecann::give_back(address); }

aclError aclrtMallocHost(void **address, size_t bytes) { return malloc_as(address, bytes, false); }

aclError aclrtMallocHostWithCfg(void **address, uint64_t bytes, aclrtMallocConfig *) {
  return malloc_as(address, bytes, false);
}

aclError aclrtFreeHost(void *address) { return fakecann::give_back(address); }

aclError aclrtGetMemInfo(aclrtMemAttr, size_t *free, size_t *total) {
  const int device = fakecann::current_device() < 0 ? 0 : fakecann::current_device();
  const std::lock_guard<std::mutex> guard(fakecann::lock);
  *total = fakecann::device_bytes();
  const size_t used = fakecann::used[device];
  *free = used < *total ? *total - used : 0;
  return ACL_SUCCESS;
}

aclError aclrtPointerGetAttributes(const void *address, aclrtPtrAttributes *attributes) {
  *attributes = {};
  const auto allocation = fakecann::around(address);
  if (!allocation) {
    attributes->location.type = ACL_MEM_LOCATION_TYPE_UNREGISTERED;
    return ACL_SUCCESS;
  }
  attributes->location.type =
      allocation->on_device ? ACL_MEM_LOCATION_TYPE_DEVICE : ACL_MEM_LOCATION_TYPE_HOST;
  attributes->location.id = allocation->on_device ? static_cast<uint32_t>(allocation->device) : 0;
  return ACL_SUCCESS;
}

aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind kind) {
  fakecann::trace("copy of %zu bytes, kind %d", bytes, kind);
  if (const int error = fakecann::spoils_a_capture("a synchronous copy")) return error;
  return fakecann::copy(to, room, from, bytes, kind);
}

aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes,
                          aclrtMemcpyKind kind, aclrtStream stream) {
  fakecann::trace("copy of %zu bytes, kind %d, on stream %p", bytes, kind, stream);
  return fakecann::put_on_stream(
      stream, [=] { return fakecann::copy(to, room, from, bytes, kind); });
}

aclError aclrtMemset(void *at, size_t room, int32_t value, size_t bytes) {
  if (const int error = fakecann::spoils_a_capture("a synchronous fill")) return error;
  return fakecann::fill(at, room, value, bytes);
}

aclError aclrtMemsetAsync(void *at, size_t room, int32_t value, size_t bytes, aclrtStream stream) {
  return fakecann::put_on_stream(stream,
                                 [=] { return fakecann::fill(at, room, value, bytes); });
}
}
