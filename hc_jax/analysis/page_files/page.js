"use strict";
(() => {
  const views = JSON.parse(document.getElementById("data").textContent);
  const theme = matchMedia("(prefers-color-scheme: dark)");
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  const escape = (text) => String(text).replace(/[&<>"]/g, (c) => entities[c]);
  const known = (v) => v !== null && v !== undefined;
  const say = (v) => (known(v) ? String(v) : "not defined");
  const short = (v) => {
    const size = Math.abs(v), digits = size >= 100 ? 0 : size >= 10 ? 1 : 2;
    return size >= 1e4 || (v !== 0 && size < 0.005) ? v.toExponential(0) : v.toFixed(digits);
  };
  const three = (v) => (Math.abs(v) >= 1e5 ? v.toExponential(2) : String(+v.toPrecision(3)));
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 4", "10 4", "4 2 1 2"];

  let printing = false;
  const dark = () => theme.matches && !printing;
  const LABEL = "12px system-ui, sans-serif", ruler = document.createElement("canvas").getContext("2d");
  // Width of a label in pixels.
  const long = (text) => ((ruler.font = LABEL), ruler.measureText(text).width);
  const longest = (texts) => texts.reduce((most, text) => Math.max(most, long(text)), 0);

  // Ends of the colour scales: purple and orange, which the colour-blind tell apart; or one end,
  // which is dark on a light page and light on a dark page.
  const ramp = () => (dark()
    ? { none: [30, 30, 36], low: [178, 171, 225], high: [253, 174, 84], one: [255, 226, 110] }
    : { none: [247, 247, 247], low: [84, 39, 136], high: [179, 88, 6], one: [0, 42, 92] });
  const blend = (a, b, t) => a.map((x, i) => Math.round(x + (b[i] - x) * t));
  // True if black is easier to read on a colour than white (relative luminance, WCAG).
  const bright = (c) => c.reduce((sum, x, i) => sum + [0.2126, 0.7152, 0.0722][i]
    * (x <= 10 ? x / 3295 : ((x / 255 + 0.055) / 1.055) ** 2.4), 0) > 0.179;
  const rgb = (c) => `rgb(${c.join(",")})`;

  // The ends [lowest, highest] of a view's scale, the same for all its options.
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
      + `</select></label></p><div class="scroll"><div class="plot" tabindex="0" role="application"></div></div>`
      + `<div class="legend"></div><output aria-live="polite"></output>`;
    document.getElementById("views").append(section);
    const [select, plot, legend, output] = ["select", ".plot", ".legend", "output"].map(
      (what) => section.querySelector(what));
    plot.setAttribute("aria-label", `${view.title}. Arrow keys move, the text below reads the value.`);
    // An A4 or letter page has about 700 pixels between its margins.
    const width = () => (printing ? 680 : Math.max(280, section.clientWidth - 4));
    return { select, plot, legend, output, width };
  };

  // Functions that draw again when colours or widths change.
  const drawn = [];

  // Keys move (by rows, by columns) and switch between options.
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
    drawn.push(redraw);
  };
  const clamp = (x, count) => Math.min(count - 1, Math.max(0, x));

  const matrix = (view) => {
    const parts = frame(view), colorOf = scaleOf(view), canvas = document.createElement("canvas");
    const at = { row: 0, column: 0, on: false };
    let shown, cell, tall, left;
    parts.plot.append(canvas);
    // Rows end at the diagonal: there is nothing to point at above it.
    const ends = (row) => Math.max(1, (shown.values[row] || []).length);
    const draw = () => {
      shown = view.options[Number(parts.select.value)];
      const rows = shown.rows.length, columns = shown.columns.length, width = parts.width();
      left = Math.ceil(longest(shown.rowTicks)) + 36;
      cell = Math.max(5, Math.min(44, Math.floor((width - left - 8) / columns)));
      tall = rows === columns ? cell : Math.max(cell, Math.min(30, Math.floor(420 / rows)));
      at.row = clamp(at.row, rows);
      at.column = clamp(at.column, ends(at.row));
      const every = (size) => Math.max(1, Math.ceil(15 / size)), step = every(cell);
      const flat = longest(shown.columnTicks) < cell * step - 6;
      const below = flat ? 24 : Math.ceil(longest(shown.columnTicks) * 0.87) + 20;
      const across = Math.max(left + columns * cell, left + long(shown.across)) + 8;
      const h = Math.max(rows * tall, Math.ceil(long(shown.down))) + below + 20;
      const dots = printing ? 3 : devicePixelRatio || 1, w = Math.ceil(across);
      Object.assign(canvas, { width: w * dots, height: h * dots });
      Object.assign(canvas.style, { width: `${w}px`, height: `${h}px`, display: "block" });
      const pen = canvas.getContext("2d");
      pen.scale(dots, dots);
      pen.font = "11px system-ui, sans-serif";
      pen.textBaseline = "middle";
      shown.values.forEach((row, r) => row.forEach((v, c) => {
        if (!known(v)) return;
        const color = colorOf(v);
        pen.fillStyle = rgb(color);
        pen.fillRect(left + c * cell, r * tall, cell - (cell > 8), tall - (tall > 8));
        if (cell < 34) return;
        pen.fillStyle = bright(color) ? "#000" : "#fff";
        pen.textAlign = "center";
        pen.fillText(short(v), left + (c + 0.5) * cell, (r + 0.5) * tall);
      }));
      pen.font = LABEL;
      pen.fillStyle = css("--soft");
      pen.textAlign = "right";
      shown.rowTicks.forEach((text, r) => {
        if (r % every(tall) === 0) pen.fillText(text, left - 6, Math.max(7, (r + 0.5) * tall));
      });
      const turned = (text, x, y, angle) => {
        pen.save();
        pen.translate(x, y);
        pen.rotate(angle);
        pen.fillText(text, 0, 0);
        pen.restore();
      };
      if (flat) pen.textAlign = "center";
      shown.columnTicks.forEach((text, c) => {
        if (c % step !== 0) return;
        turned(text, left + (c + 0.5) * cell, rows * tall + (flat ? 12 : 8), flat ? 0 : -Math.PI / 3);
      });
      pen.fillStyle = css("--fg");
      pen.textAlign = "left";
      pen.fillText(shown.across, left, rows * tall + below + 8);
      pen.textAlign = "right";
      turned(shown.down, 9, 0, -Math.PI / 2);
      if (!at.on || printing) return;
      pen.strokeStyle = css("--fg");
      pen.lineWidth = 2;
      pen.strokeRect(left + at.column * cell, at.row * tall, cell - 1, tall - 1);
      const value = (shown.values[at.row] || [])[at.column];
      parts.output.textContent = view.say.replace("{c}", shown.columns[at.column])
        .replace("{r}", shown.rows[at.row]).replace("{v}", say(value));
    };
    const go = (row, column) => {
      Object.assign(at, { row: clamp(row, shown.rows.length), on: true });
      at.column = clamp(column, ends(at.row));
      draw();
    };
    const point = (event) => {
      const row = Math.floor(event.offsetY / tall), column = Math.floor((event.offsetX - left) / cell);
      if (row < 0 || column < 0 || row >= shown.rows.length || column >= ends(row)) return;
      if (row !== at.row || column !== at.column || !at.on) go(row, column);
    };
    for (const what of ["pointermove", "pointerdown"]) canvas.addEventListener(what, point);
    const redraw = () => {
      draw();
      const [low, high] = bounds(view), middle = view.scale === "signed" ? 0 : Math.sqrt(low * high);
      const colors = [low, middle, high].map((v) => rgb(colorOf(v))).join(",");
      parts.legend.innerHTML = `<span>${three(low)}</span><span class="ramp" `
        + `style="background:linear-gradient(90deg,${colors})"></span>`
        + `<span>${three(high)}</span><span>${escape(view.label)}</span>`;
    };
    steer(view, parts, (rows, columns) => go(at.row + rows, at.column + columns), redraw);
    redraw();
    parts.output.textContent = view.hint;
  };

  const ticks = (low, high, log) => {
    if (log) {
      const every = Math.max(1, Math.ceil((high - low) / 6)), found = [];
      for (let p = Math.ceil(low - 1e-9); p <= high + 1e-9; p += every) found.push(p);
      // An axis of a power or two of ten gets round numbers, because powers alone would be too few.
      const round = () => ticks(10 ** low, 10 ** high, false).filter((v) => v > 0).map(Math.log10);
      return found.length > 2 ? found : round();
    }
    const raw = (high - low) / 7, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((s) => s * power >= raw);
    const found = [];
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(v);
    return found;
  };

  const lines = (view) => {
    const parts = frame(view), H = 360, LEFT = 60, RIGHT = 16, TOP = 30;
    let shown, W, at = -1;
    const place = (i) => {
      const x = shown.positions || shown.x.map((_, k) => k), span = x[x.length - 1] - x[0] || 1;
      return LEFT + ((x[i] - x[0]) / span) * (W - LEFT - RIGHT);
    };
    const draw = () => {
      shown = view.options[Number(parts.select.value)];
      at = Math.min(at, shown.x.length - 1);
      W = Math.min(parts.width(), 900);
      const name = (text, x, y) => `<text x="${x}" y="${y}" text-anchor="middle">${escape(text)}</text>`;
      const wide = (W - LEFT - RIGHT) / Math.max(1, shown.x.length - 1);
      const turned = !shown.positions && longest(shown.ticks) > wide - 8;
      const BOTTOM = turned ? Math.ceil(longest(shown.ticks) * 0.87) + 40 : 48, base = H - BOTTOM;
      const to = (v) => (shown.log ? Math.log10(Math.max(v, 1e-9)) : v);
      const all = shown.series.flatMap((s) => s.y).filter(known).map(to);
      let low = all.reduce((a, b) => Math.min(a, b)), high = all.reduce((a, b) => Math.max(a, b));
      const room = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
      low -= room;
      high += room;
      const height = (v) => TOP + ((high - v) / (high - low)) * (base - TOP);
      const marks = ticks(low, high, shown.log).map((v) => {
        const text = shown.log ? three(10 ** v) : String(+v.toPrecision(6));
        return `<line class="grid" x1="${LEFT}" x2="${W - RIGHT}" y1="${height(v)}" y2="${height(v)}"/>`
          + `<text x="${LEFT - 6}" y="${height(v) + 4}" text-anchor="end">${text}</text>`;
      });
      let names;
      if (shown.positions) {
        const [first, last] = [shown.positions[0], shown.positions.at(-1)];
        const steps = last > first ? ticks(first, last, false).filter(Number.isInteger) : [first];
        const px = (v) => LEFT + ((v - first) / (last - first || 1)) * (W - LEFT - RIGHT);
        names = steps.map((v) => name(v, px(v), base + 18));
      } else {
        const every = Math.max(1, Math.ceil((turned ? 15 : 0) / wide));
        names = shown.ticks.map((text, i) => (i % every ? "" : turned
          ? `<text transform="translate(${place(i)},${base + 14}) rotate(-60)" text-anchor="end">`
            + `${escape(text)}</text>` : name(text, place(i), base + 18)));
      }
      const titles = `<text class="title" x="4" y="14">${escape(shown.label)}${shown.log
        ? ", logarithmic axis" : ""}</text><text class="title" x="${(LEFT + W - RIGHT) / 2}" y="${H - 6}" `
        + `text-anchor="middle">${escape(shown.across)}</text>`;
      const curves = shown.series.map((s, k) => {
        const points = s.y.map((v, i) => (known(v) ? [place(i), height(to(v))] : null)).filter(known);
        const color = `var(--c${k % 7})`, dash = DASHES[k % DASHES.length];
        const path = points.map((p) => p.map((x) => x.toFixed(1)).join(",")).join(" ");
        return `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="1.8" `
          + `stroke-dasharray="${dash}"/>` + (points.length > 80 ? "" : points.map((p) =>
          `<circle cx="${p[0].toFixed(1)}" cy="${p[1].toFixed(1)}" r="2.6" fill="${color}"/>`).join(""));
      });
      const guide = at < 0 || printing ? ""
        : `<line class="guide" x1="${place(at)}" x2="${place(at)}" y1="${TOP}" y2="${base}"/>`;
      parts.plot.innerHTML = `<svg viewBox="0 0 ${W} ${H}" width="${W}" height="${H}">`
        + `${marks.join("")}${names.join("")}${titles}${curves.join("")}${guide}</svg>`;
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
      parts.legend.innerHTML = keys.join("");
    };
    const point = (event) => {
      const box = parts.plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * W;
      const far = shown.x.map((_, i) => Math.abs(place(i) - x));
      const next = far.indexOf(Math.min(...far));
      if (next !== at) {
        at = next;
        draw();
      }
    };
    for (const what of ["pointermove", "pointerdown"]) parts.plot.addEventListener(what, point);
    const move = (rows, columns) => {
      at = clamp((at < 0 ? 0 : at) + columns, shown.x.length);
      draw();
    };
    steer(view, parts, move, redraw);
    redraw();
    parts.output.textContent = view.hint;
  };

  const again = () => drawn.forEach((redraw) => redraw());
  theme.addEventListener("change", again);
  let wide = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== wide) requestAnimationFrame(again);
    wide = innerWidth;
  });
  // Print in light colours, as wide as the paper, sharp, with the definitions open.
  const folded = [...document.querySelectorAll("details:not([open])")];
  for (const [what, on] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(what, () => {
      printing = on;
      document.documentElement.classList.toggle("print", on);
      folded.forEach((one) => one.toggleAttribute("open", on));
      again();
    });
  }

  for (const view of views) (view.kind === "matrix" ? matrix : lines)(view);
})();
