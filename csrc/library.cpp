// Every schema of the library: the table of contents. Kernels register themselves in cpu/<op>.cpp and cuda/<op>.cu;
// autograd, fake kernels and autocast rules in fastops/ops/<op>.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastops, m) {
  // mish: f(x) = x tanh(ln(1 + e^x))
  m.def("mish(Tensor x) -> Tensor");
  m.def("mish_(Tensor(a!) x) -> ()");
  m.def("mish_backward(Tensor grad, Tensor x) -> Tensor");

  // affine_mish: f(weight x + bias) per channel; batch_norm_mish: the batch norm of training before it, with its
  // statistics [3, C]
  m.def("affine_mish(Tensor x, Tensor weight, Tensor bias) -> Tensor");
  m.def("affine_mish_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias) -> (Tensor, Tensor, Tensor)");
  m.def("batch_norm_mish(Tensor x, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)");
  m.def(
      "batch_norm_mish_backward(Tensor grad, Tensor x, Tensor stats, Tensor? weight, Tensor? bias)"
      " -> (Tensor, Tensor, Tensor)");

  // mish_max_pool2d: the largest f(x) of each window
  m.def("mish_max_pool2d(Tensor x, int[2] kernel_size, int[2] stride, int[2] padding) -> Tensor");
  m.def("mish_max_pool2d_backward(Tensor grad, Tensor x, int[2] kernel_size, int[2] stride, int[2] padding) -> Tensor");

  // se: squeeze, excitation, scale
  m.def("se_scale(Tensor x, Tensor logits) -> Tensor");
  m.def("se_scale_backward(Tensor grad, Tensor x, Tensor logits) -> (Tensor, Tensor)");
  m.def("se_attention(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2) -> Tensor");
  m.def(
      "se_attention_backward(Tensor grad, Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // xcorr: batched cross-correlation of templates z with searches x
  m.def("xcorr(Tensor z, Tensor x, float scale=1.0, Tensor? bias=None) -> Tensor");
  m.def("xcorr_backward(Tensor grad, Tensor z, Tensor x, float scale) -> (Tensor, Tensor)");
  m.def("xcorr_depthwise(Tensor z, Tensor x) -> Tensor");
  m.def("xcorr_depthwise_backward(Tensor grad, Tensor z, Tensor x) -> (Tensor, Tensor)");

  // winograd: convolution for inference on the CPU, bias and activation fused; weights packed once.
  m.def("winograd_pack(Tensor weight, int groups, int tile_size) -> Tensor");
  m.def(
      "winograd_conv2d(Tensor x, Tensor packed, Tensor? bias, int out_channels, int kernel_size, int groups,"
      " int tile_size, str activation) -> Tensor");
}
