// Runs CUDA launches on the CPU, one after the other: blocks in shuffled order, the threads of a block as fibers that
// run in shuffled order from barrier to barrier. What depends on the order of threads or blocks, or on the size of the
// grid, shows as a wrong or changing result; what a GPU would hang on or answer with a fault is reported with kernel,
// block and thread. Shared memory starts as NaN, and AddressSanitizer sees an access past it.
//
// CUDA_HOST_SEED seeds the orders (default 1).
#include "cuda_runtime.h"

#include <link.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

dim3 gridDim, blockDim;
uint3 blockIdx, threadIdx;

constexpr size_t kSharedLimit = 48 * 1024;  // of a launch without opt-in, on every GPU
namespace fastops {
__align__(16) thread_local char dynamic_shared_memory[kSharedLimit];  // declared by dynamic_shared() of launch.cuh
}

namespace cuda_host {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr int kWarps = 32;

enum class State { kReady, kAtBlockBarrier, kInExchange, kDone };

struct Fiber {
  ucontext_t context;
  void* fake_stack = nullptr;
  char* stack =
      static_cast<char*>(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
};

struct Thread {
  State state;
  unsigned mask;  // of the exchange it waits in
  unsigned turn;  // number of its exchanges, modulo 2
  Fiber* fiber;   // from its start until it is done
};

std::mt19937& rng() {
  static std::mt19937 generator(getenv("CUDA_HOST_SEED") ? unsigned(atoi(getenv("CUDA_HOST_SEED"))) : 1u);
  return generator;
}

std::mutex launching;
const std::function<void()>* body;
const void* running_kernel;
std::vector<Thread> threads;
std::vector<int> order;  // the threads that run until the next barrier of all
size_t cursor;           // the next of them
int current;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> idle;
ucontext_t scheduler;
const void* scheduler_stack;
size_t scheduler_stack_bytes;
uint64_t lanes[kWarps][2][32];
std::string failure;  // what a thread found, for the scheduler to report

std::string name_of(const void* kernel) {
  char text[2048] = "?";
  // A return address is expected, which lies behind the instruction that it belongs to.
  __sanitizer_symbolize_pc(static_cast<char*>(const_cast<void*>(kernel)) + 1, "%f", text, sizeof text);
  return text;
}

std::string where(int thread) {
  char text[160];
  const unsigned t = unsigned(thread), x = blockDim.x, y = blockDim.y;
  snprintf(text, sizeof text, ", block (%u, %u, %u) of (%u, %u, %u), thread (%u, %u, %u) of (%u, %u, %u)", blockIdx.x,
           blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, t % x, t / x % y, t / (x * y), x, y, blockDim.z);
  return "kernel " + name_of(running_kernel) + text;
}

// ---- fibers ----------------------------------------------------------------------------------------------------

void enter(int thread) {
  current = thread;
  const unsigned t = unsigned(thread);
  threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
}

void to_scheduler() {
  Fiber& fiber = *threads[current].fiber;
  __sanitizer_start_switch_fiber(&fiber.fake_stack, scheduler_stack, scheduler_stack_bytes);
  swapcontext(&fiber.context, &scheduler);
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack, &scheduler_stack_bytes);
}

int next_ready() {
  while (cursor < order.size()) {
    const int thread = order[cursor++];
    if (threads[thread].state == State::kReady) return thread;
  }
  return -1;
}

// Runs threads one after the other: a fiber is left only at a barrier, so kernels without one never switch.
void fiber_main() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
  for (;;) {
    (*body)();
    Fiber* fiber = threads[current].fiber;
    threads[current].state = State::kDone;
    const int next = next_ready();
    if (next >= 0 && threads[next].fiber == nullptr) {
      threads[current].fiber = nullptr;
      threads[next].fiber = fiber;
      enter(next);
      continue;
    }
    if (next >= 0) --cursor;
    idle.push_back(fiber);
    to_scheduler();
  }
}

Fiber* new_fiber() {
  fibers.push_back(std::make_unique<Fiber>());
  Fiber& fiber = *fibers.back();
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
  return &fiber;
}

Fiber* take_fiber() {
  if (idle.empty()) return new_fiber();
  Fiber* fiber = idle.back();
  idle.pop_back();
  return fiber;
}

// Threads that will never run on leave their stacks as they are.
[[noreturn]] void report(const std::string& what) {
  for (auto& fiber : fibers) {
    ASAN_UNPOISON_MEMORY_REGION(fiber->stack, kStackBytes);
    munmap(fiber->stack, kStackBytes);
  }
  fibers.clear();
  idle.clear();
  throw std::runtime_error("cuda_host: " + what);
}

