// libhccl.so: the C functions. Operations run on the emulated stream that they were given.
#include "../fakecann.h"
#include "communicator.h"
#include "reduce.h"
#include "rendezvous.h"

#include <third_party/hccl/inc/hccl/hccl.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <thread>

namespace fakecann {
namespace {

using CommunicatorPtr = std::shared_ptr<Communicator>;

std::mutex lock;
std::map<HcclComm, CommunicatorPtr> communicators;

CommunicatorPtr find(HcclComm handle) {
  const std::lock_guard<std::mutex> guard(lock);
  const auto found = communicators.find(handle);
  if (found != communicators.end()) return found->second;
  complain("%p is no communicator, or one that was destroyed", handle);
  return nullptr;
}

// HCCL keeps two buffers of this many MiB on the device for each communicator.
int64_t buffer_megabytes(uint32_t configured) {
  const bool is_set = configured != 0 && configured != HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET;
  return is_set ? configured : number_setting("HCCL_BUFFSIZE", 200);
}

HcclResult make(uint32_t ranks, const HcclRootInfo *info, uint32_t rank, const char *name,
                uint32_t configured_megabytes, HcclComm *made) {
  Root root = {};
  std::memcpy(&root, info, sizeof root);
  if (!is_root(root) || rank >= ranks) return HCCL_E_PARA;
  const int64_t megabytes = buffer_megabytes(configured_megabytes);
  trace("HCCL: rank %u of %u of '%s', buffers of 2 x %ld MiB", rank, ranks, name, megabytes);
  void *const buffers = take_device_memory(static_cast<size_t>(2 * megabytes) << 20);
  if (buffers == nullptr) {
    complain("HCCL: device %d has no 2 x %ld MiB for a communicator's buffers", current_device(),
             megabytes);
    return HCCL_E_MEMORY;
  }
  const auto communicator = std::make_shared<Communicator>(name, ranks, rank, buffers);
  const HcclResult result = meet(root, *communicator);
  if (result != HCCL_SUCCESS) return result;
  const std::lock_guard<std::mutex> guard(lock);
  communicators[communicator.get()] = communicator;
  *made = communicator.get();
  return HCCL_SUCCESS;
}

HcclResult result_of(int error) { return error == ACL_SUCCESS ? HCCL_SUCCESS : HCCL_E_RUNTIME; }

// What one thread has asked for between HcclGroupStart and HcclGroupEnd.
struct Grouped {
  aclrtStream stream;
  bool sends;
  Task task;
};

thread_local int depth = 0;
thread_local std::vector<Grouped> group;

// Sends in their order, and beside them receives in theirs: neither waits for the other.
int run_together(const std::vector<Grouped> &all) {
  int sending = 0;
  std::thread sender([&] {
    for (const Grouped &one : all) {
      if (one.sends && sending == 0) sending = one.task();
    }
  });
  int receiving = 0;
  for (const Grouped &one : all) {
    if (!one.sends && receiving == 0) receiving = one.task();
  }
  sender.join();
  return sending != 0 ? sending : receiving;
}

HcclResult issue(aclrtStream stream, bool sends, Task task) {
  if (depth == 0) return result_of(put_on_stream(stream, std::move(task)));
  group.push_back({stream, sends, std::move(task)});
  return HCCL_SUCCESS;
}

HcclResult point_to_point(bool sends, void *data, uint64_t count, HcclDataType type, uint32_t peer,
                          HcclComm handle, aclrtStream stream) {
  const CommunicatorPtr communicator = find(handle);
  const uint64_t bytes = count * element_bytes(type);
  if (!communicator || peer >= communicator->ranks() || peer == communicator->rank() ||
      (bytes == 0 && count != 0) ||
      !within_device_memory(sends ? "HcclSend" : "HcclRecv", data, bytes)) {
    return HCCL_E_PARA;
  }
  trace("HCCL: %s rank %u, %lu bytes", sends ? "send to" : "receive from", peer, bytes);
  return issue(stream, sends, [=] {
    return sends ? communicator->send(data, bytes, peer)
                 : communicator->receive(data, bytes, peer);
  });
}

// Checks what every collective is given, then puts it on its stream.
template <typename Run>
HcclResult collective(const char *name, HcclComm handle, HcclDataType type, const void *from,
                      uint64_t count_in, const void *to, uint64_t count_out, aclrtStream stream,
                      Run run) {
  const CommunicatorPtr communicator = find(handle);
  const size_t element = element_bytes(type);
  if (!communicator || element == 0 || !within_device_memory(name, from, count_in * element) ||
      !within_device_memory(name, to, count_out * element)) {
    return HCCL_E_PARA;
  }
  trace("HCCL: %s of %lu elements of type %d", name, count_in, static_cast<int>(type));
  return result_of(put_on_stream(stream, [=] { return run(*communicator); }));
}

uint32_t ranks_of(HcclComm handle) {
  const CommunicatorPtr communicator = find(handle);
  return communicator ? communicator->ranks() : 0;
}

HcclResult refuse(const char *name) {
  complain("%s is not emulated", name);
  return HCCL_E_NOT_SUPPORT;
}

}  // namespace
}  // namespace fakecann

