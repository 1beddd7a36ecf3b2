// A CUDA block of four warps on a CPU: what each lane reads and stores is the code of the GPU; the
// tensor core's multiplication is done by its definition, with the layouts of the PTX ISA
// ("Matrix Fragments for mma.m16n8k8 / m16n8k16") written down here once more.
#pragma once

#include "densenet/cuda/tiles.h"

namespace fastrobust {

// Row and column of number i that a lane holds of each matrix.
struct At {
  int row, column;
};

template <Precision P>
At left_at(int lane, int i) {
  const int group_id = lane >> 2, in_group = lane % 4;
  if (P == Precision::kBfloat16) {
    const bool upper = i < 2 || (4 <= i && i < 6);
    return {upper ? group_id : group_id + 8, in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
  }
  return {i == 0 || i == 2 ? group_id : group_id + 8, i < 2 ? in_group : in_group + 4};
}

template <Precision P>
At right_at(int lane, int i) {
  const int group_id = lane >> 2, in_group = lane % 4;
  if (P == Precision::kBfloat16) return {in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0), group_id};
  return {i == 0 ? in_group : in_group + 4, group_id};
}

inline At sums_at(int lane, int i) {
  const int group_id = lane >> 2, in_group = lane % 4;
  return {i < 2 ? group_id : group_id + 8, in_group * 2 + (i & 1)};
}

// Number i of the registers.
template <Precision P>
float number(const uint32_t* words, int i) {
  if (P == Precision::kBfloat16)
    return to_float(Bfloat16{static_cast<uint16_t>(words[i / 2] >> i % 2 * 16)});
  return bits<float>(words[i]);
}

// A warp's D = A B + D; left(lane), right(lane), sums(lane) are each lane's registers.
template <Precision P, typename Left, typename Right, typename Own>
void simulated_mma(const Left& left, const Right& right, const Own& sums) {
  constexpr int kInner = P == Precision::kBfloat16 ? 16 : 8;
  float a[16][kInner], b[kInner][8];
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < kInner / 2; ++i) {
      const At at = left_at<P>(lane, i);
      a[at.row][at.column] = number<P>(left(lane), i);
    }
    for (int i = 0; i < kInner / 4; ++i) {
      const At at = right_at<P>(lane, i);
      b[at.row][at.column] = number<P>(right(lane), i);
    }
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const At at = sums_at(lane, i);
      for (int k = 0; k < kInner; ++k) sums(lane)[i] += a[at.row][k] * b[k][at.column];
    }
}

struct SimulatedTeam : SerialTeam {
  template <int kBatch, typename Prepare, typename Load, typename Use>
  void columns(int rows, int columns, const Prepare& prepare, const Load& load,
               const Use& use) const {
    for (int column = 0; column < columns; ++column) {
      const auto own = prepare(column);
      for (int row = 0; row < rows; ++row) use(row, column, own, load(row, column));
    }
  }

  template <Precision P, int kColumns>
  struct Tile {
    static constexpr int kWarps = kTileRows / kWarpRows;
    Sums<kColumns> sums[kWarps][32];

    void clear() {
      for (auto& warp : sums)
        for (auto& lane : warp) lane.clear();
    }

    template <int kTaps>
    void multiply(const Strip<Operand<P>>& strip, const Operand<P>* weights, int depth) {
      walk<P, kTaps, kColumns>(weights, depth,
                               [&](const Operand<P>* step_weights, int tap, int k, int left) {
                                 for (int warp = 0; warp < kWarps; ++warp)
                                   step<kTaps>(strip, step_weights, warp, tap, k, left);
                               });
    }

    void store(float* out, int stride) {
      for (int warp = 0; warp < kWarps; ++warp)
        for (int lane = 0; lane < 32; ++lane)
          store_sums<P>(lane, sums[warp][lane], out + warp * kWarpRows * stride, stride);
    }

   private:
    template <int kTaps>
    void step(const Strip<Operand<P>>& strip, const Operand<P>* weights, int warp, int tap, int k,
              int depth) {
      std::vector<Left<P>> a;
      std::vector<Right<P, kColumns>> b;
      for (int lane = 0; lane < 32; ++lane) {
        const int row = warp * kWarpRows + lane / 4;
        unsigned taps[kRowsOfLane] = {};
        if (kTaps == 9)
          for (int i = 0; i < kRowsOfLane; ++i) taps[i] = strip.taps[row + 8 * i];
        const auto rows = rows_of<kTaps>(strip, taps, row, tap, k);
        if constexpr (P == Precision::kFloat32) {
          multiply_float(lane, rows, weights, depth, sums[warp][lane]);
        } else {
          a.emplace_back(lane, rows);
          b.emplace_back(lane, weights);
        }
      }
      if constexpr (P != Precision::kFloat32)
        for (int half = 0; half < kHalves<P>; ++half)
          for (int m = 0; m < 2; ++m)
            for (int group = 0; group < kColumns / 8; ++group)
              simulated_mma<P>(
                  [&](int lane) { return a[lane].word[m] + 4 * half; },
                  [&](int lane) { return b[lane].word + group * kRightWords<P> + 2 * half; },
                  [&](int lane) { return sums[warp][lane].block(m, group); });
    }
  };
};

// Runs a task's tiles one after the other, in `blocks` blocks as a launch would.
template <typename Task>
bool run_simulated(Task task, int64_t bytes, int64_t blocks) {
  const SimulatedTeam team;
  std::vector<Piece<float>> shared(bytes / sizeof(Piece<float>) + 1);
  // What is read before it is written shows itself.
  std::memset(static_cast<void*>(shared.data()), 0xff, shared.size() * sizeof(Piece<float>));
  for (int64_t block = 0; block < blocks; ++block) {
    Arena arena{reinterpret_cast<unsigned char*>(shared.data())};
    const auto memory = task.lay(arena);
    task.begin(team, memory);
    for (int64_t tile = block; tile < task.tiles(); tile += blocks) task.tile(team, memory, tile);
  }
  return true;
}

}  // namespace fastrobust
