// start on a GPU: random starts, one block per row.
#include "ops/random_start.h"
#include "rows/team.cuh"

namespace fastrobust {

template cudaError_t cuda_rows(const StartArgs<float>&, cudaStream_t);
template cudaError_t cuda_rows(const StartArgs<double>&, cudaStream_t);

}  // namespace fastrobust
