// square on a GPU: proposals of the Square attack, one block per row.
#include "ops/square.h"
#include "rows/team.cuh"

namespace fastrobust {

template cudaError_t cuda_rows(const SquareArgs<float>&, cudaStream_t);
template cudaError_t cuda_rows(const SquareArgs<double>&, cudaStream_t);

}  // namespace fastrobust
