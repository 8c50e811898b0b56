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

  // bias_activation: what follows a convolution, f(x + bias) or its largest value in each window, also in float32
  m.def(
      "bias_activation(Tensor x, Tensor bias, str activation, int[2] kernel_size, int[2] stride, bool float_output)"
      " -> Tensor");

  // adaptive: b f(a x + c) + d with f = sigmoid or tanh, max(a x + c, b x + d); a, b, c, d per layer or per channel
  m.def("adaptive_sigmoid(Tensor x, Tensor a, Tensor b, Tensor c, Tensor d) -> Tensor");
  m.def(
      "adaptive_sigmoid_backward(Tensor grad, Tensor x, Tensor a, Tensor b, Tensor c, Tensor d)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("adaptive_tanh(Tensor x, Tensor a, Tensor b, Tensor c, Tensor d) -> Tensor");
  m.def(
      "adaptive_tanh_backward(Tensor grad, Tensor x, Tensor a, Tensor b, Tensor c, Tensor d)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("adaptive_relu(Tensor x, Tensor a, Tensor b, Tensor c, Tensor d) -> Tensor");
  m.def(
      "adaptive_relu_backward(Tensor grad, Tensor x, Tensor a, Tensor b, Tensor c, Tensor d)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor)");

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

  // logistic_loss: balanced logistic loss of score maps, labels from the distance to the centre
  m.def(
      "balanced_logistic_loss(Tensor responses, float radius, float stride, str reduction, Tensor? centers) -> Tensor");
  m.def(
      "balanced_logistic_loss_backward(Tensor grad, Tensor responses, float radius, float stride, str reduction,"
      " Tensor? centers) -> Tensor");

  // box_loss: the IoU losses. The result is [loss], or [loss, divisor, grad_pred?, grad_target?] if gradients are
  // requested. These are in opmath and not yet divided; box_loss_backward_scale multiplies them by grad / divisor.
  m.def(
      "box_loss(Tensor pred, Tensor target, str kind, str fmt, str reduction, float gamma, bool detach_weight,"
      " float eps, bool pred_grad, bool target_grad) -> Tensor[]");
  m.def("box_loss_backward_scale(Tensor grad, Tensor divisor, Tensor[] grads) -> Tensor[]");
  m.def("focal_l1_loss(Tensor pred, Tensor target, float beta=0.8, str reduction=\"mean\") -> Tensor");
  m.def("focal_l1_loss_backward(Tensor grad, Tensor pred, Tensor target, float beta, str reduction) -> Tensor");

  // centralize: every output channel's gradient minus its mean, and the optimizer steps with it, for a list of tensors.
  // channels[i] is 0 if dimension 0 is tensor i's output channel, g if dimension 1 is (a transposed convolution with g
  // groups), and -1 if the gradient is not centralized. lr_tensor takes precedence over lr. If found_inf is not 0,
  // nothing changes.
  m.def("centralize_(Tensor(a!)[] tensors, int[] channels) -> ()");
  m.def(
      "sgd_gc_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momentum_buffers, int[] channels, float lr,"
      " float momentum, float dampening, float weight_decay, bool nesterov, bool maximize, Tensor? lr_tensor=None,"
      " Tensor? grad_scale=None, Tensor? found_inf=None) -> ()");
  m.def(
      "adamw_gc_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs,"
      " Tensor(d!)[] max_exp_avg_sqs, Tensor(e!)[] steps, int[] channels, float lr, float beta1, float beta2,"
      " float eps, float weight_decay, bool maximize, Tensor? lr_tensor=None, Tensor? grad_scale=None,"
      " Tensor? found_inf=None)"
      " -> ()");

  // response: the tracker's steps after the network, for K targets: upsampling, choice of scale and position, update of
  // the boxes. state is float32 [K, 12] and changed in place. The results are [K, 6]: x, y, w, h, score, lost.
  m.def(
      "response_peak_(Tensor responses, Tensor(a!) state, int up, int stride, int instance_size, float scale_step,"
      " float scale_penalty, float scale_lr, float window_influence, float lost_score, int lost_frames) -> Tensor");

  // box_peak: the same after a network with a box head: choice of a cell from the scores [K, 1, h, w] and the distances
  // to the edges [K, 4, h, w], and update of the boxes.
  m.def(
      "box_peak_(Tensor scores, Tensor ltrb, Tensor(a!) state, int stride, float? unit, int exemplar_size,"
      " int instance_size, float context, float box_lr, float box_penalty, float box_window, float lost_score,"
      " int lost_frames) -> Tensor");

  // crop: square regions of uint8 images [B, H, W, C], padded and resized bilinearly to out [K, C, S, S]
  m.def(
      "crop_and_resize(Tensor images, Tensor centers_sizes, Tensor pad_value, Tensor? image_index, Tensor(a!) out)"
      " -> ()");

  // relu_max_pool2d: the pooling of mish_max_pool2d with ReLU in place of Mish, for inference on the CPU, channels_last
  m.def("relu_max_pool2d(Tensor x, int[2] kernel_size, int[2] stride, int[2] padding) -> Tensor");

  // winograd: convolution for inference on the CPU, with packed weights and fused bias and activation
  m.def("winograd_pack(Tensor weight, int stride, int groups, int tile_size) -> Tensor");
  m.def(
      "winograd_conv2d(Tensor x, Tensor packed, Tensor? bias, int out_channels, int kernel_size, int stride,"
      " int groups, int tile_size, str activation) -> Tensor");

  // quantized_conv: uint8 x int8 convolution for inference on the CPU, with packed weights, rescaling, a table look-up
  // and max pooling. The result is uint8 or float32.
  m.def("quantized_conv2d_pack(Tensor weight, int groups) -> Tensor");
  m.def(
      "quantized_conv2d(Tensor x, Tensor packed, Tensor scale, Tensor bias, Tensor? table, int[2] kernel_size,"
      " int[2] stride, int[2] padding, int groups, int input_zero_point, int output_zero_point, int[2] pool,"
      " bool float_output) -> Tensor");
  // For benchmarks: all threads multiply 8-bit integers in registers. Returns the number of products.
  m.def("int8_products(int rounds) -> int");
}
