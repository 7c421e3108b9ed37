// Stands in for cuBLAS's header, whose wheel has 400 MB. c10's CUDA headers name these types in declarations alone: what is behind them
// is in libtorch_cuda.so, and nothing of ours has one. Checked against libtorch 2.11 (`static_assert` in process_group_nccl.cpp).
#pragma once
typedef struct cublasContext *cublasHandle_t;
typedef enum { CUBLAS_STATUS_SUCCESS = 0 } cublasStatus_t;
