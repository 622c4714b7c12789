// Drawing a box or a line into a picture by mouse, touch or keyboard.

export class Drawing {
  // onDrawn(from, to) with both ends in frame pixels, at every change
  constructor(pane, kind, onDrawn) {
    this.pane = pane;
    this.kind = kind;
    this.onDrawn = onDrawn;
    this.from = null;
    this.listening = new AbortController();
    pane.element.classList.add("drawing");
    const on = (name, handler) => pane.canvas.addEventListener(name, handler, { signal: this.listening.signal });
    on("pointerdown", (event) => this.pointerDown(event));
    on("pointermove", (event) => this.dragging && this.reach(pane.toFrame(event)));
    on("pointerup", () => this.release());
    on("pointercancel", () => this.release());
    on("keydown", (event) => this.key(event));
    pane.canvas.focus();
  }

  pointerDown(event) {
    const at = this.pane.toFrame(event);
    if (!at || event.button !== 0) return;
    event.preventDefault();
    this.pane.canvas.setPointerCapture(event.pointerId);
    this.pane.cross = null;
    this.dragging = true;
    this.from = at;
    this.reach(at);
  }

  release() {
    this.dragging = false;
    this.from = null;
  }

  reach(at) {
    if (!at || !this.from) return;
    this.pane.drawn = { kind: this.kind, from: this.from, to: at };
    this.pane.redraw();
    this.onDrawn(this.from, at);
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { header } = this.pane;
    if (!header || !(event.key in steps || event.key === "Enter")) return;
    event.preventDefault();
    event.stopPropagation();
    const cross = this.pane.cross ?? [header.origin[0] + header.size[0] / 2, header.origin[1] + header.size[1] / 2];
    if (event.key in steps) {
      const far = event.shiftKey ? 1 : 10;
      const [dx, dy] = steps[event.key];
      this.pane.cross = this.pane.inside([cross[0] + dx * far, cross[1] + dy * far]);
      this.reach(this.pane.cross);
    } else {
      this.pane.cross = cross;
      if (this.from) this.release();
      else this.from = cross;
    }
    this.pane.redraw();
  }

  end() {
    this.listening.abort();
    this.pane.element.classList.remove("drawing");
    this.pane.drawn = this.pane.cross = null;
    this.pane.redraw();
  }
}
