// A convolution as one product of matrices: the windows of the input, side by side, with the weights as they lie in memory. oneDNN's
// convolutions first bring the weights into an order of their own, in every call; where a layer has many weights and few
// pixels, that takes several times as long as the convolution itself.
#include "products.h"
#include "few_rows.h"
#include "parallel.h"
#include "shim.h"
#include "windows_bf16.h"
#include <ATen/OpMathType.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// Numbers that one task moves, about.
constexpr int64_t PART = 1 << 15;
constexpr int64_t FOLDED_CHANNELS = WINDOW_CHANNELS;

// Where the windows of a square kernel lie.
struct Geometry {
  int64_t batch, channels, height, width, kernel, stride, padding;

  int64_t taps() const { return kernel * kernel; }
  int64_t columns() const { return channels * taps(); }
  int64_t outputs(int64_t size) const { return (size + 2 * padding - kernel) / stride + 1; }
  int64_t rows() const { return batch * outputs(height) * outputs(width); }
  // One pixel to a window, in the order of the input.
  bool is_pointwise() const { return kernel == 1 && stride == 1 && padding == 0; }
};

Geometry geometry_of(const at::Tensor &input, const at::Tensor &weight, int64_t stride, int64_t padding) {
  TORCH_CHECK(input.dim() == 4 && weight.dim() == 4 && input.size(1) == weight.size(1) && weight.size(2) == weight.size(3),
              "unfolded_conv2d: an input of ", input.sizes(), " does not fit weights of ", weight.sizes());
  TORCH_CHECK(input.is_cpu() && weight.is_cpu() && input.scalar_type() == weight.scalar_type(),
              "unfolded_conv2d: input and weights must lie in host memory and have one type");
  const Geometry g{input.size(0), input.size(1), input.size(2), input.size(3), weight.size(2), stride, padding};
  TORCH_CHECK(stride > 0 && padding >= 0 && g.outputs(g.height) > 0 && g.outputs(g.width) > 0,
              "unfolded_conv2d: a kernel of ", g.kernel, " does not fit an input of ", input.sizes());
  return g;
}

int64_t grain_for(int64_t numbers_of_each) { return std::max<int64_t>(1, PART / std::max<int64_t>(1, numbers_of_each)); }

// Whether windows are moved by whole vectors.
template <typename T> bool moves_vectors(const Geometry &g) {
  return std::is_same_v<T, at::BFloat16> && g.taps() == WINDOW_PIXELS && bf16_products_are_supported();
}

// A row for every output pixel: of each channel the pixels under the kernel, as weights have them. What lies outside is zero.
template <typename T> void unfold(const T *input, T *rows, const Geometry &g) {
  const int64_t height = g.outputs(g.height), width = g.outputs(g.width), taps = g.taps();
  const std::vector<T> outside(g.channels, T(0));
  const int64_t in_vectors = moves_vectors<T>(g) ? g.channels / WINDOW_CHANNELS * WINDOW_CHANNELS : 0;
  sd_parallel_for(g.rows(), grain_for(g.columns()), [&](int64_t begin, int64_t end) {
    std::vector<const T *> pixels(taps);
    for (int64_t row = begin; row < end; row++) {
      const int64_t left = row % width * g.stride - g.padding, top = row / width % height * g.stride - g.padding;
      const T *image = input + row / (width * height) * g.height * g.width * g.channels;
      for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t y = top + tap / g.kernel, x = left + tap % g.kernel;
        const bool is_inside = y >= 0 && y < g.height && x >= 0 && x < g.width;
        pixels[tap] = is_inside ? image + (y * g.width + x) * g.channels : outside.data();
      }
      T *to = rows + row * g.columns();
      for (int64_t channel = 0; channel < in_vectors; channel += WINDOW_CHANNELS) {
        bf16_window_of(reinterpret_cast<const uint16_t *const *>(pixels.data()), channel, reinterpret_cast<uint16_t *>(to + channel * taps));
      }
      to += in_vectors * taps;
      for (int64_t channel = in_vectors; channel < g.channels; channel++) {
        for (int64_t tap = 0; tap < taps; tap++) *to++ = pixels[tap][channel];
      }
    }
  });
}

