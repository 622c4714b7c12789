// The numbers beside the picture: how the stream does, its nodules, what is recorded, and how old the picture is.

import { sizeText } from "./pane.js";

export const byId = (id) => document.getElementById(id);

const STALE_S = 1;

export function showStream(stream, connected, title) {
  set(byId("hud-title"), title);
  const state = byId("state");
  const [text, kind] = !connected
    ? ["no connection to ssmt-edge", "bad"]
    : stream.state === "lost"
      ? ["source lost, looking for it", "bad"]
      : stream.state === "ended"
        ? ["ended", "warn"]
        : stream.age === null
          ? ["waiting for the first frame", "warn"]
          : stream.age > STALE_S
            ? ["no new frames", "bad"]
            : ["running", "good"];
  set(state, text);
  state.className = kind;
  set(byId("fps"), number(stream.fps, 1));
  set(byId("p50"), number(stream.p50, 1));
  set(byId("p99"), number(stream.p99, 1));
  set(byId("dropped"), number(stream.dropped, 0) + (stream.overruns ? ` (${stream.overruns} late)` : ""));
  byId("dropped").className = stream.dropped ? "warn" : "";
  set(byId("spacing"), spacing(stream));
}

function spacing({ spacing: mm, mm_per_pixel: chosen }) {
  if (!mm) return "unknown: sizes in pixels";
  const [x, y] = mm.map((value) => value.toFixed(4));
  return `${x === y ? x : `${x} × ${y}`} mm per pixel${chosen ? " (set)" : ""}`;
}

// what belongs to the picture on the screen, and changes with it
export function showPicture(header, frozen) {
  const unlike = header?.unlike ?? null;
  byId("unlike").parentElement.hidden = unlike === null; // an engine that does not know
  set(byId("unlike"), unlike === null ? "" : unlike > 1 ? `${unlike.toFixed(2)}: unusual picture` : unlike.toFixed(2));
  byId("unlike").className = unlike > 1 ? "warn" : "";
  set(byId("nodules-title"), frozen ? "Nodules of the frozen picture" : "Nodules");
  const rows = (header?.nodules ?? []).slice(0, 20).map((nodule) => {
    const row = document.createElement("tr");
    const area = nodule.unit === "mm" ? `${nodule.area.toFixed(1)} mm²` : `${nodule.area} px`;
    for (const text of [nodule.number, sizeText(nodule), area, `${Math.round(nodule.probability * 100)} %`]) {
      row.insertCell().textContent = text;
    }
    return row;
  });
  if (!rows.length) {
    const row = document.createElement("tr");
    const cell = row.insertCell();
    cell.colSpan = 4;
    cell.textContent = "none marked";
    rows.push(row);
  }
  byId("nodules").replaceChildren(...rows);
}

export function showRecording(stream) {
  const { recording } = stream;
  const button = byId("record");
  const running = Boolean(recording?.running);
  button.setAttribute("aria-pressed", running);
  set(button.firstElementChild, running ? "Stop recording" : "Record");
  const line = byId("recording");
  const failed = recording?.errors?.length > 0;
  line.hidden = !running && !failed;
  line.classList.toggle("failed", failed);
  if (!recording?.files) return;
  const missed = recording.missed ? `, ${recording.missed} missed` : "";
  set(line, failed ? `Recording failed: ${recording.errors.join("; ")}` : `● Recording ${clock(recording.seconds)}, ${recording.frames} frames${missed}`);
}

// what to say over a picture: [text or null, calm]; still: no picture is expected to come
export function warningFor(stream, pane, still, link) {
  const seconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} s`;
  const since = (performance.now() - link.at) / 1000;
  if (!link.up || since > 1.5) return [`No connection to ssmt-edge for ${seconds(since)}: this picture is old`, false];
  if (stream.trouble) return [stream.trouble, false];
  if (stream.state === "ended") return ["The stream has ended: last frame", true];
  if (stream.age === null) return ["Waiting for the first frame", true];
  const onScreen = still ? 0 : (performance.now() - pane.shownAt) / 1000;
  const age = Math.max(stream.age + since, onScreen);
  if (stream.state === "lost") return [`Source lost for ${seconds(age)}: this picture is old`, false];
  if (age > STALE_S) return [`No new frame for ${seconds(age)}: this picture is old`, false];
  return [null, false];
}

function number(value, digits) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
