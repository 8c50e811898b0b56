// Exact overlap of two polygons (intersection over union), by a sweep over horizontal slabs.
#pragma once

#include <cstddef>

namespace fastops {

// |A and B| / |A or B| of two closed polygons with `a_corners` and `b_corners` corners x, y. It is 0 if neither has an
// area, and NaN if a coordinate is not finite. A point is inside if an odd number of edges is to its left. So polygons
// may be concave, both lobes of a polygon that crosses itself count, and the direction of the corners does not matter.
// Corners on one line do not matter either. With width > 0 only the part in [0, width] x [0, height] counts.
double polygon_overlap(const double* a, size_t a_corners, const double* b, size_t b_corners, double width,
                       double height);

}  // namespace fastops