// Every pixel's sum over the windows that it was in, in fp32 at least: some channels of one image at a time, whose sums fit a core's cache.
template <typename T> void fold(const T *rows, T *input, const Geometry &g) {
  using Sum = at::opmath_type<T>;
  const int64_t height = g.outputs(g.height), width = g.outputs(g.width), taps = g.taps(), pixels = g.height * g.width;
  const int64_t parts = (g.channels + FOLDED_CHANNELS - 1) / FOLDED_CHANNELS;
  const bool moves = moves_vectors<T>(g);
  sd_parallel_for(g.batch * parts, grain_for(height * width * taps * FOLDED_CHANNELS), [&](int64_t begin, int64_t end) {
    std::vector<Sum> sums((pixels + 1) * FOLDED_CHANNELS);
    std::vector<Sum *> windows(taps);
    for (int64_t task = begin; task < end; task++) {
      const int64_t image = task / parts, first = task % parts * FOLDED_CHANNELS;
      const int64_t channels = std::min(FOLDED_CHANNELS, g.channels - first);
      std::fill(sums.begin(), sums.end(), Sum(0));
      for (int64_t row = 0; row < height * width; row++) {
        const int64_t left = row % width * g.stride - g.padding, top = row / width * g.stride - g.padding;
        for (int64_t tap = 0; tap < taps; tap++) {
          const int64_t y = top + tap / g.kernel, x = left + tap % g.kernel;
          const bool is_inside = y >= 0 && y < g.height && x >= 0 && x < g.width;
          // What lies outside goes behind the last pixel, where nobody looks.
          windows[tap] = sums.data() + (is_inside ? y * g.width + x : pixels) * FOLDED_CHANNELS;
        }
        const T *from = rows + (image * height * width + row) * g.columns() + first * taps;
        if (moves && channels == WINDOW_CHANNELS) {
          bf16_add_window(reinterpret_cast<const uint16_t *>(from), reinterpret_cast<float *const *>(windows.data()));
          continue;
        }
        for (int64_t channel = 0; channel < channels; channel++) {
          for (int64_t tap = 0; tap < taps; tap++) windows[tap][channel] += static_cast<Sum>(*from++);
        }
      }
      for (int64_t pixel = 0; pixel < pixels; pixel++) {
        T *to = input + (image * pixels + pixel) * g.channels + first;
        for (int64_t channel = 0; channel < channels; channel++) to[channel] = static_cast<T>(sums[pixel * FOLDED_CHANNELS + channel]);
      }
    }
  });
}

// `[batch, channels, height, width]` as a row for every pixel.
at::Tensor pixels_of(const at::Tensor &map) {
  return map.contiguous(at::MemoryFormat::ChannelsLast).permute({0, 2, 3, 1}).reshape({-1, map.size(1)});
}

// Rows for every pixel as `[batch, channels, height, width]`, channels_last.
at::Tensor map_of(const at::Tensor &pixels, int64_t batch, int64_t height, int64_t width) {
  return pixels.view({batch, height, width, pixels.size(1)}).permute({0, 3, 1, 2});
}

at::Tensor windows_of(const at::Tensor &input, const Geometry &g) {
  const auto pixels = pixels_of(input);
  if (g.is_pointwise()) return pixels;
  auto rows = at::empty({g.rows(), g.columns()}, input.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, input.scalar_type(), "unfolded_conv2d", [&] {
    unfold(pixels.const_data_ptr<scalar_t>(), rows.mutable_data_ptr<scalar_t>(), g);
  });
  return rows;
}

at::Tensor input_of(const at::Tensor &windows, const Geometry &g) {
  if (g.is_pointwise()) return map_of(windows, g.batch, g.height, g.width);
  auto pixels = at::empty({g.batch * g.height * g.width, g.channels}, windows.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, windows.scalar_type(), "unfolded_conv2d", [&] {
    fold(windows.const_data_ptr<scalar_t>(), pixels.mutable_data_ptr<scalar_t>(), g);
  });
  return map_of(pixels, g.batch, g.height, g.width);
}

struct UnfoldedConvolution : public torch::autograd::Function<UnfoldedConvolution> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &input, const at::Tensor &weight, const at::Tensor &bias,
                            int64_t stride, int64_t padding) {
    RECORD_FUNCTION("sdtrain::unfolded_conv2d", std::vector<c10::IValue>{});
    const Geometry g = geometry_of(input, weight, stride, padding);
    const auto matrix = weight.reshape({weight.size(0), g.columns()});
    // The input is needed for the gradient of weights only, and its windows are made again: they are nine times as large.
    const auto kept = weight.requires_grad() ? input : at::Tensor();
    context->save_for_backward({kept, weight});
    context->saved_data["sizes"] = input.sizes().vec();
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    const auto pixels = sd_rows_by_weight(windows_of(input, g), matrix, bias);
    return map_of(pixels, g.batch, g.outputs(g.height), g.outputs(g.width));
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    RECORD_FUNCTION("sdtrain::unfolded_conv2d_backward", std::vector<c10::IValue>{});
    sd_check_first_derivative("unfolded_conv2d");
    const auto saved = context->get_saved_variables();
    const auto sizes = context->saved_data["sizes"].toIntVector();
    const auto &weight = saved[1];
    const Geometry g{sizes[0], sizes[1], sizes[2], sizes[3], weight.size(2), context->saved_data["stride"].toInt(),
                     context->saved_data["padding"].toInt()};
    const auto gradient = pixels_of(gradients[0]);
    at::Tensor of_input, of_weight, of_bias;
    if (context->needs_input_grad(0)) {
      of_input = input_of(sd_rows_by_weight_backward(gradient, weight.reshape({weight.size(0), g.columns()})), g);
    }
    if (context->needs_input_grad(1)) of_weight = gradient.t().mm(windows_of(saved[0], g)).view(weight.sizes());
    if (context->needs_input_grad(2)) of_bias = gradient.sum(0);
    return {of_input, of_weight, of_bias, at::Tensor(), at::Tensor()};
  }
};

} // namespace

extern "C" {

int sd_unfolded_conv2d(tensor input, tensor weight, tensor bias, int64_t stride, int64_t padding, tensor *output) {
  return sd_guard([&] { *output = new at::Tensor(UnfoldedConvolution::apply(*input, *weight, *bias, stride, padding)); });
}
}
