// The page: what the server says goes to panes and numbers, what the user does goes to the server.

import { drawChart } from "./chart.js";
import { byId, showPicture, showRecording, showStream, warningFor } from "./hud.js";
import { Link, post } from "./link.js";
import { Marks } from "./marks.js";
import { say, tell } from "./messages.js";
import { Pane } from "./pane.js";

const look = { opacity: 0.25, contour: true, diameters: true };
const panes = [];
const points = [];
let streams = [];
let now = 0;
let active = 0;
let alone = null; // number of the only stream shown; null for all
let frozen = false;
let thresholdUntil = 0; // the slider is being moved: what the server says does not move it
const connection = { up: false, at: performance.now(), reason: "" };

const link = new Link({
  onStatus(status) {
    connection.up = true;
    connection.at = performance.now();
    now = status.now;
    const grown = streams.length !== status.streams.length;
    streams = status.streams;
    if (grown) arrange();
    streams.forEach((stream, i) => {
      const last = points[i].at(-1)?.[0] ?? -Infinity;
      const first = stream.points.at(-1)?.[0] ?? 0;
      if (first && first < last - 5) points[i] = []; // another server: its clock starts anew
      const known = points[i].at(-1)?.[0] ?? -Infinity;
      points[i] = [...points[i], ...stream.points.filter((point) => point[0] > known)].filter((point) => now - point[0] < 65);
    });
    update();
  },
  onPicture(header, bitmap) {
    const pane = panes[header.stream];
    if (!pane || frozen) {
      bitmap.close();
      return false;
    }
    pane.show(header, bitmap);
    if (header.stream === active) showPicture(header, false);
    return true;
  },
  onUp() {
    connection.reason = "";
  },
  onDown(reason) {
    if (reason && reason !== connection.reason) tell(reason, true);
    connection.reason = reason;
    connection.up = false;
  },
});

// --- what is shown

function arrange() {
  while (panes.length < streams.length) {
    const pane = new Pane(panes.length, look);
    pane.canvas.addEventListener("pointerdown", () => activate(pane.number));
    pane.canvas.addEventListener("focus", () => activate(pane.number));
    panes.push(pane);
    points.push([]);
  }
  panes.forEach((pane, i) => pane.name(`${i + 1}: ${streams[i]?.name ?? ""}`));
  const shown = alone === null ? panes : [panes[alone]];
  byId("panes").replaceChildren(...shown.map((pane) => pane.element));
  byId("panes").dataset.count = shown.length > 2 ? "many" : String(shown.length);
  const nav = byId("streams");
  if (streams.length < 2) {
    const name = document.createElement("span");
    name.className = "single";
    name.textContent = streams[0]?.name ?? "";
    nav.replaceChildren(name);
    return;
  }
  const tab = (text, pressed, action) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.setAttribute("aria-pressed", pressed);
    button.addEventListener("click", action);
    return button;
  };
  nav.replaceChildren(
    tab("All", alone === null, () => choose(null)),
    ...streams.map((stream, i) => tab(`${i + 1}: ${stream.name}`, alone === i, () => choose(i))),
  );
}

const isShown = (number) => alone === null || alone === number;

function choose(number) {
  if (number !== null && number >= streams.length) return;
  marks.leave();
  alone = number;
  if (number !== null) active = number;
  link.wish({ watch: number === null ? null : [number] });
  arrange();
  update();
}

function activate(number) {
  if (active === number) return;
  marks.leave();
  active = number;
  update();
}

function update() {
  panes.forEach((pane, i) => {
    const [text, calm] = streams[i] ? warningFor(streams[i], pane, frozen || !isShown(i), connection) : [null, false];
    const before = pane.element.classList.contains("stale");
    pane.warn(text, calm);
    const stale = pane.element.classList.contains("stale");
    if (stale !== before) say(stale ? `Warning, stream ${i + 1}: ${text}` : `Stream ${i + 1}: new frames again`);
    pane.badge.hidden = !frozen;
    pane.element.classList.toggle("active", i === active);
  });
  const stream = streams[active];
  if (!stream) {
    byId("state").textContent = connection.reason || "connecting";
    return;
  }
  const since = (performance.now() - connection.at) / 1000;
  const connected = connection.up && since < 1.5;
  showStream({ ...stream, age: stream.age === null ? null : stream.age + since }, connected, streams.length > 1 ? `Stream ${active + 1}` : "Stream");
  showRecording(stream);
  showPicture(panes[active].header, frozen);
  document.body.classList.toggle("disconnected", !connected);
  panes.forEach((pane) => pane.describe());
  drawChart(byId("chart"), points[active], now + since);
  if (stream.threshold !== null && performance.now() > thresholdUntil) showThreshold(stream.threshold);
  byId("threshold").disabled = stream.threshold === null;
}
setInterval(update, 250); // also when the server says nothing any more

// --- what is asked of the server

async function ask(path, body) {
  try {
    return await post(path, { stream: active, ...body });
  } catch (error) {
    tell(error.message, true);
    return null;
  }
}

