// lbfgs on a GPU: quasi-Newton directions, one block per row.
#include "ops/lbfgs.h"
#include "rows/team.cuh"

namespace fastrobust {

template cudaError_t cuda_rows(const LbfgsArgs<float>&, cudaStream_t);
template cudaError_t cuda_rows(const LbfgsArgs<double>&, cudaStream_t);

}  // namespace fastrobust
