// Convolutions of bfloat16 pairs by a matrix unit (AMX, see Intel's Optimization Reference
// Manual), included by engine.h in namespace amx.
//
// It adds 16 outputs by 16 pairs of inputs (weights) times 16 pairs by 16 pixels to 16 outputs by
// 16 pixels: in registers 0 to 3 there are the sums of four neighbours, 4 holds weights, 5 pixels.
// Pairs lie in planes as they do for vectors, so that a register is loaded from them as they are.

// All registers as 16 rows of 64 bytes for as long as this lives.
class TileRegisters {
 public:
  TileRegisters() {
    Shape shape{};
    for (int i = 0; i < 6; ++i) shape.rows[i] = 16, shape.bytes[i] = 64;
    asm volatile("" ::"r"(&shape) : "memory");  // for GCC 12 eight bytes of it are read
    _tile_loadconfig(&shape);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

 private:
  struct Shape {
    uint8_t palette = 1, start = 0, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  };
};

// Registers are named in the instructions, so that no loop can go over them.
#define FR_EACH_TILE(DO)     \
  DO(0);                     \
  if constexpr (kVecs > 1) { \
    DO(1);                   \
  }                          \
  if constexpr (kVecs > 2) { \
    DO(2);                   \
  }                          \
  if constexpr (kVecs > 3) { \
    DO(3);                   \
  }

// A convolution as in register_tiles.h; a 3x3 one takes the three columns of a row of taps as
// inputs of their own.
template <int kTaps, int kVecs, typename Done>
__attribute__((noinline)) void convolve(const uint32_t* x, int64_t stride, int64_t pitch,
                                        int64_t column, int64_t units, const uint32_t* w,
                                        int64_t out, const Done& done) {
  constexpr int kRows = kTaps == 9 ? 3 : 1;
  constexpr int64_t kTile = ConvWeights::kTile, kWide = kVecs * kTile;
  const int64_t planes = ConvWeights::planes(units, kTaps), line = stride * sizeof(uint32_t);
  alignas(64) float sums[kTile * kWide];
  asm volatile("" ::: "memory");  // GCC does not know that a tile is loaded from memory
  for (int64_t first = 0; first < out; first += kTile) {
    if constexpr (Done::kReads) done.template prefetch<kTile, kVecs>(first);
#define FR_ZERO(v) _tile_zero(v)
    FR_EACH_TILE(FR_ZERO)
    for (int row = 0; row < kRows; ++row) {
      const uint32_t* at = kTaps == 1 ? x : x - column + (row - 1) * pitch;
      for (int64_t i = 0; i < planes; i += kTile, at += kTile * stride, w += kTile * kTile) {
        _tile_loadd(4, w, 64);
#define FR_MULTIPLY(v)                  \
  _tile_loadd(5, at + v * kTile, line); \
  _tile_dpbf16ps(v, 4, 5)
        FR_EACH_TILE(FR_MULTIPLY)
      }
    }
#define FR_STORE(v) _tile_stored(v, sums + v * kTile, kWide * sizeof(float))
    FR_EACH_TILE(FR_STORE)
    const int64_t rest = round_up(out - first, 4);
    for (int64_t o = 0; o < (rest < kTile ? rest : kTile); o += 4) {
      V acc[4][kVecs];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) acc[i][v] = Lanes::load(sums + (o + i) * kWide + v * kTile);
      done(first + o, acc);
    }
  }
}
