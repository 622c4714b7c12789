// What the user is told: short messages beside the picture, never over it, and words for screen readers only.

import { byId } from "./hud.js";

export function say(text) {
  byId("said").textContent = text;
}

export function tell(text, error = false, download = null) {
  const message = document.createElement("div");
  message.className = error ? "message error" : "message";
  const words = document.createElement("span");
  words.textContent = text;
  message.append(words);
  if (download) message.append(download);
  const close = document.createElement("button");
  close.type = "button";
  close.className = "quiet";
  close.setAttribute("aria-label", "Dismiss");
  close.textContent = "×";
  const remove = () => {
    message.remove();
    if (download) URL.revokeObjectURL(download.href);
  };
  close.addEventListener("click", remove);
  message.append(close);
  const all = byId("messages");
  all.querySelectorAll(".message:not(.error)").forEach((old) => old.remove()); // what went well is said once
  while (all.children.length > 2) all.firstElementChild.remove();
  all.append(message);
  setTimeout(remove, error ? 15000 : 10000);
}
