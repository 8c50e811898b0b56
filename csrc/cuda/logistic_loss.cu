// Balanced logistic loss on CUDA; formulas and labels are in math/logistic_loss.h.
//
// A block takes kChunk cells of a map. It first counts the map's positives, one row per thread, which gives the weights
// of both labels. The distance of a cell decides its label. Memory-bound: the forward reads the scores once, and the
// backward reads and writes as many bytes.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "../common/logistic_loss.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "vec.cuh"

namespace fastops {
namespace {

// Cells per block: 32 per thread, so that the count and the sum over the block take little time.
constexpr int64_t kChunk = 32 * kThreads;

template <class T>
struct Maps {
  const T* responses;    // [maps, disk.height * disk.width]
  const float* centers;  // [maps, 2], or null: the centre of `disk`
  PositiveDisk disk;
  int64_t maps, size, chunks;  // size: cells of a map; chunks: blocks per map
};

// The chunk of a map that a block processes.
template <class T>
class Chunk {
 public:
  using A = opmath_t<T>;
  const T* responses;
  int64_t map, begin, end;  // cells of the map

  // The whole block calls.
  __device__ Chunk(const Maps<T>& maps, int64_t item) : map(item / maps.chunks), disk_(maps.disk) {
    responses = maps.responses + map * maps.size;
    begin = (item - map * maps.chunks) * kChunk;
    end = begin + kChunk < maps.size ? begin + kChunk : maps.size;
    if (maps.centers) {
      disk_.row = maps.centers[2 * map];
      disk_.column = maps.centers[2 * map + 1];
    }
    const Run rows = disk_.rows();
    double count = 0;
    for (int64_t r = rows.begin + threadIdx.x; r < rows.end; r += blockDim.x) {
      const Run columns = disk_.columns(r);
      if (columns.begin < columns.end) count += double(columns.end - columns.begin);
    }
    count = block_sum(count);  // exact, because these are integers
    positive_ = count > 0 ? A(0.5 / count) : A(0);
    negative_ = count < double(maps.size) ? A(0.5 / (double(maps.size) - count)) : A(0);
    first_ = rows.begin * disk_.width;
    last_ = rows.end * disk_.width;
  }

  // Only rows with positives take a division and two products in double.
  __device__ bool positive(int64_t place) const {
    if (place < first_ || place >= last_) return false;
    const int64_t row = place / disk_.width;
    return disk_.contains(row, place - row * disk_.width);
  }

  __device__ A loss(int64_t place, T value) const {
    const A v = to_opmath(value);
    return positive(place) ? positive_ * softplus_(-v) : negative_ * softplus_(v);
  }
  __device__ T backward(int64_t place, T value, A grad) const {
    const A v = to_opmath(value);
    return from_opmath<T>(positive(place) ? -(grad * positive_) * softplus_backward_(-v)
                                          : (grad * negative_) * softplus_backward_(v));
  }

