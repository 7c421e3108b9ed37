// Products of rows with the weights of a layer, by whichever kernel takes less time.
#pragma once
#include <ATen/ATen.h>

// rows [count, inputs] · weightᵀ [inputs, outputs] + bias, which may be undefined.
at::Tensor sd_rows_by_weight(const at::Tensor &rows, const at::Tensor &weight, const at::Tensor &bias);

// The gradient of the rows: gradient [count, outputs] · weight [outputs, inputs].
at::Tensor sd_rows_by_weight_backward(const at::Tensor &gradient, const at::Tensor &weight);
