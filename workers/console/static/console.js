// Times in the viewer's zone. Without this script the pages work, with the times of the server's zone.
"use strict";

const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;

function showLocalTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    element.title = element.dateTime;
    element.textContent = at.toLocaleString("sv-SE");  // 2026-11-28 18:00:00
  }
  for (const element of root.querySelectorAll("text[data-at]")) {
    element.textContent = new Date(element.dataset.at).toLocaleTimeString("sv-SE");
  }
}

showLocalTimes(document);
const zone = document.getElementById("zone");
if (zone && ZONE) zone.textContent = ZONE;

function targetOf(element) {
  return element.getAttribute("href") ?? element.form?.getAttribute("action");
}

const live = document.getElementById("live");
if (live && window.EventSource && !live.querySelector("[data-ended]")) {
  const source = new EventSource(live.dataset.source);
  const silence = document.getElementById("silence");
  let warning;
  const heard = () => {  // what is shown may be wrong once nothing comes any more: that must not look like "well"
    silence.hidden = true;
    clearTimeout(warning);
    warning = setTimeout(() => { silence.hidden = false; }, live.dataset.patience);
  };
  heard();
  source.addEventListener("now", (event) => {
    heard();
    if (live.querySelector(":active")) return;  // not under somebody's finger
    const focused = live.contains(document.activeElement) ? targetOf(document.activeElement) : null;
    live.innerHTML = event.data;  // of our own server, escaped there
    if (focused) [...live.querySelectorAll("a, button")].find((each) => targetOf(each) === focused)?.focus();
    showLocalTimes(live);
    if (live.querySelector("[data-ended]")) {
      source.close();
      clearTimeout(warning);
    }
  });
  source.addEventListener("error", () => {  // the login has ended, say: the browser asks no more
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 30000);
  });
}
