// deepfool on a GPU: one block per row.
#include "ops/deepfool.h"
#include "rows/team.cuh"

namespace fastrobust {

template cudaError_t cuda_rows(const DeepFoolArgs<float>&, cudaStream_t);
template cudaError_t cuda_rows(const DeepFoolArgs<double>&, cudaStream_t);

}  // namespace fastrobust
