// Updates over lists of tensors in few kernels and without a host read: clipping, unscaling, fused AdamW.
#include "shim.h"

static std::vector<at::Tensor> list(const tensor *tensors, int count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (int i = 0; i < count; i++) result.push_back(*tensors[i]);
  return result;
}

extern "C" {

// *norm = L2 norm over all `grads`; with max_norm > 0 they are scaled in place by min(1, max_norm / (norm + 1e-6)). Where the norm is
// not finite they stay: a step that is skipped can still be asked where that came from.
int sd_clip_grad_norm(const tensor *grads, int count, double max_norm, tensor *norm) {
  return sd_guard([&] {
    c10::NoGradGuard no_grad;
    auto gradients = list(grads, count);
    // Norms in bf16 would have two digits.
    const bool narrow = !gradients.empty() && gradients[0].scalar_type() != at::kFloat;
    const auto kind = narrow ? std::optional<at::ScalarType>(at::kFloat) : std::nullopt;
    auto total = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients, 2, kind)), 2);
    if (max_norm > 0) {
      auto factor = at::clamp_max(max_norm / (total + 1e-6), 1.0);
      at::_foreach_mul_(gradients, at::where(total.isfinite(), factor, at::ones_like(factor)));
    }
    *norm = new at::Tensor(total);
  });
}

// Multiplies `grads` by `inverse_scale` in place and adds 1 to `found_inf` when one of them is not finite.
int sd_unscale(const tensor *grads, int count, tensor found_inf, tensor inverse_scale) {
  return sd_guard([&] {
    c10::NoGradGuard no_grad;
    at::_amp_foreach_non_finite_check_and_unscale_(list(grads, count), *found_inf, *inverse_scale);
  });
}

// One AdamW step (decoupled weight decay); nothing is changed where `found_inf` (may be null) is 1.
int sd_fused_adamw(const tensor *params, const tensor *grads, const tensor *exp_avgs, const tensor *exp_avg_sqs,
                   const tensor *steps, int count, double lr, double beta1, double beta2, double weight_decay,
                   double eps, tensor found_inf) {
  return sd_guard([&] {
    c10::NoGradGuard no_grad;
    auto state_steps = list(steps, count);
    at::_foreach_add_(state_steps, 1);
    std::optional<at::Tensor> inf = found_inf ? std::optional<at::Tensor>(*found_inf) : std::nullopt;
    at::_fused_adamw_(list(params, count), list(grads, count), list(exp_avgs, count), list(exp_avg_sqs, count), {},
                      state_steps, lr, beta1, beta2, weight_decay, eps, false, false, std::nullopt, inf);
    if (inf) at::_foreach_add_(state_steps, inf->squeeze(), -1);
  });
}
}
