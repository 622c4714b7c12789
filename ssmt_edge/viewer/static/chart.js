// Long and short diameter of the largest nodule over the last minute.

const SECONDS = 60;

export function drawChart(canvas, points, now) {
  const dense = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  Object.assign(canvas, { width: Math.round(width * dense), height: Math.round(height * dense) });
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const to = canvas.getContext("2d");
  to.scale(dense, dense);
  to.font = "12px system-ui, sans-serif";
  to.fillStyle = colour("--soft");

  const unit = points.at(-1)?.[3] ?? "px";
  const recent = points.filter((point) => point[3] === unit && now - point[0] <= SECONDS);
  const sizes = recent.filter((point) => point[1] !== null);
  const top = nice(Math.max(1, ...sizes.map((point) => point[1])) * 1.1);
  const area = { left: 34, right: width - 6, top: 18, bottom: height - 18 };
  const x = (t) => area.right - ((now - t) / SECONDS) * (area.right - area.left);
  const y = (size) => area.bottom - (size / top) * (area.bottom - area.top);

  to.strokeStyle = colour("--line");
  to.textAlign = "right";
  to.textBaseline = "middle";
  for (const size of [0, top / 2, top]) {
    line(to, [[area.left, y(size)], [area.right, y(size)]]);
    to.fillText(String(size), area.left - 5, y(size));
  }
  to.textBaseline = "alphabetic";
  to.textAlign = "left";
  to.fillText("60 s ago", area.left, height - 4);
  to.textAlign = "right";
  to.fillText("now", area.right, height - 4);
  to.fillText(`in ${unit}`, area.right, 12);
  to.textAlign = "left";

  const ends = sizes.at(-1);
  const kinds = [[1, "--long", [], "long"], [2, "--short", [5, 3], "short"]];
  let label = area.left + 6;
  for (const [column, name, dash, word] of kinds) {
    to.strokeStyle = to.fillStyle = colour(name);
    to.lineWidth = 2;
    to.setLineDash(dash);
    for (const run of runs(recent, column)) line(to, run.map((point) => [x(point[0]), y(point[column])]));
    line(to, [[label, 8], [label + 18, 8]]);
    to.setLineDash([]);
    to.fillText(word, label + 23, 12);
    label += 70;
  }
  const digits = unit === "mm" ? 1 : 0;
  const text = ends
    ? `Largest nodule now ${ends[1].toFixed(digits)} by ${ends[2].toFixed(digits)} ${unit}; ` +
      `long diameter in the last minute ${Math.min(...sizes.map((p) => p[1])).toFixed(digits)} to ` +
      `${Math.max(...sizes.map((p) => p[1])).toFixed(digits)} ${unit}`
    : "No sizes in the last minute";
  canvas.setAttribute("aria-label", text);
}

// stretches without a gap: frames without a nodule, or nothing for a second, break the line
function runs(points, column) {
  const found = [];
  let before = null;
  for (const point of points) {
    if (point[column] === null) {
      before = null;
      continue;
    }
    if (before === null || point[0] - before > 1) found.push([]);
    found.at(-1).push(point);
    before = point[0];
  }
  return found;
}

function line(to, points) {
  to.beginPath();
  points.forEach(([x, y], i) => (i ? to.lineTo(x, y) : to.moveTo(x, y)));
  if (points.length === 1) to.lineTo(points[0][0] + 2, points[0][1]);
  to.stroke();
}

function nice(value) {
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((n) => n * step).find((n) => n >= value);
}
