// The score of each frame as a curve, with the spans in which the target is lost, and a cursor at the frame shown.

const LEFT = 30, BELOW = 18, ABOVE = 6, RIGHT = 6; // room for the labels, in pixels of the screen

export class ScoreCurve {
  constructor(canvas, picked) {
    this.canvas = canvas;
    this.picked = picked; // called with the frame that the user points at
    this.clear();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pick(event);
    });
    canvas.addEventListener("pointermove", (event) => event.buttons && this.pick(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    Object.assign(this, { scores: [], lost: [], total: 0, cursor: null });
  }

  add(scores, lost, total) {
    this.scores.push(...scores);
    this.lost.push(...lost);
    this.total = Math.max(total || 0, this.scores.length);
    this.draw();
  }

  point(frame) {
    if (frame === this.cursor) return;
    this.cursor = frame;
    this.draw();
  }

  pick(event) {
    const { left, width } = this.canvas.getBoundingClientRect();
    const part = (event.clientX - left - LEFT) / (width - LEFT - RIGHT);
    const last = this.scores.length - 1;
    this.picked(Math.max(0, Math.min(Math.round(part * (this.total - 1)), last)));
  }

  draw() {
    const { canvas, scores, lost, total, cursor } = this;
    const { width, height } = canvas.getBoundingClientRect();
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const colors = getComputedStyle(canvas);
    const color = (name) => colors.getPropertyValue(name);
    const step = (width - LEFT - RIGHT) / Math.max(1, total - 1);
    const x = (frame) => LEFT + frame * step;
    const y = (score) => ABOVE + (1 - score) * (height - ABOVE - BELOW);

    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = color("--faint");
    pen.strokeStyle = color("--line");
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const level of [0, 0.5, 1]) {
      pen.fillText(level, LEFT - 6, y(level));
      line(pen, [[LEFT, y(level)], [width - RIGHT, y(level)]]);
    }
    if (total > 1) {
      pen.textBaseline = "alphabetic";
      for (const [part, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
        pen.textAlign = align;
        pen.fillText(Math.round(part * (total - 1)), x(part * (total - 1)), height - 4);
      }
    }
    pen.fillStyle = color("--lost");
    pen.globalAlpha = 0.25;
    lost.forEach((gone, frame) => gone && pen.fillRect(x(frame) - step / 2, y(1), step, y(0) - y(1)));
    pen.globalAlpha = 1;
    pen.strokeStyle = color("--curve");
    pen.lineWidth = 2;
    pen.lineJoin = "round";
    line(pen, scores.map((score, frame) => [x(frame), y(score)]));
    if (cursor !== null && cursor < scores.length) {
      pen.lineWidth = 1;
      pen.strokeStyle = pen.fillStyle = color("--text");
      line(pen, [[x(cursor), y(1)], [x(cursor), y(0)]]);
      pen.beginPath();
      pen.arc(x(cursor), y(scores[cursor]), 3.5, 0, 2 * Math.PI);
      pen.fill();
    }
  }
}

function line(pen, points) {
  pen.beginPath();
  for (const [x, y] of points) pen.lineTo(x, y);
  pen.stroke();
}
