// One stream's picture: frame, mask, contour, diameters, what is being drawn, and the warning over an old frame.

const MASK = "#ff7800";
const CONTOUR = "#ffc800";
const DIAMETER = "#00ffff";
const DRAWN = "#7dff9b";

export class Pane {
  constructor(number, look) {
    this.number = number;
    this.look = look; // { opacity 0..1, contour, diameters }
    this.header = null;
    this.bitmap = null;
    this.shownAt = -Infinity;
    this.drawn = null; // { kind: "box" | "line", from: [x, y], to: [x, y] } in frame pixels
    this.cross = null; // [x, y] in frame pixels

    this.element = document.createElement("figure");
    this.element.className = "pane";
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.caption = document.createElement("figcaption");
    this.badge = document.createElement("span");
    this.badge.className = "badge";
    this.badge.hidden = true;
    this.badge.textContent = "FROZEN";
    this.warning = document.createElement("p");
    this.warning.className = "warning";
    this.warning.hidden = true;
    this.element.append(this.canvas, this.caption, this.badge, this.warning);
    new ResizeObserver(() => this.redraw()).observe(this.element);
    this.describe();
  }

  show(header, bitmap) {
    this.bitmap?.close();
    this.header = header;
    this.bitmap = bitmap;
    this.shownAt = performance.now();
    this.redraw();
  }

  name(name) {
    this.caption.textContent = name;
  }

  // text null: nothing to warn of; calm: it is old, and meant to be
  warn(text, calm = false) {
    this.element.classList.toggle("stale", text !== null && !calm);
    this.warning.classList.toggle("calm", calm);
    this.warning.hidden = text === null;
    if (text !== null && this.warning.textContent !== text) this.warning.textContent = text;
  }

  describe() {
    const nodules = this.header?.nodules ?? [];
    const sizes = nodules.map((n) => `number ${n.number}, ${sizeText(n)}`).join("; ");
    const text = !this.header ? "No picture yet" : nodules.length ? `Ultrasound picture, nodules: ${sizes}` : "Ultrasound picture, no nodule marked";
    this.canvas.setAttribute("aria-label", text);
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  // where the picture lies in the canvas, in device pixels
  place() {
    const [width, height] = this.header.size;
    const scale = Math.min(this.canvas.width / width, this.canvas.height / height);
    return { scale, left: (this.canvas.width - width * scale) / 2, top: (this.canvas.height - height * scale) / 2 };
  }

  // the frame pixel under a pointer, kept inside the picture; null without a picture
  toFrame(event) {
    if (!this.header) return null;
    const bounds = this.canvas.getBoundingClientRect();
    const { scale, left, top } = this.place();
    const dense = this.canvas.width / bounds.width;
    const x = ((event.clientX - bounds.left) * dense - left) / scale;
    const y = ((event.clientY - bounds.top) * dense - top) / scale;
    return this.inside([x + this.header.origin[0], y + this.header.origin[1]]);
  }

  inside([x, y]) {
    const { origin, size } = this.header;
    return [Math.min(Math.max(x, origin[0]), origin[0] + size[0]), Math.min(Math.max(y, origin[1]), origin[1] + size[1])];
  }

  draw() {
    const dense = window.devicePixelRatio || 1;
    const width = Math.round(this.canvas.clientWidth * dense);
    const height = Math.round(this.canvas.clientHeight * dense);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const to = this.canvas.getContext("2d");
    to.setTransform(1, 0, 0, 1, 0, 0);
    to.clearRect(0, 0, width, height);
    if (!this.header || !width || !height) return;
    const { scale, left, top } = this.place();
    to.setTransform(scale, 0, 0, scale, left, top);
    to.imageSmoothingQuality = "high";
    to.drawImage(this.bitmap, 0, 0, ...this.header.size);
    const thin = (1.6 * dense) / scale;
    to.lineWidth = thin;
    // points are pixel centres, half a pixel from the corner that the canvas counts from
    to.translate(0.5, 0.5);
    this.drawMask(to);
    for (const nodule of this.header.nodules) {
      if (this.look.diameters) this.drawLines(to, nodule, thin);
      this.drawNumber(to, nodule, thin);
    }
    to.translate(-0.5 - this.header.origin[0], -0.5 - this.header.origin[1]);
    this.drawTool(to, thin);
  }

  drawMask(to) {
    const path = new Path2D();
    for (const points of this.header.contours) {
      for (let i = 0; i < points.length; i += 2) path[i ? "lineTo" : "moveTo"](points[i], points[i + 1]);
      path.closePath();
    }
    to.globalAlpha = this.look.opacity;
    to.fillStyle = MASK;
    to.fill(path, "evenodd");
    to.globalAlpha = 1;
    to.strokeStyle = CONTOUR;
    to.lineJoin = "round";
    if (this.look.contour) to.stroke(path);
  }

  drawLines(to, nodule, thin) {
    to.strokeStyle = DIAMETER;
    for (const [[x0, y0], [x1, y1]] of nodule.lines) stroke(to, [x0, y0], [x1, y1]);
    to.lineWidth = thin;
  }

  // at the right end of the diameters, or at their left end where it would leave the picture
  drawNumber(to, nodule, thin) {
    const size = thin * 9;
    const text = String(nodule.number);
    to.font = `600 ${size}px system-ui, sans-serif`;
    to.textBaseline = "middle";
    const wide = to.measureText(text).width + size * 0.6;
    const ends = nodule.lines.flat().sort((a, b) => a[0] - b[0]);
    const [leftmost, rightmost] = [ends[0], ends.at(-1)];
    const fits = rightmost[0] + size * 0.3 + wide <= this.header.size[0];
    const left = fits ? rightmost[0] + size * 0.3 : Math.max(0, leftmost[0] - size * 0.3 - wide);
    const middle = Math.min(Math.max((fits ? rightmost : leftmost)[1], size * 0.7), this.header.size[1] - size * 0.7);
    to.fillStyle = "#000b";
    to.fillRect(left, middle - size * 0.7, wide, size * 1.4);
    to.fillStyle = CONTOUR;
    to.fillText(text, left + size * 0.3, middle);
  }

  drawTool(to, thin) {
    for (const [colour, width] of [["#000", thin * 2.4], [DRAWN, thin]]) {
      to.strokeStyle = colour;
      to.lineWidth = width;
      if (this.drawn) {
        const { kind, from, to: end } = this.drawn;
        if (kind === "box") {
          to.strokeRect(Math.min(from[0], end[0]), Math.min(from[1], end[1]), Math.abs(end[0] - from[0]), Math.abs(end[1] - from[1]));
        } else {
          stroke(to, from, end);
        }
      }
      if (this.cross) {
        const [x, y] = this.cross;
        const arm = thin * 12;
        stroke(to, [x - arm, y], [x + arm, y]);
        stroke(to, [x, y - arm], [x, y + arm]);
      }
    }
  }
}

function stroke(to, [x0, y0], [x1, y1]) {
  to.beginPath();
  to.moveTo(x0, y0);
  to.lineTo(x1, y1);
  to.stroke();
}

export function sizeText(nodule) {
  const digits = nodule.unit === "mm" ? 1 : 0;
  return `${nodule.long.toFixed(digits)} × ${nodule.short.toFixed(digits)} ${nodule.unit}`;
}
