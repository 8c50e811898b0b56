// The tracker's steps after a network with a box head (Li et al., SiamRPN, section 3.4): choice of a cell and update of
// the box, scalar, for host and device. `fastops.box_peak` has the equations.
//
// A cell's output x means the distance unit log2(1 + e^x) from the cell to an edge of its box, which is softplus times
// unit / ln 2. Small distances grow exponentially with x, large ones linearly, so no output of a half type overflows.
#pragma once

#include <stdint.h>

#include "crop.h"
#include "exp.h"
#include "hann.h"
#include "logistic_loss.h"
#include "sqrt.h"
#include "target.h"

namespace fastops {

// Limits of the sides of a cell's box, in pixels of the image. The sides of an untrained network may be 0, or so large
// that their square overflows float32.
constexpr double kMinCellSide = 1e-3, kMaxCellSide = 1e6;

struct BoxPeakOptions {
  int64_t stride;
  bool logits;  // whether the distances are unit log2(1 + e^x)
  double unit;
  int64_t exemplar_size, instance_size;
  double context, box_lr, box_penalty, box_window, lost_score;
  int64_t lost_frames;

  FASTOPS_HD double distance_factor() const { return unit * 1.4426950408889634; }  // unit / ln 2
};

// The side of the square around a box and its context.
template <class O>
FASTOPS_HD O context_side(O w, O h, O context) {
  const O margin = context * (w + h);
  return sqrt_((w + margin) * (h + margin));
}

template <class O>
FASTOPS_HD O change_(O a, O b) {
  const O up = a / b, down = b / a;
  return up > down ? up : down;
}

// The numbers that all cells of a target share, from its state. Cells are computed in the type O.
template <class O>
struct CellScale {
  O pixels;  // pixels of the image per pixel of the crop
  O context, side, aspect, penalty, window;

  FASTOPS_HD CellScale(const BoxPeakOptions& o, const float* state)
      : pixels(O(shown_side(state) / double(o.instance_size))),
        context(O(o.context)),
        side(context_side(O(state[kWidth]), O(state[kHeight]), O(o.context))),
        aspect(O(state[kWidth]) / O(state[kHeight])),
        penalty(O(o.box_penalty)),
        window(O(o.box_window)) {}

  // The crop shows a square of whole pixels, which crop_region computes.
  FASTOPS_HD static float shown_side(const float* state) {
    const float side = round_even_(state[kSearchSize]);
    return side < 1.0f ? 1.0f : side;
  }

  // A side of a cell's box in pixels of the image, from its distances to both edges.
  FASTOPS_HD O cell_side(O before, O after) const {
    return clamp_((before + after) * pixels, O(kMinCellSide), O(kMaxCellSide));
  }

  // p sigma(v): the cell's score, reduced if its box differs from the target's.
  FASTOPS_HD O trust(O score, O w, O h) const {
    const O change = change_(context_side(w, h, context), side) * change_(w / h, aspect);
    return exp_(clamp_(-penalty * (change - O(1)), O(kExpLow), O(0))) * sigmoid_(score);
  }

  // The value whose maximum chooses the cell. `hann` is the window of its row times the window of its column.
  FASTOPS_HD O value(O trust, O hann) const { return (O(1) - window) * trust + window * hann; }
};

// The chosen cell: its position relative to the middle of the map, and its distances in pixels of the crop.
struct ChosenCell {
  double down, across, left, top, right, bottom, trust;
};

// The middle of a crop that shows `side` pixels around x.
FASTOPS_HD double shown_middle(float x, float side) {
  const float half = (side - 1.0f) * 0.5f;
  return double(round_even_(x - half)) + double(half);
}

FASTOPS_HD void update_box(const BoxPeakOptions& o, const ChosenCell& cell, double contrast, float* state,
                           float* result) {
  const float shown = CellScale<float>::shown_side(state);
  const double pixels = double(shown) / double(o.instance_size), stride = double(o.stride);
  const double x = stride * cell.across + (cell.right - cell.left) / 2;
  const double y = stride * cell.down + (cell.bottom - cell.top) / 2;
  move_center(shown_middle(state[kCenterX], shown) + x * pixels, shown_middle(state[kCenterY], shown) + y * pixels,
              state);

  const double rate = o.box_lr * cell.trust, least = state[kMinSide];
  const auto side = [&](double before, double now, double most) {
    const double wanted = clamp_between(now * pixels, kMinCellSide, kMaxCellSide);
    return clamp_between(before + rate * (wanted - before), least, most);
  };
  const double w = side(state[kWidth], cell.left + cell.right, state[kMaxWidth]);
  const double h = side(state[kHeight], cell.top + cell.bottom, state[kMaxHeight]);
  state[kWidth] = float(w), state[kHeight] = float(h);
  state[kSearchSize] = float(context_side(w, h, o.context) * (double(o.instance_size) / double(o.exemplar_size)));
  finish_update({o.lost_score, o.lost_frames}, contrast, state, result);
}

}  // namespace fastops