void resume(int thread) {
  Fiber*& fiber = threads[thread].fiber;
  if (fiber == nullptr) fiber = take_fiber();
  enter(thread);
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fiber->stack, kStackBytes);
  swapcontext(&scheduler, &fiber->context);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
  if (!failure.empty()) report(std::exchange(failure, {}));
}

// ---- barriers --------------------------------------------------------------------------------------------------

// Makes ready the threads whose exchange is complete.
bool release_exchanges() {
  bool released = false;
  const int count = int(threads.size());
  for (int first = 0; first < count; first += 32) {
    const int present = std::min(32, count - first);
    unsigned complete = 0;
    for (int lane = 0; lane < present; ++lane) {
      const Thread& thread = threads[first + lane];
      if (thread.state != State::kInExchange) continue;
      bool all = true;
      for (int other = 0; other < present; ++other) {
        if (!(thread.mask >> other & 1u)) continue;
        const Thread& partner = threads[first + other];
        all = all && partner.state == State::kInExchange && partner.mask == thread.mask;
      }
      if (all) complete |= 1u << lane;
    }
    for (int lane = 0; lane < present; ++lane) {
      if (complete >> lane & 1u) threads[first + lane].state = State::kReady;
    }
    released = released || complete;
  }
  return released;
}

// Makes ready all threads when all are at the barrier; false when all are done.
bool release_block() {
  size_t waiting = 0, done = 0;
  for (const Thread& thread : threads) {
    waiting += thread.state == State::kAtBlockBarrier;
    done += thread.state == State::kDone;
  }
  if (done == threads.size()) return false;
  if (waiting < threads.size()) {
    for (size_t i = 0; i < threads.size(); ++i) {
      if (threads[i].state == State::kInExchange) {
        report("a warp's shuffle, vote or __syncwarp is not reached by all lanes of its mask; one waits in " +
               where(int(i)));
      }
    }
    for (size_t i = 0; i < threads.size(); ++i) {
      if (threads[i].state == State::kDone)
        report("a __syncthreads that others wait at is not reached by " + where(int(i)));
    }
  }
  for (Thread& thread : threads) thread.state = State::kReady;
  return true;
}

void run_block() {
  for (Thread& thread : threads) thread = {State::kReady, 0, 0, nullptr};
  for (;;) {
    std::shuffle(order.begin(), order.end(), rng());
    cursor = 0;
    for (int thread; (thread = next_ready()) >= 0;) resume(thread);
    if (!release_exchanges() && !release_block()) return;
  }
}

// ---- shared memory ---------------------------------------------------------------------------------------------

// This library's TLS block on the calling thread: all shared arrays, and nothing else.
struct SharedMemory {
  unsigned char* begin = nullptr;
  size_t bytes = 0;
};

SharedMemory shared_memory() {
  fastops::dynamic_shared_memory[0] = 0;  // the block exists from its first use on
  SharedMemory found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        const auto here = reinterpret_cast<uintptr_t>(&shared_memory);
        bool ours = false;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          const uintptr_t start = info->dlpi_addr + segment.p_vaddr;
          ours = ours || (segment.p_type == PT_LOAD && here >= start && here < start + segment.p_memsz);
        }
        for (int i = 0; ours && i < info->dlpi_phnum; ++i) {
          if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
          *static_cast<SharedMemory*>(out) = {static_cast<unsigned char*>(info->dlpi_tls_data),
                                              info->dlpi_phdr[i].p_memsz};
        }
        return int(ours);
      },
      &found);
  if (found.begin == nullptr) throw std::logic_error("cuda_host: the shared memory was not found");
  return found;
}

// Not a call of memset, which would stop at the poisoned bytes.
__attribute__((no_sanitize("address", "undefined"), optimize("no-tree-loop-distribute-patterns"))) void fill_with_nan(
    unsigned char* begin, unsigned char* end) {
  for (; begin < end; ++begin) *begin = 0xff;
}

// All shared arrays, of the dynamic one the bytes asked for.
void forget(SharedMemory memory, size_t dynamic_bytes) {
  auto* dynamic = reinterpret_cast<unsigned char*>(fastops::dynamic_shared_memory);
  fill_with_nan(memory.begin, dynamic + dynamic_bytes);
  fill_with_nan(dynamic + kSharedLimit, memory.begin + memory.bytes);
}