const marks = new Marks(() => ({ pane: panes[active], stream: streams[active] }), ask);

// --- freeze, snapshot, recording

function freeze() {
  frozen = !frozen;
  if (!frozen) panes.forEach((pane) => (pane.shownAt = performance.now())); // the next picture is on its way
  link.wish({ frozen });
  const button = byId("freeze");
  button.setAttribute("aria-pressed", frozen);
  button.firstElementChild.textContent = frozen ? "Go on" : "Freeze";
  say(frozen ? "The picture is frozen; the stream goes on" : "The picture goes on");
  update();
}

async function snapshot() {
  const answer = await ask("snapshot", { frame: panes[active]?.header?.frame ?? null });
  if (!answer) return;
  const name = answer.headers.get("X-File-Name");
  const download = document.createElement("a");
  download.href = URL.createObjectURL(await answer.blob());
  download.download = name;
  download.textContent = "Download";
  tell(`Saved ${name}`, false, download);
}

async function record() {
  const on = !streams[active]?.recording?.running;
  const button = byId("record");
  button.disabled = true; // completing the files may take a moment
  const answer = await ask("record", { on });
  button.disabled = false;
  if (!answer) return;
  const { files, errors } = await answer.json();
  streams[active].recording = { ...streams[active].recording, running: on }; // until the next status says more
  if (errors.length) tell(errors.join("; "), true);
  else tell(`${on ? "Recording to" : "Saved"} ${files[0]} and ${files[1].replace(/.*\./, ".")}`);
}

// --- threshold and looks

let asking = null;
function setThreshold(value) {
  thresholdUntil = performance.now() + 1500;
  showThreshold(value);
  clearTimeout(asking);
  asking = setTimeout(() => ask("threshold", { threshold: value }), 80);
}

function showThreshold(value) {
  byId("threshold").value = value;
  byId("threshold-value").textContent = `${Math.round(value * 100)} %`;
}

function setOpacity(percent) {
  look.opacity = percent / 100;
  byId("opacity").value = percent;
  byId("opacity-value").textContent = `${percent} %`;
  redraw();
}

const redraw = () => panes.forEach((pane) => pane.redraw());

function nudge(id, steps, then) {
  const slider = byId(id);
  if (slider.disabled) return;
  if (steps > 0) slider.stepUp(steps);
  else slider.stepDown(-steps);
  then(Number(slider.value));
}

function toggle(name) {
  look[name] = !look[name];
  byId(name).checked = look[name];
  redraw();
}

// --- buttons, sliders, keys

for (const [id, action] of Object.entries({ freeze, snapshot, record, roi: () => marks.use("roi"), scale: () => marks.use("scale") })) {
  byId(id).addEventListener("click", action);
}
byId("threshold").addEventListener("input", (event) => setThreshold(Number(event.target.value)));
byId("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
byId("contour").addEventListener("change", () => toggle("contour"));
byId("diameters").addEventListener("change", () => toggle("diameters"));
byId("help-open").addEventListener("click", () => byId("help").showModal());
byId("theme").addEventListener("click", theme);
byId("shortcuts").addEventListener("change", (event) => keep("shortcuts", event.target.checked ? "on" : "off"));

function theme() {
  const to = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  keep("theme", to);
  showTheme(to);
}

function showTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
}

function keep(name, value) {
  try {
    localStorage.setItem(`ssmt-edge-${name}`, value);
  } catch {
    // a browser that keeps nothing: it holds until the page is closed
  }
}

function kept(name, otherwise) {
  try {
    return localStorage.getItem(`ssmt-edge-${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

const keys = {
  f: freeze,
  s: snapshot,
  r: record,
  g: () => marks.use("roi"),
  a: () => marks.setRoi("auto"),
  m: () => marks.use("scale"),
  c: () => toggle("contour"),
  d: () => toggle("diameters"),
  t: theme,
  ",": () => nudge("threshold", -1, setThreshold),
  ".": () => nudge("threshold", 1, setThreshold),
  "[": () => nudge("opacity", -1, setOpacity),
  "]": () => nudge("opacity", 1, setOpacity),
  0: () => choose(null),
  "?": () => byId("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") marks.leave();
  const typing = event.target.matches('input[type="number"]');
  if (typing || event.ctrlKey || event.altKey || event.metaKey || event.repeat && !",.[]".includes(event.key)) return;
  if (byId("help").open || !byId("shortcuts").checked) return;
  const key = event.key.toLowerCase();
  const action = keys[key] ?? (/^[1-9]$/.test(key) && streams.length > 1 ? () => choose(Number(key) - 1) : null);
  if (!action) return;
  event.preventDefault();
  action();
});

byId("shortcuts").checked = kept("shortcuts", "on") === "on";
showTheme(kept("theme", "dark"));
setOpacity(25);
// the token is in a cookie now: out of sight, and out of what is copied from the address bar
if (location.search) history.replaceState(null, "", "/");
