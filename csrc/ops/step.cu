// step on a GPU: attack updates, one block per row.
#include "ops/step.h"
#include "rows/team.cuh"

namespace fastrobust {

template cudaError_t cuda_rows(const StepArgs<float>&, cudaStream_t);
template cudaError_t cuda_rows(const StepArgs<double>&, cudaStream_t);

}  // namespace fastrobust
