"use strict";
(() => {
  const views = JSON.parse(document.getElementById("data").textContent);
  const theme = matchMedia("(prefers-color-scheme: dark)");
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  const escape = (text) => String(text).replace(/[&<>"]/g, (c) => entities[c]);
  const known = (v) => v !== null && v !== undefined;
  const say = (v) => (known(v) ? String(v) : "not defined");
  const short = (v) => (Math.abs(v) >= 100 ? v.toFixed(0) : Math.abs(v) >= 10 ? v.toFixed(1)
    : v !== 0 && Math.abs(v) < 0.005 ? v.toExponential(0) : v.toFixed(2));
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 4", "10 4", "4 2 1 2"];

  // Ends of the colour scales, purple and orange (told apart by everyone), or one dark (light) end.
  const ramp = () => (theme.matches
    ? { none: [30, 30, 36], low: [178, 171, 225], high: [253, 174, 84], one: [255, 226, 110] }
    : { none: [247, 247, 247], low: [84, 39, 136], high: [179, 88, 6], one: [0, 42, 92] });
  const blend = (a, b, t) => a.map((x, i) => Math.round(x + (b[i] - x) * t));
  const rgb = (c) => `rgb(${c.join(",")})`;

  // The ends of a view's scale, the same for all that it can show: [lowest, highest].
  const bounds = (view) => {
    const all = view.options.flatMap((o) => o.values.flat()).filter(known);
    const top = all.reduce((most, v) => Math.max(most, Math.abs(v)), 1e-9);
    if (view.scale === "signed") return [-top, top];
    return [Math.max(1e-4, all.reduce((least, v) => (v > 0 ? Math.min(least, v) : least), top / 10)), top];
  };
  const scaleOf = (view) => {
    const [bottom, top] = bounds(view);
    return (v) => {
      const c = ramp();
      if (view.scale === "signed") return blend(c.none, v < 0 ? c.low : c.high, Math.abs(v) / top);
      const t = Math.log(Math.max(v, bottom) / bottom) / Math.log(top / bottom);
      return blend(c.none, c.one, Math.min(1, Math.max(0, t)));
    };
  };
  const frame = (view) => {
    const section = document.createElement("section");
    section.id = view.id;
    const options = view.options.map((o, i) => `<option value="${i}">${escape(o.name)}</option>`);
    section.innerHTML = `<h2>${escape(view.title)}</h2><p class="note">${escape(view.note)}</p>`
      + `<p${view.options.length > 1 ? "" : " hidden"}><label>Show <select>${options.join("")}`
      + `</select></label></p><div class="scroll"><div class="plot" tabindex="0" role="img"></div></div>`
      + `<div class="legend"></div><output aria-live="polite"></output>`;
    document.getElementById("views").append(section);
    const [select, plot, legend, output] = ["select", ".plot", ".legend", "output"].map(
      (what) => section.querySelector(what));
    plot.setAttribute("aria-label", `${view.title}. Arrow keys move, the text below reads the value.`);
    return { select, plot, legend, output, width: Math.max(280, section.clientWidth - 4) };
  };

  // What mouse and keys share: moves (by rows, by columns) and switches between options.
  const steer = (view, parts, move, redraw) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
      Home: [0, -1e9], End: [0, 1e9] };
    parts.plot.addEventListener("keydown", (event) => {
      const page = { PageUp: -1, PageDown: 1 }[event.key];
      if (event.key in steps) move(...steps[event.key]);
      else if (page && view.options.length > 1) {
        const count = view.options.length;
        parts.select.value = (Number(parts.select.value) + page + count) % count;
        redraw();
      } else return;
      event.preventDefault();
    });
    parts.plot.addEventListener("focus", () => move(0, 0));
    parts.select.addEventListener("change", redraw);
    theme.addEventListener("change", redraw);
  };
  const clamp = (x, count) => Math.min(count - 1, Math.max(0, x));

  const matrix = (view) => {
    const parts = frame(view), colorOf = scaleOf(view), canvas = document.createElement("canvas");
    const LEFT = 76, BOTTOM = 64, at = { row: 0, column: 0, on: false };
    let shown, cell, tall;
    parts.plot.append(canvas);
    const draw = () => {
      shown = view.options[Number(parts.select.value)];
      const rows = shown.rows.length, columns = shown.columns.length;
      cell = Math.max(5, Math.min(44, Math.floor((parts.width - LEFT - 8) / columns)));
      tall = rows === columns ? cell : Math.max(cell, Math.min(30, Math.floor(420 / rows)));
      at.row = clamp(at.row, rows);
      at.column = clamp(at.column, columns);
      const w = LEFT + columns * cell + 8, h = rows * tall + BOTTOM, dots = devicePixelRatio || 1;
      Object.assign(canvas, { width: w * dots, height: h * dots });
      Object.assign(canvas.style, { width: `${w}px`, height: `${h}px`, display: "block" });
      const pen = canvas.getContext("2d");
      pen.scale(dots, dots);
      pen.font = "11px system-ui, sans-serif";
      pen.textBaseline = "middle";
      shown.values.forEach((row, r) => row.forEach((v, c) => {
        if (!known(v)) return;
        const color = colorOf(v), light = color[0] * 0.3 + color[1] * 0.59 + color[2] * 0.11 > 140;
        pen.fillStyle = rgb(color);
        pen.fillRect(LEFT + c * cell, r * tall, cell - (cell > 8), tall - (tall > 8));
        if (cell < 34) return;
        pen.fillStyle = light ? "#000" : "#fff";
        pen.textAlign = "center";
        pen.fillText(short(v), LEFT + (c + 0.5) * cell, (r + 0.5) * tall);
      }));
      pen.fillStyle = css("--soft");
      pen.textAlign = "right";
      const every = (size) => Math.max(1, Math.ceil(13 / size));
      shown.rowTicks.forEach((text, r) => {
        if (r % every(tall) === 0) pen.fillText(text, LEFT - 6, (r + 0.5) * tall);
      });
      shown.columnTicks.forEach((text, c) => {
        if (c % every(cell) !== 0) return;
        pen.save();
        pen.translate(LEFT + (c + 0.5) * cell, rows * tall + 8);
        pen.rotate(-Math.PI / 3);
        pen.fillText(text, 0, 0);
        pen.restore();
      });
      if (!at.on) return;
      pen.strokeStyle = css("--fg");
      pen.lineWidth = 2;
      pen.strokeRect(LEFT + at.column * cell, at.row * tall, cell - 1, tall - 1);
      const value = (shown.values[at.row] || [])[at.column];
      parts.output.textContent = view.say.replace("{c}", shown.columns[at.column])
        .replace("{r}", shown.rows[at.row]).replace("{v}", say(value));
    };
    const go = (row, column) => {
      Object.assign(at, { row: clamp(row, shown.rows.length), on: true });
      at.column = clamp(column, shown.columns.length);
      draw();
    };
    canvas.addEventListener("pointermove", (event) => {
      const row = Math.floor(event.offsetY / tall), column = Math.floor((event.offsetX - LEFT) / cell);
      if (row < 0 || column < 0 || row >= shown.rows.length || column >= shown.columns.length) return;
      if (row !== at.row || column !== at.column || !at.on) go(row, column);
    });
    const redraw = () => {
      draw();
      const [low, high] = bounds(view), middle = view.scale === "signed" ? 0 : Math.sqrt(low * high);
      const colors = [low, middle, high].map((v) => rgb(colorOf(v))).join(",");
      parts.legend.innerHTML = `<span>${+low.toPrecision(3)}</span><span class="ramp" `
        + `style="background:linear-gradient(90deg,${colors})"></span>`
        + `<span>${+high.toPrecision(3)}</span><span>${escape(view.label)}</span>`;
    };
    steer(view, parts, (rows, columns) => go(at.row + rows, at.column + columns), redraw);
    redraw();
    parts.output.textContent = view.hint;
  };

  const ticks = (low, high, log) => {
    if (log) {
      const found = [];
      for (let p = Math.ceil(low - 1e-9); p <= high + 1e-9; p += Math.max(1, Math.ceil((high - low) / 6))) {
        found.push(p);
      }
      return found.length > 1 ? found : [low, (low + high) / 2, high];
    }
    const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((s) => s * power >= raw);
    const found = [];
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(v);
    return found;
  };

  const lines = (view) => {
    const parts = frame(view), W = Math.min(parts.width, 900), H = 330;
    const LEFT = 60, RIGHT = 12, TOP = 10, BOTTOM = 66;
    let shown, at = -1;
    const place = (i) => {
      const x = shown.positions || shown.x.map((_, k) => k), span = x[x.length - 1] - x[0] || 1;
      return LEFT + ((x[i] - x[0]) / span) * (W - LEFT - RIGHT);
    };
    const draw = () => {
      shown = view.options[Number(parts.select.value)];
      at = Math.min(at, shown.x.length - 1);
      const to = (v) => (shown.log ? Math.log10(Math.max(v, 1e-9)) : v);
      const all = shown.series.flatMap((s) => s.y).filter(known).map(to);
      let low = all.reduce((a, b) => Math.min(a, b)), high = all.reduce((a, b) => Math.max(a, b));
      const room = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
      low -= room;
      high += room;
      const height = (v) => TOP + ((high - v) / (high - low)) * (H - TOP - BOTTOM);
      const marks = ticks(low, high, shown.log).map((v) => {
        const text = shown.log ? String(+(10 ** v).toPrecision(3)) : String(+v.toPrecision(6));
        return `<line class="grid" x1="${LEFT}" x2="${W - RIGHT}" y1="${height(v)}" y2="${height(v)}"/>`
          + `<text x="${LEFT - 6}" y="${height(v) + 4}" text-anchor="end">${text}</text>`;
      });
      const every = Math.max(1, Math.ceil((shown.x.length * 15) / (W - LEFT - RIGHT)));
      const names = shown.ticks.map((text, i) => (i % every || text === "" ? ""
        : `<text transform="translate(${place(i)},${H - BOTTOM + 14}) rotate(-60)" text-anchor="end">`
        + `${escape(text)}</text>`));
      const curves = shown.series.map((s, k) => {
        const points = s.y.map((v, i) => (known(v) ? [place(i), height(to(v))] : null)).filter(known);
        const color = `var(--c${k % 7})`, dash = DASHES[k % DASHES.length];
        const path = points.map((p) => p.map((x) => x.toFixed(1)).join(",")).join(" ");
        return `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="1.8" `
          + `stroke-dasharray="${dash}"/>` + (points.length > 80 ? "" : points.map((p) =>
          `<circle cx="${p[0].toFixed(1)}" cy="${p[1].toFixed(1)}" r="2.6" fill="${color}"/>`).join(""));
      });
      const guide = at < 0 ? ""
        : `<line class="guide" x1="${place(at)}" x2="${place(at)}" y1="${TOP}" y2="${H - BOTTOM}"/>`;
      parts.plot.innerHTML = `<svg viewBox="0 0 ${W} ${H}" width="${W}" height="${H}">`
        + `${marks.join("")}${names.join("")}${curves.join("")}${guide}</svg>`;
      if (at >= 0) {
        const values = shown.series.filter((s) => known(s.y[at])).map((s) => `${s.name} ${s.y[at]}`);
        parts.output.textContent = `${shown.x[at]}: ${values.join(", ") || "not defined"}`;
      }
    };
    const redraw = () => {
      draw();
      const keys = shown.series.map((s, k) => `<span><svg viewBox="0 0 36 12"><path d="M0 6H36" `
        + `stroke="var(--c${k % 7})" stroke-width="3" stroke-dasharray="${DASHES[k % DASHES.length]}"/>`
        + `</svg> ${escape(s.name)}</span>`);
      parts.legend.innerHTML = `${keys.join("")}<span>${escape(view.label)}</span>`;
    };
    parts.plot.addEventListener("pointermove", (event) => {
      const box = parts.plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * W;
      const far = shown.x.map((_, i) => Math.abs(place(i) - x));
      const next = far.indexOf(Math.min(...far));
      if (next !== at) {
        at = next;
        draw();
      }
    });
    const move = (rows, columns) => {
      at = clamp((at < 0 ? 0 : at) + columns, shown.x.length);
      draw();
    };
    steer(view, parts, move, redraw);
    redraw();
    parts.output.textContent = view.hint;
  };

  for (const view of views) (view.kind === "matrix" ? matrix : lines)(view);
})();
