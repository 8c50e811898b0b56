// Every schema of the library: the table of contents. Kernels register themselves in cpu/<op>.cpp and cuda/<op>.cu;
// autograd, fake kernels and autocast rules in fastops/ops/<op>.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastops, m) {
  // mish: f(x) = x tanh(ln(1 + e^x))
  m.def("mish(Tensor x) -> Tensor");
  m.def("mish_(Tensor(a!) x) -> ()");
  m.def("mish_backward(Tensor grad, Tensor x) -> Tensor");

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

  // box_loss: IoU family. The loss and, of what wants one, the gradient: [loss] or [loss, divisor, grad_pred?,
  // grad_target?] with the gradients in opmath and before the division; the backward multiplies them by grad / divisor.
  m.def(
      "box_loss(Tensor pred, Tensor target, str kind, str fmt, str reduction, float gamma, bool detach_weight, float "
      "eps,"
      " bool pred_grad, bool target_grad) -> Tensor[]");
  m.def("box_loss_backward_scale(Tensor grad, Tensor divisor, Tensor[] grads) -> Tensor[]");
  m.def("focal_l1_loss(Tensor pred, Tensor target, float beta=0.8, str reduction=\"mean\") -> Tensor");
  m.def("focal_l1_loss_backward(Tensor grad, Tensor pred, Tensor target, float beta, str reduction) -> Tensor");

  // winograd: convolution for inference on the CPU, bias and activation fused; weights packed once.
  m.def("winograd_pack(Tensor weight, int groups, int tile_size) -> Tensor");
  m.def(
      "winograd_conv2d(Tensor x, Tensor packed, Tensor? bias, int out_channels, int kernel_size, int groups,"
      " int tile_size, str activation) -> Tensor");
}