// ---- what ran --------------------------------------------------------------------------------------------------

std::set<const void*> kernels;

void on_death() {
  if (running_kernel != nullptr) fprintf(stderr, "cuda_host: in %s\n", where(current).c_str());
}

// While it lives, `kernel` runs.
struct Running {
  explicit Running(const void* kernel) { running_kernel = kernel; }
  ~Running() { running_kernel = nullptr; }
};

}  // namespace

cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread) {
  const std::lock_guard<std::mutex> lock(launching);
  static const bool once = (__sanitizer_set_death_callback(on_death), true);
  (void)once;
  const dim3 grid = config.gridDim, block = config.blockDim;
  const uint64_t count = uint64_t(block.x) * block.y * block.z;
  const Running running(kernel);
  body = &thread, gridDim = grid, blockDim = block, blockIdx = {0, 0, 0};
  if (count < 1 || count > 1024 || block.z > 64 || grid.x < 1 || grid.x > 0x7fffffffu || grid.y < 1 || grid.y > 65535 ||
      grid.z < 1 || grid.z > 65535 || config.dynamicSmemBytes > kSharedLimit) {
    report("a GPU refuses this launch, with " + std::to_string(config.dynamicSmemBytes) +
           " bytes of shared memory: " + where(0));
  }
  kernels.insert(kernel);

  // Kernels must give the same result for any grid: half of the launches get a smaller one.
  if (rng()() % 2) gridDim.x = 1 + unsigned(rng()() % std::min(grid.x, 64u));
  std::vector<uint64_t> blocks(uint64_t(gridDim.x) * gridDim.y * gridDim.z);
  for (uint64_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
  std::shuffle(blocks.begin(), blocks.end(), rng());

  threads.resize(count);
  order.resize(count);
  for (uint64_t i = 0; i < count; ++i) order[i] = int(i);
  const SharedMemory memory = shared_memory();
  char* dynamic = fastops::dynamic_shared_memory;
  ASAN_UNPOISON_MEMORY_REGION(dynamic, kSharedLimit);
  ASAN_POISON_MEMORY_REGION(dynamic + config.dynamicSmemBytes, kSharedLimit - config.dynamicSmemBytes);
  for (uint64_t index : blocks) {
    blockIdx = {unsigned(index % gridDim.x), unsigned(index / gridDim.x % gridDim.y),
                unsigned(index / gridDim.x / gridDim.y)};
    forget(memory, config.dynamicSmemBytes);
    run_block();
  }
  return cudaSuccess;
}

void poison_redzone(void* bytes, size_t count) { ASAN_POISON_MEMORY_REGION(bytes, count); }

void sync_block() {
  threads[current].state = State::kAtBlockBarrier;
  to_scheduler();
}

unsigned lane() { return unsigned(current) % 32; }

const uint64_t* exchange(unsigned mask, uint64_t value) {
  Thread& thread = threads[current];
  if (!(mask >> lane() & 1u)) {
    failure = "a shuffle, vote or __syncwarp is called by a thread that its mask leaves out: " + where(current);
    to_scheduler();
  }
  // Two sets of slots in turn: a lane may write its next value while others still read this one, but not one more.
  uint64_t* slots = lanes[current / 32][thread.turn ^= 1];
  slots[lane()] = value;
  thread.mask = mask;
  thread.state = State::kInExchange;
  to_scheduler();
  return slots;
}

}  // namespace cuda_host

// ---- for the tests -----------------------------------------------------------------------------------------------

// The names of the kernels launched so far, one a line; returns the number of bytes they need.
extern "C" __attribute__((visibility("default"))) size_t cuda_host_kernels(char* text, size_t bytes) {
  std::string names;
  for (const void* kernel : cuda_host::kernels) names += cuda_host::name_of(kernel) + "\n";
  if (bytes > names.size()) memcpy(text, names.c_str(), names.size() + 1);
  return names.size() + 1;
}

// ---- the CUDA side of torch's C interface, which a CPU build of torch lacks ---------------------------------------

extern "C" {
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return AOTI_TORCH_SUCCESS; }
void torch_c10_cuda_check_msg(int32_t error, const char*, const char* function, uint32_t, bool, char** message) {
  *message =
      error == cudaSuccess ? nullptr : strdup((std::string("cuda_host: a launch failed in ") + function).c_str());
}
void torch_c10_cuda_free_error_msg(char* message) { free(message); }
}
