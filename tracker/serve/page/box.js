// The first frame with a box to draw, move and resize. Boxes are [x, y, w, h] in whole pixels of the frame, 0-based.

const HANDLE = 10; // reach of a corner, in pixels of the screen
const SMALLEST = 3; // sides below this are a click, not a box

export class BoxEditor {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.image = null;
    this.box = null;
    this.drag = null;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => this.release());
    canvas.addEventListener("pointercancel", () => this.release());
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(image) {
    this.image = image;
    this.canvas.width = image.naturalWidth;
    this.canvas.height = image.naturalHeight;
    this.set(null);
  }

  set(box) {
    this.box = box;
    this.draw();
    this.changed(box);
  }

  // Where the pointer is, in pixels of the frame, held within it.
  at(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const place = (value, side) => Math.min(Math.max(Math.round(value * side), 0), side);
    return [
      place((event.clientX - left) / width, this.canvas.width),
      place((event.clientY - top) / height, this.canvas.height),
    ];
  }

  unit() {
    return this.canvas.width / (this.canvas.getBoundingClientRect().width || 1); // pixels of the frame per one of the screen
  }

  corners() {
    const [x, y, w, h] = this.box;
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]];
  }

  // The corner opposite to the one under the pointer, if one is.
  opposite([px, py]) {
    if (!this.box) return null;
    const reach = HANDLE * this.unit();
    const index = this.corners().findIndex(([x, y]) => Math.hypot(x - px, y - py) <= reach);
    return index < 0 ? null : this.corners()[(index + 2) % 4];
  }

  within([px, py]) {
    if (!this.box) return false;
    const [x, y, w, h] = this.box;
    return px > x && px < x + w && py > y && py < y + h;
  }

  press(event) {
    if (!this.image || event.button !== 0) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    const point = this.at(event);
    const anchor = this.opposite(point);
    if (anchor) this.drag = { anchor, before: this.box };
    else if (this.within(point)) this.drag = { from: point, before: this.box };
    else this.drag = { anchor: point, before: this.box };
  }

  move(event) {
    if (!this.image) return;
    const point = this.at(event);
    if (!this.drag) {
      this.canvas.style.cursor = this.opposite(point) ? "nwse-resize" : this.within(point) ? "move" : "crosshair";
      return;
    }
    const { anchor, from, before } = this.drag;
    if (anchor) {
      const [[x, y], [right, bottom]] = [0, 1].map((end) =>
        [0, 1].map((axis) => (end ? Math.max : Math.min)(anchor[axis], point[axis])));
      this.set([x, y, right - x, bottom - y]);
    } else {
      const [x, y, w, h] = before;
      const hold = (value, side, length) => Math.min(Math.max(value, Math.min(0, side - length)), Math.max(0, side - length));
      this.set([
        hold(x + point[0] - from[0], this.canvas.width, w), hold(y + point[1] - from[1], this.canvas.height, h), w, h,
      ]);
    }
  }

  release() {
    if (!this.drag) return;
    const { before } = this.drag;
    this.drag = null;
    if (this.box && Math.min(this.box[2], this.box[3]) < SMALLEST) this.set(before);
  }

  draw() {
    if (!this.image) return;
    const { canvas, box } = this;
    const pen = canvas.getContext("2d");
    const unit = this.unit();
    pen.drawImage(this.image, 0, 0, canvas.width, canvas.height);
    if (!box) return;
    const [x, y, w, h] = box;
    pen.fillStyle = "rgb(0 0 0 / 45%)"; // all but the target is dimmed
    pen.beginPath();
    pen.rect(0, 0, canvas.width, canvas.height);
    pen.rect(x, y, w, h);
    pen.fill("evenodd");
    pen.lineWidth = 2 * unit;
    pen.strokeStyle = "#3cdc3c";
    pen.strokeRect(x, y, w, h);
    pen.fillStyle = "#fff";
    pen.lineWidth = unit;
    pen.strokeStyle = "#0a5a32";
    for (const [cx, cy] of this.corners()) {
      pen.beginPath();
      pen.arc(cx, cy, 5 * unit, 0, 2 * Math.PI);
      pen.fill();
      pen.stroke();
    }
  }
}
