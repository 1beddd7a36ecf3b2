// What every convolution on a GPU has in common: its tiles, and the shared memory that it lays out.
#pragma once

#include "densenet/cuda/tiles.h"

namespace fastrobust {

// A kernel that is one convolution. Task adds what it reads and writes, `tile`, and `frame()`: the
// pixels that it goes through, a tile at a time.
template <typename Task, Precision P, int kTaps>
struct ConvolutionTask {
  using Memory = Bench<P, kTaps>;
  Sharing sharing;
  Product<P, kTaps> product;

  FR_HD int64_t tiles() const { return (own().frame().pixels + kTileRows - 1) / kTileRows; }
  FR_HD Memory lay(Arena& arena) const {
    Memory memory;
    memory.lay(arena, product, sharing, kTaps == 9 ? own().frame().width : 0);
    return memory;
  }
  template <typename Team>
  FR_HD void begin(const Team& team, const Memory& memory) const {
    memory.begin(team, product);
  }

 private:
  FR_HD const Task& own() const { return static_cast<const Task&>(*this); }
};

}  // namespace fastrobust
