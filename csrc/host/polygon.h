// Area shared by two polygons over the area of both, exactly: a sweep over horizontal slabs.
#pragma once

#include <cstddef>

namespace fastops {

// Overlap of two polygons of `a_corners` and `b_corners` corners x, y, closed from the last to the first: |A and B|
// over |A or B|, 0 where neither has an area, NaN where a coordinate is not finite. Inside is what an odd number of
// edges lies to the left of, so concave polygons are whole, both lobes of one that crosses itself count, and neither
// the direction of the corners nor corners on one line matter. With width > 0 only what lies in [0, width] x [0,
// height] counts.
double polygon_overlap(const double* a, size_t a_corners, const double* b, size_t b_corners, double width,
                       double height);

}  // namespace fastops
