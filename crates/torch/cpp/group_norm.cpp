// GroupNorm (Wu and He 2018), with SiLU behind it where asked for, as one node of the graph: nothing is kept but the input, and of each group
// the mean and the reciprocal of the deviation. Maps are contiguous or channels_last.
#include "group_norm_kernel.h"
#include "parallel.h"
#include "shim.h"
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <numeric>
#include <torch/csrc/autograd/custom_function.h>

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// Channels that a task takes at most.
constexpr int64_t MOST_CHANNELS = 256;

// How a map is cut into tasks. No result depends on it.
struct Tasks {
  int64_t batch, channels, pixels, groups, groups_of_each, of_an_image;
  bool channels_last;

  Tasks(const at::Tensor &input, int64_t groups_)
      : batch(input.size(0)), channels(input.size(1)), pixels(input.size(2) * input.size(3)), groups(groups_),
        channels_last(!input.is_contiguous()) {
    const int64_t in_group = channels / groups;
    // So many groups fill whole vectors of channels.
    const int64_t least = channels_last ? 16 / std::gcd<int64_t>(16, in_group) : 1;
    const int64_t wanted = (groups * batch + 2 * at::get_num_threads() - 1) / (2 * at::get_num_threads());
    const int64_t most = std::max<int64_t>(1, MOST_CHANNELS / in_group);
    groups_of_each = std::min(groups, (std::min(wanted, most) + least - 1) / least * least);
    of_an_image = (groups + groups_of_each - 1) / groups_of_each;
  }

  int64_t count() const { return batch * of_an_image; }
  int64_t image(int64_t task) const { return task / of_an_image; }
  int64_t first_group(int64_t task) const { return task % of_an_image * groups_of_each; }
  int64_t first_channel(int64_t task) const { return first_group(task) * (channels / groups); }
  // Where the numbers of a task begin.
  int64_t place(int64_t task) const {
    return image(task) * channels * pixels + (channels_last ? first_channel(task) : first_channel(task) * pixels);
  }
  NormedPart part(int64_t task, bool activates, float epsilon, const float *weight, const float *bias) const {
    const int64_t in_group = channels / groups, taken = std::min(groups_of_each, groups - first_group(task));
    return {taken * in_group, pixels, in_group, channels_last ? channels : pixels, channels_last, activates, epsilon,
            weight + first_channel(task), bias + first_channel(task)};
  }
};

at::Tensor wide(const at::Tensor &numbers) { return numbers.detach().to(at::kFloat).contiguous(); }

// In one of the two layouts.
at::Tensor laid_out(const at::Tensor &map) {
  return map.contiguous(map.suggest_memory_format());
}

// The same by libtorch.
at::Tensor normed_by_libtorch(at::Tensor input, const at::Tensor &weight, const at::Tensor &bias, int64_t groups, double epsilon,
                              bool activates) {
  // libtorch's backward for channels_last writes to the gradient of the input even where nobody asked for it: a crash where this is the
  // first trained layer behind frozen ones. A leaf that asks for it changes no number.
  if (weight.requires_grad() && !input.requires_grad() && c10::GradMode::is_enabled()) input = input.detach().requires_grad_(true);
  const auto kind = input.scalar_type();
  const auto normed = at::group_norm(input, groups, weight.to(kind), bias.to(kind), epsilon);
  return activates ? at::silu(normed) : normed;
}

