// What operators run and how long, by libtorch's own profiler (kineto), and spans of ours among them.
#include "shim.h"
#include <ATen/record_function.h>
#include <kineto/ActivityType.h>
#include <torch/csrc/autograd/profiler_kineto.h>

namespace profiler = torch::autograd::profiler;

using TakeEvent = void (*)(void *target, const char *name, int on_device, int is_span, uint64_t thread, uint64_t start_ns, uint64_t end_ns);

extern "C" {

// From here on whatever this thread has computed is recorded, with kernels on a GPU where `with_cuda`.
int sd_profiler_begin(int with_cuda) {
  return sd_guard([&] {
    const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
    std::set<profiler::ActivityType> activities{profiler::ActivityType::CPU};
    if (with_cuda) activities.insert(profiler::ActivityType::CUDA);
    profiler::prepareProfiler(config, activities);
    profiler::enableProfiler(config, activities);
  });
}

// Ends it on the thread that began it. Writes a Chrome trace to `path` and hands over each event; neither where `path` is null.
int sd_profiler_end(const char *path, void *target, TakeEvent take) {
  return sd_guard([&] {
    const auto result = profiler::disableProfiler();
    if (!path) return;
    for (const auto &event : result->events()) {
      const bool on_device = event.deviceType() != c10::DeviceType::CPU;
      const auto type = static_cast<libkineto::ActivityType>(event.activityType());
      // On a GPU a span is there once more, round the kernels that it started.
      const bool is_span = type == libkineto::ActivityType::USER_ANNOTATION || type == libkineto::ActivityType::GPU_USER_ANNOTATION;
      take(target, event.name().c_str(), on_device, is_span, event.startThreadId(), event.startNs(), event.endNs());
    }
    result->save(path);
  });
}

// A span named `name` in what is recorded, until it is handed to `sd_span_end`; null where nothing is recorded.
int sd_span_begin(const char *name, void **span) {
  return sd_guard([&] {
    *span = nullptr;
    auto callbacks = at::getStepCallbacksUnlessEmpty(at::RecordScope::USER_SCOPE);
    if (!callbacks) return;
    auto own = std::make_unique<at::RecordFunction>(std::move(*callbacks));
    own->before(std::string(name));
    *span = own.release();
  });
}

void sd_span_end(void *span) { delete static_cast<at::RecordFunction *>(span); }
}
