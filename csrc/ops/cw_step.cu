// cw_step on a GPU: Carlini and Wagner's L2 attack, one block per row.
#include "ops/cw_step.h"
#include "rows/team.cuh"

namespace fastrobust {

template cudaError_t cuda_rows(const CwStepArgs<float>&, cudaStream_t);
template cudaError_t cuda_rows(const CwStepArgs<double>&, cudaStream_t);

}  // namespace fastrobust