using fakecann::Communicator;

extern "C" {

// --- communicators

HcclResult HcclGetRootInfo(HcclRootInfo *info) {
  const fakecann::Root root = fakecann::open_root();
  if (root.port == 0) return HCCL_E_NETWORK;
  *info = {};
  std::memcpy(info, &root, sizeof root);
  return HCCL_SUCCESS;
}

HcclResult HcclCommInitRootInfo(uint32_t ranks, const HcclRootInfo *info, uint32_t rank,
                                HcclComm *made) {
  return fakecann::make(ranks, info, rank, "", 0, made);
}

HcclResult HcclCommInitRootInfoConfig(uint32_t ranks, const HcclRootInfo *info, uint32_t rank,
                                      const HcclCommConfig *config, HcclComm *made) {
  return fakecann::make(ranks, info, rank, config->hcclCommName, config->hcclBufferSize, made);
}

uint32_t HcclGetCommConfigCapability() { return HCCL_COMM_CONFIG_RESERVED; }

HcclResult HcclCommDestroy(HcclComm handle) {
  const auto communicator = fakecann::find(handle);
  if (!communicator) return HCCL_E_PARA;
  fakecann::trace("HCCL: '%s' is destroyed", communicator->name().c_str());
  communicator->abort();
  const std::lock_guard<std::mutex> guard(fakecann::lock);
  fakecann::communicators.erase(handle);
  return HCCL_SUCCESS;
}

HcclResult HcclGetCommAsyncError(HcclComm handle, HcclResult *error) {
  const auto communicator = fakecann::find(handle);
  if (!communicator) return HCCL_E_PARA;
  *error = communicator->error();
  return HCCL_SUCCESS;
}

HcclResult HcclGetCommName(HcclComm handle, char *name) {
  const auto communicator = fakecann::find(handle);
  if (!communicator) return HCCL_E_PARA;
  std::strcpy(name, communicator->name().c_str());
  return HCCL_SUCCESS;
}

HcclResult HcclGetRankSize(HcclComm handle, uint32_t *ranks) {
  *ranks = fakecann::ranks_of(handle);
  return *ranks == 0 ? HCCL_E_PARA : HCCL_SUCCESS;
}

HcclResult HcclGetRankId(HcclComm handle, uint32_t *rank) {
  const auto communicator = fakecann::find(handle);
  if (!communicator) return HCCL_E_PARA;
  *rank = communicator->rank();
  return HCCL_SUCCESS;
}

const char *HcclGetErrorString(HcclResult result) {
  static thread_local char text[48];
  std::snprintf(text, sizeof text, "HCCL error %d of the emulation", static_cast<int>(result));
  return text;
}

HcclResult HcclSetConfig(HcclConfig, HcclConfigValue) { return HCCL_SUCCESS; }

// --- between two ranks

HcclResult HcclSend(void *data, uint64_t count, HcclDataType type, uint32_t peer, HcclComm handle,
                    aclrtStream stream) {
  return fakecann::point_to_point(true, data, count, type, peer, handle, stream);
}

HcclResult HcclRecv(void *data, uint64_t count, HcclDataType type, uint32_t peer, HcclComm handle,
                    aclrtStream stream) {
  return fakecann::point_to_point(false, data, count, type, peer, handle, stream);
}

HcclResult HcclGroupStart() {
  ++fakecann::depth;
  return HCCL_SUCCESS;
}

HcclResult HcclGroupEnd() {
  if (fakecann::depth == 0) return HCCL_E_INTERNAL;
  if (--fakecann::depth > 0) return HCCL_SUCCESS;
  std::map<aclrtStream, std::vector<fakecann::Grouped>> by_stream;
  for (auto &one : fakecann::group) by_stream[one.stream].push_back(std::move(one));
  fakecann::group.clear();
  for (const auto &entry : by_stream) {
    const auto all = entry.second;
    const int error =
        fakecann::put_on_stream(entry.first, [all] { return fakecann::run_together(all); });
    if (error != ACL_SUCCESS) return HCCL_E_RUNTIME;
  }
  return HCCL_SUCCESS;
}

HcclResult HcclBatchSendRecv(HcclSendRecvItem *items, uint32_t count, HcclComm handle,
                             aclrtStream stream) {
  HcclGroupStart();
  HcclResult result = HCCL_SUCCESS;
  for (const HcclSendRecvItem *item = items; item != items + count; ++item) {
    const HcclResult one =
        fakecann::point_to_point(item->sendRecvType == HCCL_SEND, item->buf, item->count,
                                 item->dataType, item->remoteRank, handle, stream);
    if (one != HCCL_SUCCESS) result = one;
  }
  if (result != HCCL_SUCCESS) fakecann::group.clear();
  const HcclResult end = HcclGroupEnd();
  return result != HCCL_SUCCESS ? result : end;
}

// --- between all ranks

HcclResult HcclAllReduce(void *from, void *to, uint64_t count, HcclDataType type, HcclReduceOp how,
                         HcclComm handle, aclrtStream stream) {
  return fakecann::collective(
      "HcclAllReduce", handle, type, from, count, to, count, stream,
      [=](Communicator &all) { return all.all_reduce(from, to, count, type, how); });
}

HcclResult HcclAllGather(void *from, void *to, uint64_t count, HcclDataType type, HcclComm handle,
                         aclrtStream stream) {
  const uint64_t bytes = count * fakecann::element_bytes(type);
  return fakecann::collective(
      "HcclAllGather", handle, type, from, count, to, count * fakecann::ranks_of(handle), stream,
      [=](Communicator &all) { return all.all_gather(from, bytes, static_cast<char *>(to)); });
}

HcclResult HcclReduceScatter(void *from, void *to, uint64_t count, HcclDataType type,
                             HcclReduceOp how, HcclComm handle, aclrtStream stream) {
  return fakecann::collective(
      "HcclReduceScatter", handle, type, from, count * fakecann::ranks_of(handle), to, count,
      stream, [=](Communicator &all) { return all.reduce_scatter(from, to, count, type, how); });
}

HcclResult HcclBroadcast(void *data, uint64_t count, HcclDataType type, uint32_t root,
                         HcclComm handle, aclrtStream stream) {
  const uint64_t bytes = count * fakecann::element_bytes(type);
  return fakecann::collective(
      "HcclBroadcast", handle, type, data, count, data, count, stream,
      [=](Communicator &all) { return all.broadcast(data, bytes, root); });
}

HcclResult HcclBarrier(HcclComm handle, aclrtStream stream) {
  const auto communicator = fakecann::find(handle);
  if (!communicator) return HCCL_E_PARA;
  return fakecann::result_of(
      fakecann::put_on_stream(stream, [=] { return communicator->barrier(); }));
}

// --- refused with their names

HcclResult HcclCommInitAll(uint32_t, int32_t *, HcclComm *) {
  return fakecann::refuse("HcclCommInitAll");
}

HcclResult HcclReduce(void *, void *, uint64_t, HcclDataType, HcclReduceOp, uint32_t, HcclComm,
                      aclrtStream) {
  return fakecann::refuse("HcclReduce");
}

HcclResult HcclScatter(void *, void *, uint64_t, HcclDataType, uint32_t, HcclComm, aclrtStream) {
  return fakecann::refuse("HcclScatter");
}

HcclResult HcclAlltoAll(const void *, uint64_t, HcclDataType, const void *, uint64_t, HcclDataType,
                        HcclComm, aclrtStream) {
  return fakecann::refuse("HcclAlltoAll");
}
}