template <typename Number> struct OwnGroupNorm : public torch::autograd::Function<OwnGroupNorm<Number>> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &map, const at::Tensor &weight, const at::Tensor &bias, int64_t groups,
                            double epsilon, bool activates) {
    RECORD_FUNCTION("sdtrain::group_norm", std::vector<c10::IValue>{});
    const auto input = laid_out(map), weights = wide(weight), biases = wide(bias);
    const auto output = at::empty_like(input);
    const auto means = at::empty({input.size(0), groups}, weights.options()), factors = at::empty_like(means);
    const Tasks tasks(input, groups);
    const auto *from = static_cast<const Number *>(input.const_data_ptr());
    auto *to = static_cast<Number *>(output.mutable_data_ptr());
    auto *mean = means.template mutable_data_ptr<float>(), *factor = factors.template mutable_data_ptr<float>();
    const auto *w = weights.template const_data_ptr<float>(), *b = biases.template const_data_ptr<float>();
    sd_parallel_for(tasks.count(), 1, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t task = begin; task < end; task++) {
        const int64_t place = tasks.place(task), group = tasks.image(task) * groups + tasks.first_group(task);
        const auto part = tasks.part(task, activates, static_cast<float>(epsilon), w, b);
        group_norm_forward(part, from + place, to + place, mean + group, factor + group, scratch);
      }
    });
    context->save_for_backward({input, weight, bias, means, factors});
    context->saved_data["groups"] = groups;
    context->saved_data["activates"] = activates;
    return output;
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    RECORD_FUNCTION("sdtrain::group_norm_backward", std::vector<c10::IValue>{});
    sd_check_first_derivative("group_norm");
    const auto saved = context->get_saved_variables();
    const auto &input = saved[0];
    const auto weights = wide(saved[1]), biases = wide(saved[2]), &means = saved[3], &factors = saved[4];
    const int64_t groups = context->saved_data["groups"].toInt();
    const bool activates = context->saved_data["activates"].toBool();
    const Tasks tasks(input, groups);
    const auto gradient = gradients[0].contiguous(tasks.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
    const auto of_input = at::empty_like(input);
    const auto of_weight = at::empty({input.size(0), input.size(1)}, weights.options()), of_bias = at::empty_like(of_weight);
    const auto *from = static_cast<const Number *>(input.const_data_ptr()), *of_output = static_cast<const Number *>(gradient.const_data_ptr());
    auto *to = static_cast<Number *>(of_input.mutable_data_ptr());
    const auto *mean = means.template const_data_ptr<float>(), *factor = factors.template const_data_ptr<float>();
    const auto *w = weights.template const_data_ptr<float>(), *b = biases.template const_data_ptr<float>();
    auto *of_w = of_weight.template mutable_data_ptr<float>(), *of_b = of_bias.template mutable_data_ptr<float>();
    sd_parallel_for(tasks.count(), 1, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t task = begin; task < end; task++) {
        const int64_t place = tasks.place(task), group = tasks.image(task) * groups + tasks.first_group(task);
        const int64_t channel = tasks.image(task) * tasks.channels + tasks.first_channel(task);
        const auto part = tasks.part(task, activates, 0.0f, w, b);
        group_norm_backward(part, from + place, of_output + place, mean + group, factor + group, to + place, of_w + channel, of_b + channel,
                            scratch);
      }
    });
    const auto summed = [&](size_t index, const at::Tensor &of_images) {
      return context->needs_input_grad(index) ? of_images.sum(0).to(saved[index].scalar_type()) : at::Tensor();
    };
    return {of_input, summed(1, of_weight), summed(2, of_bias), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

} // namespace

extern "C" {

int sd_group_norm(tensor input, tensor weight, tensor bias, int64_t groups, double epsilon, int activates, tensor *output) {
  return sd_guard([&] {
    TORCH_CHECK(input->dim() > 1 && groups > 0 && input->size(1) % groups == 0 && weight->dim() == 1 && weight->size(0) == input->size(1) &&
                    weight->sizes() == bias->sizes(),
                "group_norm: ", groups, " groups, weights of ", weight->sizes(), " and biases of ", bias->sizes(), " do not fit an input of ",
                input->sizes());
    const bool is_ours = input->is_cpu() && weight->is_cpu() && bias->is_cpu() && input->dim() == 4 && input->numel() > 0;
    if (is_ours && input->scalar_type() == at::kBFloat16 && bf16_products_are_supported()) {
      *output = new at::Tensor(OwnGroupNorm<uint16_t>::apply(*input, *weight, *bias, groups, epsilon, activates != 0));
    } else if (is_ours && input->scalar_type() == at::kFloat && fp32_products_are_supported()) {
      *output = new at::Tensor(OwnGroupNorm<float>::apply(*input, *weight, *bias, groups, epsilon, activates != 0));
    } else {
      *output = new at::Tensor(normed_by_libtorch(*input, *weight, *bias, groups, epsilon, activates != 0));
    }
  });
}
}
