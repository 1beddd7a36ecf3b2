// A CUDA block as a team (see team.h), and the launch of a kernel with one block per row.
#pragma once

#include <cuda_runtime.h>

#include "rows/cuda.h"
#include "rows/team.h"

namespace fastrobust {

constexpr int kBlock = 128;

struct BlockTeam {
  template <typename F>
  __device__ void each(int64_t n, F f) const {
    for (int64_t j = threadIdx.x; j < n; j += kBlock) f(j);
  }

  // Thread t takes what is t modulo the block, wherever it begins.
  template <int kLanes, typename F>
  __device__ void grid(int64_t first, int64_t end, F f) const {
    const int64_t from = first * kLanes;
    for (int64_t j = from + (threadIdx.x + kBlock - from % kBlock) % kBlock; j < end * kLanes;
         j += kBlock)
      f(j / kLanes, j % kLanes);
  }

  template <typename T, int kArrays, typename... F>
  __device__ void passes(int64_t n, Ahead<T, kArrays>, F... f) const {
    for (int64_t j = threadIdx.x; j < n; j += kBlock) (f(j), ...);
  }

  // Groups of kLanes threads take the rows in turn; a group is a part of a warp, or the block.
  template <int kLanes, typename T, typename Term, typename Done>
  __device__ void sums(int64_t rows, int64_t n, Term term, Done done) const {
    static_assert(kLanes == kBlock || (kLanes <= 32 && 32 % kLanes == 0));
    constexpr int kGroups = kBlock / kLanes;
    const int lane = threadIdx.x % kLanes;
    // Every thread of a warp takes part in the shuffles, also where its group has no row left.
    for (int64_t first = 0; first < rows; first += kGroups) {
      const int64_t r = first + threadIdx.x / kLanes;
      T part = 0;
      if (r < rows)
        for (int64_t j = lane; j < n; j += kLanes) part = term(r, j, part);
      if constexpr (kLanes == kBlock) {
        __shared__ T parts[kBlock];
        parts[lane] = part;
        for (int width = kLanes / 2; width >= 32; width /= 2) {
          __syncthreads();
          if (lane < width) parts[lane] += parts[lane + width];
        }
        __syncthreads();
        part = parts[lane % 32];
        __syncthreads();
      }
      for (int width = (kLanes < 32 ? kLanes : 32) / 2; width > 0; width /= 2)
        part += __shfl_xor_sync(0xffffffffu, part, width);
      if (lane == 0 && r < rows) done(r, part);
    }
  }

  template <typename T, typename Value>
  __device__ Top3<T> top3(int64_t n, Value value) const {
    __shared__ T values[kBlock][3];
    __shared__ int64_t indices[kBlock][3];
    const int me = threadIdx.x;
    Top3<T> top;
    for (int64_t k = me; k < n; k += kBlock) top.insert(value(k), k);
    for (int width = kBlock / 2; width > 0; width /= 2) {
      for (int i = 0; i < 3; ++i) {
        values[me][i] = top.value[i];
        indices[me][i] = top.index[i];
      }
      __syncthreads();
      for (int i = 0; i < 3 && me < width; ++i)
        if (indices[me + width][i] < n) top.insert(values[me + width][i], indices[me + width][i]);
      __syncthreads();
    }
    if (me == 0)
      for (int i = 0; i < 3; ++i) {
        values[0][i] = top.value[i];
        indices[0][i] = top.index[i];
      }
    __syncthreads();
    for (int i = 0; i < 3; ++i) {
      top.value[i] = values[0][i];
      top.index[i] = indices[0][i];
    }
    __syncthreads();
    return top;
  }

  __device__ void sync() const { __syncthreads(); }
  __device__ bool leader() const { return threadIdx.x == 0; }
};

template <typename Args>
__global__ void __launch_bounds__(kBlock) rows_kernel(Args args) {
  extern __shared__ __align__(16) unsigned char scratch[];
  for (int64_t row = blockIdx.x; row < args.N; row += gridDim.x) {
    compute_row(args, row, BlockTeam{}, reinterpret_cast<typename Args::Scalar*>(scratch));
    __syncthreads();  // the next row reuses the scratch memory
  }
}

template <typename Args>
cudaError_t cuda_rows(const Args& args, cudaStream_t stream) {
  const size_t bytes = scratch_size(args) * sizeof(typename Args::Scalar);
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (bytes > kWithoutAsking) {
    const cudaError_t status = cudaFuncSetAttribute(
        rows_kernel<Args>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status != cudaSuccess) return status;
  }
  const int64_t blocks = args.N < INT32_MAX ? args.N : INT32_MAX;
  rows_kernel<<<static_cast<unsigned>(blocks), kBlock, bytes, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace fastrobust
