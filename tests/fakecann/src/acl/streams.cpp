// Streams and events: a thread for each stream runs its tasks one after the other.
//
// A task that fails makes its stream fail: what lies behind it is skipped, and every later
// synchronisation reports the error. An event that a failed stream was to record carries the error
// to the streams that wait for it.
#include "../fakecann.h"
#include "captures.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fakecann {
namespace {

using Clock = std::chrono::steady_clock;

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  Stream(int device, int id) : device_(device), id_(id) {}

  int device() const { return device_; }
  int id() const { return id_; }

  // `skip` is called in place of `run` with the stream's error once it failed.
  void put(Task run, std::function<void(int)> skip = nullptr) {
    const std::lock_guard<std::mutex> guard(lock_);
    waiting_.push_back({std::move(run), std::move(skip)});
    if (!started_) {
      started_ = true;
      std::thread([self = shared_from_this()] { self->work(); }).detach();
    }
    changed_.notify_all();
  }

  // Waits until everything is done. Negative: without a limit.
  int synchronize(int milliseconds) {
    std::unique_lock<std::mutex> held(lock_);
    const auto idle = [this] { return waiting_.empty() && !busy_; };
    if (milliseconds < 0) {
      changed_.wait(held, idle);
    } else if (!changed_.wait_for(held, std::chrono::milliseconds(milliseconds), idle)) {
      complain("stream %d was not done within %d ms", id_, milliseconds);
      return kStreamTimeout;
    }
    if (error_ != 0) complain("stream %d has failed with %d", id_, error_);
    return error_;
  }

  bool idle() {
    const std::lock_guard<std::mutex> guard(lock_);
    return waiting_.empty() && !busy_;
  }

  // Ends the thread: after what is waiting, or with what it is doing now.
  void close(bool forget_waiting) {
    const std::lock_guard<std::mutex> guard(lock_);
    closed_ = true;
    if (forget_waiting) waiting_.clear();
    changed_.notify_all();
  }

 private:
  struct Entry {
    Task run;
    std::function<void(int)> skip;
  };

  void work() {
    pthread_setname_np(pthread_self(), "cann_stream");
    adopt_device(device_);
    std::unique_lock<std::mutex> held(lock_);
    for (;;) {
      changed_.wait(held, [this] { return closed_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      Entry entry = std::move(waiting_.front());
      waiting_.pop_front();
      busy_ = true;
      const int failed = error_;
      held.unlock();
      int result = 0;
      if (failed == 0) {
        result = entry.run();
      } else if (entry.skip) {
        entry.skip(failed);
      }
      entry = {};
      held.lock();
      busy_ = false;
      if (result != 0 && error_ == 0) error_ = result;
      changed_.notify_all();
    }
  }

  const int device_;
  const int id_;
  std::mutex lock_;
  std::condition_variable changed_;
  std::deque<Entry> waiting_;
  bool started_ = false;
  bool busy_ = false;
  bool closed_ = false;
  int error_ = 0;
};

using StreamPtr = std::shared_ptr<Stream>;

class Streams {
 public:
  aclrtStream make(int device) {
    const std::lock_guard<std::mutex> guard(lock_);
    auto made = std::make_shared<Stream>(device, next_id_++);
    known_[made.get()] = made;
    return made.get();
  }

  // A null handle is the default stream of the thread's device. Null for an unknown handle.
  StreamPtr find(aclrtStream handle) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (handle == nullptr) {
      const int device = current_device() < 0 ? 0 : current_device();
      StreamPtr &stream = default_[device];
      if (!stream) {
        stream = std::make_shared<Stream>(device, next_id_++);
        known_[stream.get()] = stream;
      }
      return stream;
    }
    const auto found = known_.find(handle);
    if (found == known_.end()) {
      complain("%p is no stream, or one that was destroyed", handle);
      return nullptr;
    }
    return found->second;
  }

  StreamPtr forget(aclrtStream handle) {
    const StreamPtr stream = find(handle);
    const std::lock_guard<std::mutex> guard(lock_);
    known_.erase(handle);
    return stream;
  }

  std::vector<StreamPtr> of_device(int device) {
    const std::lock_guard<std::mutex> guard(lock_);
    std::vector<StreamPtr> found;
    for (const auto &[handle, stream] : known_) {
      if (stream->device() == device) found.push_back(stream);
    }
    return found;
  }

 private:
  std::mutex lock_;
  std::map<void *, StreamPtr> known_;
  std::map<int, StreamPtr> default_;
  int next_id_ = 0;
};

// Never destroyed: the threads of streams outlive the end of main.
Streams &streams() {
  static Streams *all = new Streams;
  return *all;
}

thread_local int last_error = 0;

int told(int error) {
  if (error != 0) last_error = error;
  return error;
}

// Counts how often it was put on a stream, and how often a stream got there.
struct Event {
  std::mutex lock;
  std::condition_variable changed;
  uint64_t recorded = 0;
  uint64_t reached = 0;
  int error = 0;
  Clock::time_point when;

