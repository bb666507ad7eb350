// Devices: how many there are, which one a thread uses, what they say of themselves.
#include "../fakecann.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>

namespace fakecann {
namespace {

std::atomic<bool> ready{false};
thread_local int chosen = -1;

// A context is no more than an address in here.
char contexts[64];

}  // namespace

void watch_wild_accesses();  // memory.cpp

int device_count() {
  const int64_t wanted = number_setting("FAKECANN_DEVICES", 8);
  return static_cast<int>(wanted < 64 ? wanted : 64);
}

int current_device() {
  if (chosen >= 0) return chosen;
  return ready ? 0 : -1;
}

void adopt_device(int device) { chosen = device; }

}  // namespace fakecann

using fakecann::complain;
using fakecann::trace;

extern "C" {

aclError aclInit(const char *) {
  if (fakecann::ready.exchange(true)) return ACL_ERROR_REPEAT_INITIALIZE;
  fakecann::watch_wild_accesses();
  return ACL_SUCCESS;
}

aclError aclFinalize() {
  fakecann::ready = false;
  return ACL_SUCCESS;
}

aclError aclrtGetDeviceCount(uint32_t *count) {
  *count = static_cast<uint32_t>(fakecann::device_count());
  return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t device) {
  trace("thread uses device %d", device);
  if (device < 0 || device >= fakecann::device_count()) {
    complain("there is no device %d: FAKECANN_DEVICES is %d", device, fakecann::device_count());
    return fakecann::kDeviceInvalid;
  }
  fakecann::chosen = device;
  return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t) { return ACL_SUCCESS; }

aclError aclrtGetDevice(int32_t *device) {
  *device = fakecann::current_device();
  return *device < 0 ? fakecann::kNoContext : ACL_SUCCESS;
}

aclError aclrtGetCurrentContext(aclrtContext *context) {
  const int device = fakecann::current_device();
  if (device < 0) return fakecann::kNoContext;
  *context = &fakecann::contexts[device];
  return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
  fakecann::chosen = static_cast<int>(static_cast<char *>(context) - fakecann::contexts);
  return ACL_SUCCESS;
}

aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
  if (flags != nullptr) *flags = 0;
  if (active != nullptr) *active = fakecann::current_device() == device ? 1 : 0;
  return ACL_SUCCESS;
}

aclError aclrtGetLogicDevIdByUserDevId(const int32_t user, int32_t *const logical) {
  *logical = user;
  return ACL_SUCCESS;
}

aclError aclrtDeviceGetUuid(int32_t device, aclrtUuid *uuid) {
  *uuid = {};
  uuid->bytes[sizeof uuid->bytes - 1] = static_cast<char>(device);
  return ACL_SUCCESS;
}

aclError aclrtDeviceGetBareTgid(int32_t *pid) {
  *pid = getpid();
  return ACL_SUCCESS;
}

aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t, int32_t) {
  *can = 1;
  return ACL_SUCCESS;
}

aclError aclrtDeviceEnablePeerAccess(int32_t, uint32_t) { return ACL_SUCCESS; }

// --- what a device is

const char *aclrtGetSocName() {
  static const std::string name = fakecann::text_setting("FAKECANN_SOC", "Ascend910B3");
  return name.c_str();
}

// Of an Ascend 910B3: 20 cube cores, 40 vector cores, 192 MiB of level 2 cache.
aclError aclGetDeviceCapability(uint32_t, aclDeviceInfo info, int64_t *value) {
  switch (info) {
    case ACL_DEVICE_INFO_AI_CORE_NUM:
      *value = 20;
      return ACL_SUCCESS;
    case ACL_DEVICE_INFO_VECTOR_CORE_NUM:
      *value = 40;
      return ACL_SUCCESS;
    case ACL_DEVICE_INFO_L2_SIZE:
      *value = int64_t{192} << 20;
      return ACL_SUCCESS;
    default:
      complain("device capability %d is not emulated", static_cast<int>(info));
      return ACL_ERROR_FEATURE_UNSUPPORTED;
  }
}

aclError aclrtGetDeviceUtilizationRate(int32_t, aclrtUtilizationInfo *rates) {
  rates->cubeUtilization = rates->vectorUtilization = 0;
  rates->aicpuUtilization = rates->memoryUtilization = 0;
  return ACL_SUCCESS;
}

aclError aclGetCannAttributeList(const aclCannAttr **list, size_t *count) {
  static const aclCannAttr known[] = {ACL_CANN_ATTR_INF_NAN, ACL_CANN_ATTR_BF16,
                                      ACL_CANN_ATTR_JIT_COMPILE};
  *list = known;
  *count = sizeof known / sizeof known[0];
  return ACL_SUCCESS;
}

aclError aclGetCannAttribute(aclCannAttr attribute, int32_t *value) {
  *value = attribute == ACL_CANN_ATTR_JIT_COMPILE ? 0 : 1;
  return ACL_SUCCESS;
}

aclError aclsysGetCANNVersion(aclCANNPackageName, aclCANNPackageVersion *version) {
  *version = {};
  const std::string text = fakecann::text_setting("FAKECANN_VERSION", "9.0.0");
  std::snprintf(version->version, sizeof version->version, "%s", text.c_str());
  return ACL_SUCCESS;
}

aclError aclsysGetVersionStr(char *, char *version) {
  std::strcpy(version, fakecann::text_setting("FAKECANN_VERSION", "9.0.0").c_str());
  return ACL_SUCCESS;
}

// --- settings of a device that change nothing here

aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode) { return ACL_SUCCESS; }

aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }

aclError aclrtSetOpExecuteTimeOutV2(uint64_t timeout, uint64_t *actual) {
  if (actual != nullptr) *actual = timeout;
  return ACL_SUCCESS;
}

aclError aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }
}
