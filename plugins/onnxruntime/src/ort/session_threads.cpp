#include "session_threads.h"

#include <algorithm>
#include <thread>
#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif

namespace mpq::ort {
namespace {

int64_t count_processors() {
#ifdef __linux__
  cpu_set_t usable;
  CPU_ZERO(&usable);
  // Of the process's first thread: one that calls may be bound to a processor of its own. Fails
  // where the machine has more processors than the set: then all of them count.
  if (sched_getaffinity(getpid(), sizeof usable, &usable) == 0) return CPU_COUNT(&usable);
#endif
  return static_cast<int64_t>(std::thread::hardware_concurrency());
}

}  // namespace

int64_t usable_processors() {
  static const int64_t count = std::max<int64_t>(1, count_processors());
  return count;
}

}  // namespace mpq::ort
