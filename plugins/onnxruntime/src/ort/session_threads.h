// The session's own threads as the layers see them.
#pragma once

#include "status.h"

namespace mpq::ort {

// How many processors this process may use. How many threads a session has cannot be asked for;
// with fewer of them the pieces run one after another.
int64_t usable_processors();

class SessionThreads final : public Parallel {
 public:
  SessionThreads(const OrtApi& api, const OrtKernelContext& context)
      : api_(api), context_(context) {}

  void run(Work work, void* state, std::size_t count) override {
    if (count == 1) {
      work(state, 0);
    } else if (count > 1) {
      require(api_, api_.KernelContext_ParallelFor(&context_, work, count, 0, state));
    }
  }

  int64_t threads() const override { return usable_processors(); }

 private:
  const OrtApi& api_;
  const OrtKernelContext& context_;
};

}  // namespace mpq::ort
