"use strict";
(() => {
  const tip = document.getElementById("tip");
  const outcomes = JSON.parse(document.getElementById("outcomes")?.textContent ?? "{}");

  const show = (x, y, head, rows) => {
    tip.replaceChildren();
    tip.append(Object.assign(document.createElement("b"), { textContent: head }));
    for (const [key, text] of rows) {
      const line = document.createElement("div");
      if (key) line.append(Object.assign(document.createElement("i"), { className: "k-" + key }));
      line.append(text);
      tip.append(line);
    }
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18) + "px";
  };
  const hide = () => { tip.hidden = true; };
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  const bind = (root) => {
    // Charts: the pointer, or the arrow keys, choose a column.
    for (const figure of root.querySelectorAll(".chart")) {
      const svg = figure.querySelector("svg"), cursor = figure.querySelector(".cursor");
      const data = JSON.parse(figure.querySelector("script").textContent);
      let column = data.x.length - 1;
      const at = (index, y) => {
        column = Math.max(0, Math.min(index, data.x.length - 1));
        const box = svg.getBoundingClientRect();
        cursor.setAttribute("d", `M${data.x[column]} 10V194`);
        const rows = data.rows.filter((row) => row[2][column]).map(([key, name, texts]) => [key, `${name}: ${texts[column]}`]);
        show(box.left + data.x[column] * box.width / 400, y ?? box.top + box.height / 3, data.head[column], rows);
      };
      const leave = () => { cursor.setAttribute("d", ""); hide(); };
      svg.addEventListener("pointermove", (event) => {
        const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * 400 / box.width;
        let best = 0;
        data.x.forEach((place, i) => { if (Math.abs(place - x) < Math.abs(data.x[best] - x)) best = i; });
        at(best, event.clientY);
      });
      svg.addEventListener("pointerleave", leave);
      svg.addEventListener("blur", leave);
      svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) at(column); });
      svg.addEventListener("keydown", (event) => {
        const to = { ArrowLeft: column - 1, ArrowRight: column + 1, Home: 0, End: data.x.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        at(to);
      });
    }

    // Strips: a cell is a round, or several.
    for (const strip of root.querySelectorAll(".strip")) {
      const cells = strip.dataset.cells, { first, last, width } = strip.closest("table").dataset;
      strip.addEventListener("pointermove", (event) => {
        const box = strip.getBoundingClientRect();
        const cell = Math.max(0, Math.min(Math.floor((event.clientX - box.left) * cells.length / box.width), cells.length - 1));
        const from = Number(first) + cell * width, to = Math.min(from + Number(width) - 1, last);
        const [key, text] = outcomes[cells[cell]] ?? ["", "not asked"];
        const site = strip.closest("tr").cells[0].textContent;
        show(event.clientX, event.clientY, `${site}, ${from === to ? "round " + from : `rounds ${from} to ${to}`}`, [[key, text]]);
      });
      strip.addEventListener("pointerleave", hide);
    }

    // Tables: a click on a heading sorts.
    for (const table of root.querySelectorAll(".sortable")) {
      const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
      heads.forEach((head, column) => {
        if ("fixed" in head.dataset) return;
        const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent });
        head.replaceChildren(button);
        button.addEventListener("click", () => {
          const down = head.getAttribute("aria-sort") !== "descending";
          const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim().replace(/^–$/, "");
          const compare = (a, b) => value(a).localeCompare(value(b), undefined, { numeric: true });
          const numbers = (a, b) => (Number(value(a)) || 0) - (Number(value(b)) || 0);
          const order = "v" in body.rows[0].cells[column].dataset ? numbers : compare;
          body.append(...[...body.rows].sort((a, b) => (down ? order(b, a) : order(a, b))));
          heads.forEach((other) => other.removeAttribute("aria-sort"));
          head.setAttribute("aria-sort", down ? "descending" : "ascending");
        });
      });
    }
  };
  bind(document);
  addEventListener("fresh", (event) => bind(event.target));  // the dashboard puts new charts into its pages
})();
