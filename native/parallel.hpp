// Tasks on the threads of a pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>

namespace diffqcp {

// Calls task(k) for k < count on the threads of a pool and on this one, which alone could
// finish, so that it never waits for a pool that is busy. What a task throws is thrown
// here, once no task runs any more.
template <typename Pool, typename Task>
void parallel(Pool& pool, int64_t count, const Task& task) {
  if (count == 1) return task(0);
  struct Shared {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::exception_ptr failure;
    std::mutex mutex;
    std::condition_variable finished;
  };
  auto shared = std::make_shared<Shared>();
  const auto run = [shared, count, &task] {
    for (int64_t k; (k = shared->next++) < count;) {
      std::exception_ptr failure;
      try {
        task(k);
      } catch (...) {
        failure = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (failure != nullptr) shared->failure = failure;
      if (++shared->done == count) shared->finished.notify_all();
    }
  };
  const int64_t helpers = std::min<int64_t>(count, pool.num_threads()) - 1;
  for (int64_t k = 0; k < helpers; ++k) {
    auto copy = run;
    pool.Schedule(std::move(copy));
  }
  run();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->finished.wait(lock, [&] { return shared->done == count; });
  if (shared->failure != nullptr) std::rethrow_exception(shared->failure);
}

}  // namespace diffqcp