  void reach(uint64_t number, int with_error) {
    const std::lock_guard<std::mutex> guard(lock);
    if (number > reached) reached = number;
    error = with_error;
    when = Clock::now();
    changed.notify_all();
  }

  int wait_for(uint64_t number) {
    std::unique_lock<std::mutex> held(lock);
    changed.wait(held, [&] { return reached >= number; });
    return error;
  }
};

using EventPtr = std::shared_ptr<Event>;

EventPtr &event_of(aclrtEvent handle) { return *static_cast<EventPtr *>(handle); }

uint64_t microseconds(const EventPtr &event) {
  const std::lock_guard<std::mutex> guard(event->lock);
  const auto since = event->when.time_since_epoch();
  const auto count = std::chrono::duration_cast<std::chrono::microseconds>(since).count();
  return static_cast<uint64_t>(count);
}

}  // namespace

int put_on_stream(aclrtStream handle, Task task) {
  if (is_captured(handle)) {
    complain("a task on a captured stream is not emulated");
    return kNotSupported;
  }
  const StreamPtr stream = streams().find(handle);
  if (!stream) return kStreamInvalid;
  stream->put(std::move(task));
  return ACL_SUCCESS;
}

}  // namespace fakecann

using fakecann::event_of;
using fakecann::streams;

extern "C" {

// --- streams

aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t, uint32_t) {
  const int device = fakecann::current_device();
  if (device < 0) return fakecann::kNoContext;
  *stream = streams().make(device);
  return ACL_SUCCESS;
}

aclError aclrtCreateStream(aclrtStream *stream) {
  return aclrtCreateStreamWithConfig(stream, 0, 0);
}

aclError aclrtDestroyStream(aclrtStream handle) {
  const auto stream = streams().forget(handle);
  if (!stream) return fakecann::kStreamInvalid;
  stream->close(false);
  stream->synchronize(-1);
  return ACL_SUCCESS;
}

aclError aclrtDestroyStreamForce(aclrtStream handle) {
  const auto stream = streams().forget(handle);
  if (!stream) return fakecann::kStreamInvalid;
  stream->close(true);
  return ACL_SUCCESS;
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream handle, int32_t milliseconds) {
  const auto stream = streams().find(handle);
  if (!stream) return fakecann::kStreamInvalid;
  return fakecann::told(stream->synchronize(milliseconds));
}

aclError aclrtSynchronizeStream(aclrtStream handle) {
  return aclrtSynchronizeStreamWithTimeout(handle, -1);
}

aclError aclrtSynchronizeDeviceWithTimeout(int32_t milliseconds) {
  for (const auto &stream : streams().of_device(fakecann::current_device())) {
    if (const int error = stream->synchronize(milliseconds)) return fakecann::told(error);
  }
  return ACL_SUCCESS;
}

aclError aclrtSynchronizeDevice() { return aclrtSynchronizeDeviceWithTimeout(-1); }

aclError aclrtStreamQuery(aclrtStream handle, aclrtStreamStatus *status) {
  const auto stream = streams().find(handle);
  if (!stream) return fakecann::kStreamInvalid;
  *status = stream->idle() ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY;
  return ACL_SUCCESS;
}

aclError aclrtStreamGetId(aclrtStream handle, int32_t *id) {
  const auto stream = streams().find(handle);
  if (!stream) return fakecann::kStreamInvalid;
  *id = stream->id();
  return ACL_SUCCESS;
}

// Nothing below would change what a program can see of the emulation.
aclError aclrtSetStreamFailureMode(aclrtStream, uint64_t) { return ACL_SUCCESS; }

aclError aclrtSetStreamAttribute(aclrtStream, aclrtStreamAttr, aclrtStreamAttrValue *) {
  return ACL_SUCCESS;
}

