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

const live = document.getElementById("live");
if (live && window.EventSource && !live.querySelector("[data-ended]")) {
  const source = new EventSource(live.dataset.source);
  source.addEventListener("now", (event) => {
    if (live.contains(document.activeElement)) return;  // not under somebody's finger
    live.innerHTML = event.data;  // of our own server, escaped there
    showLocalTimes(live);
    if (live.querySelector("[data-ended]")) source.close();
  });
  source.addEventListener("error", () => {  // the login has ended, say: the browser asks no more
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 30000);
  });
}
