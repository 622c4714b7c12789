// Region of interest and scale: drawn into the picture or typed, then sent.

import { byId } from "./hud.js";
import { say } from "./messages.js";
import { Drawing } from "./tools.js";

const SIDES = ["x", "y", "width", "height"];

export class Marks {
  // current() gives { pane, stream } of the active stream; ask(path, body) returns the server's answer or null
  constructor(current, ask) {
    this.current = current;
    this.ask = ask;
    this.tool = null; // { name, pixels, drawing }
    byId("roi-panel").addEventListener("submit", (event) => {
      event.preventDefault();
      this.setRoi(Object.fromEntries(SIDES.map((side) => [side, Number(byId(`roi-${side}`).value)])));
    });
    byId("scale-panel").addEventListener("submit", (event) => {
      event.preventDefault();
      this.setSpacing(Number(byId("scale-value").value));
    });
    byId("roi-auto").addEventListener("click", () => this.setRoi("auto"));
    byId("scale-source").addEventListener("click", () => this.setSpacing(null));
    byId("scale-length").addEventListener("input", () => this.fromLine());
    document.querySelectorAll("[data-cancel]").forEach((button) => button.addEventListener("click", () => this.leave()));
  }

  // opens the region's or the scale's panel, or closes it where it is open
  use(name) {
    const again = this.tool?.name === name;
    this.leave();
    const { pane, stream } = this.current();
    if (again || !pane?.header) return;
    byId(`${name}-panel`).hidden = false;
    byId(name).setAttribute("aria-pressed", true);
    if (name === "roi" && stream.roi) SIDES.forEach((side, i) => (byId(`roi-${side}`).value = stream.roi[i]));
    if (name === "scale") {
      byId("scale-line").textContent = "none";
      byId("scale-value").value = stream.mm_per_pixel ?? "";
    }
    const drawn = (from, to) => (name === "roi" ? this.boxDrawn(from, to) : this.lineDrawn(from, to));
    this.tool = { name, pixels: 0, drawing: new Drawing(pane, name === "roi" ? "box" : "line", drawn) };
  }

  // without a name: whatever is open
  leave(name = this.tool?.name) {
    if (!this.tool || this.tool.name !== name) return;
    this.tool.drawing.end();
    byId(`${name}-panel`).hidden = true;
    byId(name).setAttribute("aria-pressed", false);
    byId(name).focus();
    this.tool = null;
  }

  boxDrawn([x0, y0], [x1, y1]) {
    const [left, right, top, bottom] = [Math.min(x0, x1), Math.max(x0, x1), Math.min(y0, y1), Math.max(y0, y1)].map(Math.round);
    [left, top, right - left, bottom - top].forEach((value, i) => (byId(`roi-${SIDES[i]}`).value = value));
  }

  lineDrawn([x0, y0], [x1, y1]) {
    this.tool.pixels = Math.hypot(x1 - x0, y1 - y0);
    byId("scale-line").textContent = `${this.tool.pixels.toFixed(1)} px`;
    this.fromLine();
  }

  fromLine() {
    const mm = Number(byId("scale-length").value);
    if (this.tool?.pixels > 0 && mm > 0) byId("scale-value").value = (mm / this.tool.pixels).toPrecision(4);
  }

  async setRoi(roi) {
    if (!(await this.ask("roi", { roi }))) return;
    this.leave("roi");
    say(roi === "auto" ? "Region automatic" : "Region set");
  }

  async setSpacing(mm_per_pixel) {
    if (!(await this.ask("spacing", { mm_per_pixel }))) return;
    this.leave("scale");
    say("Scale set");
  }
}