aclError aclrtSetStreamOverflowSwitch(aclrtStream, uint32_t) { return ACL_SUCCESS; }

aclError aclrtGetStreamOverflowSwitch(aclrtStream, uint32_t *flag) {
  *flag = 0;
  return ACL_SUCCESS;
}

// --- functions of the host on a stream

aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtHostFunc function, void *argument) {
  return fakecann::put_on_stream(stream, [=] {
    function(argument);
    return 0;
  });
}

aclError aclrtLaunchCallback(aclrtCallback function, void *argument, aclrtCallbackBlockType,
                             aclrtStream stream) {
  return fakecann::put_on_stream(stream, [=] {
    function(argument);
    return 0;
  });
}

// A stream's own thread runs its callbacks, so nobody has to be subscribed.
aclError aclrtSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }

aclError aclrtUnSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }

aclError aclrtProcessReport(int32_t milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds < 0 ? 1 : milliseconds));
  return ACL_SUCCESS;
}

// --- events

aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t) {
  *event = new fakecann::EventPtr(std::make_shared<fakecann::Event>());
  return ACL_SUCCESS;
}

aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flags) {
  return aclrtCreateEventExWithFlag(event, flags);
}

aclError aclrtDestroyEvent(aclrtEvent event) {
  delete static_cast<fakecann::EventPtr *>(event);
  return ACL_SUCCESS;
}

aclError aclrtRecordEvent(aclrtEvent handle, aclrtStream stream_handle) {
  const auto stream = streams().find(stream_handle);
  if (!stream) return fakecann::kStreamInvalid;
  const fakecann::EventPtr event = event_of(handle);
  uint64_t number = 0;
  {
    const std::lock_guard<std::mutex> guard(event->lock);
    number = ++event->recorded;
    event->error = 0;
  }
  const auto reached = [event, number] {
    event->reach(number, 0);
    return 0;
  };
  stream->put(reached, [event, number](int error) { event->reach(number, error); });
  return ACL_SUCCESS;
}

aclError aclrtResetEvent(aclrtEvent, aclrtStream) { return ACL_SUCCESS; }

aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent handle) {
  const fakecann::EventPtr event = event_of(handle);
  uint64_t number = 0;
  {
    const std::lock_guard<std::mutex> guard(event->lock);
    number = event->recorded;
  }
  return fakecann::put_on_stream(stream, [event, number] { return event->wait_for(number); });
}

aclError aclrtSynchronizeEvent(aclrtEvent handle) {
  const fakecann::EventPtr event = event_of(handle);
  uint64_t number = 0;
  {
    const std::lock_guard<std::mutex> guard(event->lock);
    number = event->recorded;
  }
  const int error = event->wait_for(number);
  if (error != 0) fakecann::complain("the stream of an event has failed with %d", error);
  return fakecann::told(error);
}

aclError aclrtQueryEventStatus(aclrtEvent handle, aclrtEventRecordedStatus *status) {
  const fakecann::EventPtr event = event_of(handle);
  const std::lock_guard<std::mutex> guard(event->lock);
  const bool done = event->reached >= event->recorded;
  *status = done ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  return done ? event->error : ACL_SUCCESS;
}

aclError aclrtQueryEventWaitStatus(aclrtEvent handle, aclrtEventWaitStatus *status) {
  const fakecann::EventPtr event = event_of(handle);
  const std::lock_guard<std::mutex> guard(event->lock);
  *status = event->reached >= event->recorded ? ACL_EVENT_WAIT_STATUS_COMPLETE
                                              : ACL_EVENT_WAIT_STATUS_NOT_READY;
  return ACL_SUCCESS;
}

aclError aclrtEventElapsedTime(float *milliseconds, aclrtEvent from, aclrtEvent to) {
  const uint64_t start = fakecann::microseconds(event_of(from));
  const uint64_t end = fakecann::microseconds(event_of(to));
  *milliseconds = static_cast<float>(end - start) / 1000.0F;
  return ACL_SUCCESS;
}

aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t *timestamp) {
  *timestamp = fakecann::microseconds(event_of(event));
  return ACL_SUCCESS;
}

// --- errors of this thread

aclError aclrtGetLastError(aclrtLastErrLevel) {
  const int error = fakecann::last_error;
  fakecann::last_error = 0;
  return error;
}

aclError aclrtPeekAtLastError(aclrtLastErrLevel) { return fakecann::last_error; }
}
