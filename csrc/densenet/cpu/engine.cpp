// The CPU engine, compiled for each instruction set and chosen at run time. All headers of others
// come first: what they define must run everywhere.
#include <type_traits>

#include "densenet/cpu/lanes.h"
#include "densenet/layout.h"
#include "rows/cpu.h"

namespace fastrobust {

namespace portable {
#include "densenet/cpu/engine.h"
}  // namespace portable

#ifdef __x86_64__
FR_BEGIN_AVX2
namespace avx2 {
#include "densenet/cpu/engine.h"
}  // namespace avx2
FR_END

FR_BEGIN_AVX512
namespace avx512 {
#include "densenet/cpu/engine.h"
}  // namespace avx512
FR_END

FR_BEGIN_AMX
namespace amx {
#define FR_MATRIX
#include "densenet/cpu/engine.h"
#undef FR_MATRIX
}  // namespace amx
FR_END
#endif

void densenet_cpu(const DenseNetArgs& args, int64_t begin, int64_t end, float* scratch) {
#ifdef __x86_64__
  if (args.plan->tiles()) return amx::run(args, begin, end, scratch);
  if (active_isa() >= Isa::kAvx512) return avx512::run(args, begin, end, scratch);
  if (active_isa() == Isa::kAvx2) return avx2::run(args, begin, end, scratch);
#endif
  portable::run(args, begin, end, scratch);
}

}  // namespace fastrobust
