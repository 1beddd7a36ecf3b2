// A DenseNet on a GPU: a CUDA block as a team of four warps that multiply matrices, and the
// launches of a forward and a backward.
#include "densenet/cuda/engine.h"
#include "densenet/cuda/passes.h"
#include "rows/team.cuh"

namespace fastrobust {

// D = A B + D by a tensor core (PTX ISA, mma.sync).
template <Precision P>
__device__ __forceinline__ void mma(float* sums, const uint32_t* left, const uint32_t* right) {
  if constexpr (P == Precision::kBfloat16)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

struct TileTeam : BlockTeam {
  static_assert(kBlock == kTileRows / kWarpRows * 32);

  // Threads side by side take the pieces of a row; a thread stays in its column.
  template <int kBatch, typename Prepare, typename Load, typename Use>
  __device__ void columns(int rows, int columns, const Prepare& prepare, const Load& load,
                          const Use& use) const {
    int width = 1;
    while (width < columns && width < kBlock) width *= 2;
    const int step = kBlock / width, me = threadIdx.x;
    for (int column = me & (width - 1); column < columns; column += width) {
      const auto own = prepare(column);
      for (int first = me / width; first < rows; first += step * kBatch) {
        decltype(load(0, 0)) loaded[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
          if (first + i * step < rows) loaded[i] = load(first + i * step, column);
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
          if (first + i * step < rows) use(first + i * step, column, own, loaded[i]);
      }
    }
  }

  template <Precision P, int kColumns>
  struct Tile {
    Sums<kColumns> sums;

    __device__ void clear() { sums.clear(); }

    template <int kTaps>
    __device__ void multiply(const Strip<Operand<P>>& strip, const Operand<P>* weights, int depth) {
      const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * kWarpRows + lane / 4;
      unsigned taps[kRowsOfLane] = {};
      if (kTaps == 9)
        for (int i = 0; i < kRowsOfLane; ++i) taps[i] = strip.taps[row + 8 * i];
      walk<P, kTaps, kColumns>(weights, depth,
                               [&](const Operand<P>* step_weights, int tap, int k, int left) {
                                 const auto rows = rows_of<kTaps>(strip, taps, row, tap, k);
                                 if constexpr (P == Precision::kFloat32) {
                                   multiply_float(lane, rows, step_weights, left, sums);
                                 } else {
                                   const Right<P, kColumns> b(lane, step_weights);
                                   const Left<P> a(lane, rows);
#pragma unroll
                                   for (int half = 0; half < kHalves<P>; ++half)
#pragma unroll
                                     for (int m = 0; m < 2; ++m)
#pragma unroll
                                       for (int group = 0; group < kColumns / 8; ++group)
                                         mma<P>(sums.block(m, group), a.word[m] + 4 * half,
                                                b.word + group * kRightWords<P> + 2 * half);
                                 }
                               });
    }

    __device__ void store(float* out, int stride) {
      store_sums<P>(threadIdx.x % 32, sums, out + threadIdx.x / 32 * kWarpRows * stride, stride);
    }
  };
};

constexpr int kBlocks = 3;  // at least, of a processor: as many as shared memory has room for

template <typename Task>
__global__ void __launch_bounds__(kBlock, kBlocks) tiles_kernel(const Task task) {
  extern __shared__ __align__(16) unsigned char shared[];
  const TileTeam team;
  Arena arena{shared};
  const auto memory = task.lay(arena);
  task.begin(team, memory);
  for (int64_t tile = blockIdx.x; tile < task.tiles(); tile += gridDim.x) {
    team.sync();  // the tile before may still be read
    task.tile(team, memory, tile);
  }
}

// As many blocks as the GPU holds at once go through all tiles, so that weights come in once.
template <typename Task>
cudaError_t launch(const Task& task, cudaStream_t stream) {
  const int bytes = static_cast<int>(shared_bytes(task));
  cudaError_t status =
      cudaFuncSetAttribute(tiles_kernel<Task>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  int device = 0, processors = 0, resident = 0;
  if (status == cudaSuccess) status = cudaGetDevice(&device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (status == cudaSuccess)
    status =
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, tiles_kernel<Task>, kBlock, bytes);
  if (status != cudaSuccess) return status;
  if (resident == 0) return cudaErrorInvalidConfiguration;
  const int64_t most = int64_t{processors} * resident;
  const unsigned blocks = static_cast<unsigned>(task.tiles() < most ? task.tiles() : most);
  tiles_kernel<<<blocks, kBlock, bytes, stream>>>(task);
  return cudaGetLastError();
}

cudaError_t densenet_cuda(const DenseNetCudaArgs& args, cudaStream_t stream) {
  if (args.N == 0) return cudaSuccess;
  cudaError_t status = cudaSuccess;
  const auto run = [&](auto task) {
    status = share(task) ? launch(task, stream) : cudaErrorInvalidConfiguration;
    return status == cudaSuccess;
  };
  at_precision(args, [&](const auto& walk) {
    return (!args.z || walk.forward(run)) && (!args.dz || walk.backward(run));
  });
  return status;
}

}  // namespace fastrobust