 private:
  PositiveDisk disk_;
  A positive_, negative_;  // weights
  int64_t first_, last_;   // the cells of the rows with positives
};

// The cells [begin, end) at `p`: one by one up to `packs`, in packs up to `rest`, one by one up to `end`. Maps of an
// odd size may start at any address.
template <class T>
struct Split {
  int64_t packs, rest;
  __device__ Split(const T* p, int64_t begin, int64_t end) {
    constexpr int64_t kSize = Pack<T>::size;
    const int64_t past = int64_t(reinterpret_cast<uintptr_t>(p + begin) / sizeof(T) % kSize);
    const int64_t first = begin + (kSize - past) % kSize;
    packs = first < end ? first : end;
    rest = packs + (end - packs) / kSize * kSize;
  }
};

// losses has one value per map if a map has a single chunk, else it is null and partial has the losses of all chunks.
template <class T>
__global__ void __launch_bounds__(kThreads, 3)
    balanced_logistic_loss_kernel(Maps<T> maps, T* losses, opmath_t<T>* partial) {
  constexpr int kSize = Pack<T>::size;
  for (int64_t item = blockIdx.x; item < maps.maps * maps.chunks; item += gridDim.x) {
    const Chunk<T> chunk(maps, item);
    const T* v = chunk.responses;
    const Split<T> split(v, chunk.begin, chunk.end);
    opmath_t<T> sum = 0;
    for (int64_t i = chunk.begin + threadIdx.x; i < split.packs; i += kThreads) sum += chunk.loss(i, v[i]);
    for (int64_t i = split.packs + threadIdx.x * kSize; i < split.rest; i += kThreads * kSize) {
      const Pack<T> pack = load_pack(v + i);
#pragma unroll
      for (int k = 0; k < kSize; ++k) sum += chunk.loss(i + k, pack.values[k]);
    }
    for (int64_t i = split.rest + threadIdx.x; i < chunk.end; i += kThreads) sum += chunk.loss(i, v[i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
      if (losses) {
        losses[item] = from_opmath<T>(sum);
      } else {
        partial[item] = sum;
      }
    }
  }
}

// losses[i] = (sum of the i-th `count` of the partial losses) / divisor
template <class T>
__global__ void __launch_bounds__(kThreads, 3)
    sum_losses_kernel(const opmath_t<T>* partial, T* losses, int64_t n, int64_t count, opmath_t<T> divisor) {
  for (int64_t i = blockIdx.x; i < n; i += gridDim.x) {
    opmath_t<T> sum = 0;
    for (int64_t k = threadIdx.x; k < count; k += kThreads) sum += partial[i * count + k];
    sum = block_sum(sum);
    if (threadIdx.x == 0) losses[i] = from_opmath<T>(sum / divisor);
  }
}

// There is one grad per map (grad_stride 1) or one for all (grad_stride 0). It is divided by `divisor`.
template <class T>
__global__ void __launch_bounds__(kThreads, 3)
    balanced_logistic_loss_backward_kernel(Maps<T> maps, const T* grad, int64_t grad_stride, opmath_t<T> divisor,
                                           T* grad_responses) {
  constexpr int kSize = Pack<T>::size;
  for (int64_t item = blockIdx.x; item < maps.maps * maps.chunks; item += gridDim.x) {
    const Chunk<T> chunk(maps, item);
    const T* v = chunk.responses;
    T* out = grad_responses + chunk.map * maps.size;
    const opmath_t<T> g = to_opmath(grad[chunk.map * grad_stride]) / divisor;
    Split<T> split(v, chunk.begin, chunk.end);
    // If the responses and their gradient have different offsets from a 16-byte boundary, cells go one by one.
    if ((reinterpret_cast<uintptr_t>(v) - reinterpret_cast<uintptr_t>(out)) % 16 != 0)
      split.packs = split.rest = chunk.end;
    for (int64_t i = chunk.begin + threadIdx.x; i < split.packs; i += kThreads) out[i] = chunk.backward(i, v[i], g);
    for (int64_t i = split.packs + threadIdx.x * kSize; i < split.rest; i += kThreads * kSize) {
      Pack<T> pack = load_pack(v + i);
#pragma unroll
      for (int k = 0; k < kSize; ++k) pack.values[k] = chunk.backward(i + k, pack.values[k], g);
      store_pack(out + i, pack);
    }
    for (int64_t i = split.rest + threadIdx.x; i < chunk.end; i += kThreads) out[i] = chunk.backward(i, v[i], g);
  }
}

template <class T>
Maps<T> make_maps(const LogisticLossCall& call, const Tensor& responses, const std::optional<Tensor>& centers) {
  return {data<T>(responses), centers ? data<float>(*centers) : nullptr, call.centered_disk(), call.maps,
          call.size(),        (call.size() + kChunk - 1) / kChunk};
}

double divisor_of(const LogisticLossCall& call) { return call.reduction == Reduction::kMean ? double(call.maps) : 1.0; }

std::optional<Tensor> contiguous_or_none(const std::optional<Tensor>& t) {
  return t ? std::optional(torch::stable::contiguous(*t)) : std::nullopt;
}

Tensor balanced_logistic_loss_cuda(const Tensor& responses_, double radius, double stride, std::string reduction,
                                   const std::optional<Tensor>& centers_) {
  const char* op = "balanced_logistic_loss";
  const LogisticLossCall call = check_logistic_loss(op, responses_, radius, stride, reduction, centers_);
  const CudaScope scope(responses_);
  const Tensor responses = torch::stable::contiguous(responses_);
  const std::optional<Tensor> centers = contiguous_or_none(centers_);
  std::vector<int64_t> sizes(call.reduction == Reduction::kNone ? size_t(responses.dim() - 2) : 0);
  for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = responses.size(int64_t(i));
  Tensor losses =
      torch::stable::new_empty(responses, torch::headeronly::IntHeaderOnlyArrayRef(sizes.data(), sizes.size()));
  if (call.losses() == 0) return losses;
  dispatch_dtype(dtype_index(op, "responses", responses), [&]<class T>() {
    const Maps<T> maps = make_maps<T>(call, responses, centers);
    const int64_t items = maps.maps * maps.chunks, count = items / call.losses();
    const bool direct = items == call.losses();  // nothing to add, and the mean is the loss of one map
    const ScalarType opmath = responses.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    const Tensor partial = torch::stable::new_empty(responses, {direct ? 0 : items}, opmath);
    T* out = mutable_data<T>(losses);
    auto* sums = mutable_data<opmath_t<T>>(partial);
    if (items > 0) {
      launch(balanced_logistic_loss_kernel<T>, grid_for(items, 1), kThreads, 0, scope, maps, direct ? out : nullptr,
             sums);
    }
    if (!direct) {
      launch(sum_losses_kernel<T>, grid_for(call.losses(), 1), kThreads, 0, scope, sums, out, call.losses(), count,
             opmath_t<T>(divisor_of(call)));
    }
  });
  return losses;
}

Tensor balanced_logistic_loss_backward_cuda(const Tensor& grad_, const Tensor& responses_, double radius, double stride,
                                            std::string reduction, const std::optional<Tensor>& centers_) {
  const char* op = "balanced_logistic_loss_backward";
  const LogisticLossCall call = check_logistic_loss(op, responses_, radius, stride, reduction, centers_);
  check_logistic_loss_grad(op, grad_, call, responses_);
  const CudaScope scope(responses_);
  const Tensor responses = torch::stable::contiguous(responses_), grad = torch::stable::contiguous(grad_);
  const std::optional<Tensor> centers = contiguous_or_none(centers_);
  Tensor grad_responses = torch::stable::empty_like(responses);
  if (call.maps == 0) return grad_responses;
  dispatch_dtype(dtype_index(op, "responses", responses), [&]<class T>() {
    const Maps<T> maps = make_maps<T>(call, responses, centers);
    launch(balanced_logistic_loss_backward_kernel<T>, grid_for(maps.maps * maps.chunks, 1), kThreads, 0, scope, maps,
           data<T>(grad), int64_t(call.reduction == Reduction::kNone), opmath_t<T>(divisor_of(call)),
           mutable_data<T>(grad_responses));
  });
  return grad_responses;
}

}  // namespace
}  // namespace fastops

STABLE_TORCH_LIBRARY_IMPL(fastops, CUDA, m) {
  m.impl("balanced_logistic_loss", TORCH_BOX(&fastops::balanced_logistic_loss_cuda));
  m.impl("balanced_logistic_loss_backward", TORCH_BOX(&fastops::balanced_logistic_loss_backward_cuda));
}
