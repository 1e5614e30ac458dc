"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const main = document.getElementById("content"), pulse = document.getElementById("pulse");
  const topics = (main.dataset.topics ?? "").trim().split(/\s+/).filter(Boolean);
  let busy = false, again = false, next = 0, timer = 0, left = -Infinity;
  addEventListener("beforeunload", () => { left = performance.now(); });

  const say = (text) => { if (pulse.textContent !== text) pulse.textContent = text; pulse.hidden = !text; };
  const isOpen = (part) => part.querySelector(".act[open], :checked:not(option)") !== null || part.contains(document.activeElement);

  // Put what is new into the page, and leave alone what somebody is at.
  const swap = (fresh) => {
    for (const part of document.querySelectorAll("[data-live]")) {
      const found = fresh.getElementById(part.id);
      if (!found || part.lastHtml === found.innerHTML || isOpen(part)) continue;
      part.lastHtml = found.innerHTML;
      const [left, sorted] = [part.querySelector(".scroll")?.scrollLeft, part.querySelector("[aria-sort]")];
      const by = sorted && [sorted.cellIndex, sorted.getAttribute("aria-sort")];
      part.replaceChildren(...[...found.childNodes].map((node) => document.adoptNode(node)));
      part.dispatchEvent(new CustomEvent("fresh", { bubbles: true }));
      if (left) part.querySelector(".scroll").scrollLeft = left;
      if (by) for (let i = by[1] === "descending" ? 1 : 2; i > 0; i--) part.querySelectorAll("thead th")[by[0]]?.querySelector("button")?.click();
    }
    document.title = fresh.title;
    const live = fresh.getElementById("live");
    if (live) document.getElementById("live").textContent = live.textContent;
  };

  const load = async () => {
    if (busy) { again = true; return; }
    busy = true; again = false;
    const began = performance.now();
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (performance.now() - left < 3000) return;  // somebody is going elsewhere, and that comes first
      if (answer.redirected && new URL(answer.url).pathname === "/sign-in") { location.href = answer.url; return; }
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok) throw new Error(fresh.querySelector("h1")?.textContent);
      swap(fresh);
      say("");
    } catch (error) {  // fetch throws a TypeError where nobody answers
      const what = (!(error instanceof TypeError) && error.message) || "The control room does not answer";
      say(`${what}; what is shown may be old. Trying again.`);
      again = true;
    } finally {
      busy = false;
      next = performance.now() + Math.max(500, 4 * (performance.now() - began));
      if (again) soon();
    }
  };
  // The first change is shown at once; many that follow share a look, so a large page does not load the server.
  const soon = () => { if (!timer) timer = setTimeout(() => { timer = 0; load(); }, Math.max(0, next - performance.now())); };

  if (topics.length) {
    const query = new URLSearchParams(topics.map((topic) => ["topic", topic]));
    if (main.dataset.run) query.set("run", main.dataset.run);
    let stream;
    const watch = () => {
      stream = new EventSource("/api/v1/events?" + query);
      for (const kind of [...topics, "again"]) stream.addEventListener(kind, soon);
      stream.addEventListener("open", soon);
      stream.addEventListener("error", () => {
        say("The connection is gone; trying again.");
        if (stream.readyState === EventSource.CLOSED) { stream.close(); setTimeout(watch, 3000); }
      });
    };
    watch();
    addEventListener("pagehide", () => stream.close());
    setInterval(() => { if (!document.hidden) soon(); }, 30000);  // times that pass are no events
  }

  // What takes the server longer than a page may.
  for (const part of document.querySelectorAll("[data-from]")) {
    fetch(part.dataset.from).then(async (answer) => {
      const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(part.id);
      if (answer.ok && found) part.replaceChildren(...[...found.childNodes].map((node) => document.adoptNode(node)));
    }).catch(() => {});
  }

  for (const input of document.querySelectorAll("[data-into]")) {
    input.addEventListener("change", async () => {
      if (input.files[0]) document.getElementById(input.dataset.into).value = await input.files[0].text();
    });
  }
})();
