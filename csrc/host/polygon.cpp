#include "polygon.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

// The y of every event cuts the plane into slabs. Events are corners, crossings of two edges, and edges that meet the
// left or right border. Within a slab, the order of the edges from left to right is fixed, and the width between two of
// them is linear in y. So the area between them is the width at half height times the height of the slab. If rounding
// moves a crossing by e, two edges that are less than e apart are in the wrong order: an error of e^2.
namespace fastops {
namespace {

struct Edge {
  double x0, y0, x1, y1;  // y0 < y1
  bool of_a;

  double x_at(double y) const { return x0 + (y - y0) / (y1 - y0) * (x1 - x0); }
};

// Horizontal edges bound no area.
void add_edges(std::vector<Edge>& edges, const double* p, size_t corners, bool of_a) {
  for (size_t i = 0; i < corners; ++i) {
    const double* from = p + 2 * i;
    const double* to = p + 2 * ((i + 1) % corners);
    if (from[1] > to[1]) {
      std::swap(from, to);
    }
    if (from[1] < to[1]) {
      edges.push_back({from[0], from[1], to[0], to[1], of_a});
    }
  }
}

void add_crossing(std::vector<double>& events, const Edge& e, const Edge& f) {
  const double ex = e.x1 - e.x0, ey = e.y1 - e.y0, fx = f.x1 - f.x0, fy = f.y1 - f.y0;
  const double cross = ex * fy - ey * fx;
  if (cross == 0.0) {
    return;  // parallel
  }
  const double t = ((f.x0 - e.x0) * fy - (f.y0 - e.y0) * fx) / cross;
  const double y = e.y0 + t * ey;
  if (y > std::max(e.y0, f.y0) && y < std::min(e.y1, f.y1)) {
    events.push_back(y);
  }
}

void add_border(std::vector<double>& events, const Edge& e, double x) {
  if ((e.x0 < x) != (e.x1 < x)) {
    events.push_back(e.y0 + (x - e.x0) / (e.x1 - e.x0) * (e.y1 - e.y0));
  }
}

// Corners whose products overflow count as not finite: NaN must never reach a sort.
bool all_finite(const double* p, size_t corners) {
  return std::all_of(p, p + 2 * corners, [](double v) { return std::abs(v) < 1e100; });
}

}  // namespace

double polygon_overlap(const double* a, size_t a_corners, const double* b, size_t b_corners, double width,
                       double height) {
  if (!all_finite(a, a_corners) || !all_finite(b, b_corners)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const bool bounded = width > 0;
  // Kept between calls, because their allocation took most of the time.
  thread_local std::vector<Edge> edges;
  thread_local std::vector<double> events;
  thread_local std::vector<std::pair<double, bool>> crossed;
  edges.clear();
  events.clear();
  add_edges(edges, a, a_corners, true);
  add_edges(edges, b, b_corners, false);
  for (size_t i = 0; i < edges.size(); ++i) {
    events.insert(events.end(), {edges[i].y0, edges[i].y1});
    if (bounded) {
      add_border(events, edges[i], 0);
      add_border(events, edges[i], width);
    }
    for (size_t j = 0; j < i; ++j) {
      add_crossing(events, edges[i], edges[j]);
    }
  }
  if (bounded) {
    for (double& y : events) {
      y = std::clamp(y, 0.0, height);
    }
  }
  std::sort(events.begin(), events.end());

  double shared = 0, either = 0;
  for (size_t k = 1; k < events.size(); ++k) {
    const double low = events[k - 1], high = events[k], middle = low + (high - low) / 2;
    if (!(low < middle && middle < high)) {
      continue;
    }
    crossed.clear();
    for (const Edge& edge : edges) {
      if (edge.y0 < middle && middle < edge.y1) {
        const double x = edge.x_at(middle);
        crossed.emplace_back(bounded ? std::clamp(x, 0.0, width) : x, edge.of_a);
      }
    }
    std::sort(crossed.begin(), crossed.end());
    bool in_a = false, in_b = false;
    for (size_t i = 0; i + 1 < crossed.size(); ++i) {
      (crossed[i].second ? in_a : in_b) ^= true;
      const double area = (crossed[i + 1].first - crossed[i].first) * (high - low);
      shared += in_a && in_b ? area : 0;
      either += in_a || in_b ? area : 0;
    }
  }
  return either > 0 ? shared / either : 0;
}

}  // namespace fastops
