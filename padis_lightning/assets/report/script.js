"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const grid = find("panels"), list = find("list");
  const [BLUE, WHITE, ORANGE] = [[0, 90, 181], [255, 255, 255], [220, 90, 0]];
  const LARGEST = 32; // zoom
  const span = data.upper - data.lower;
  const step = 10 ** Math.floor(Math.log10(span / 500));
  const digits = Math.max(0, 1 - Math.round(Math.log10(step))); // of a value that is read
  const limits = { level: [data.lower, data.upper], width: [step, 2 * span] };
  const state = { current: -1, level: 0, width: 1, scale: data.error_scale, all: false, zoom: 1, left: 0, top: 0 };
  let shown = []; // panels of the current image
  let pointed = null; // where the pointer is: a panel's number and shares of its width and height

  // A panel's values, channel by channel: 16-bit codes lie in red and green, colours are 8-bit.
  async function decode(panel) {
    const image = new Image();
    image.src = panel.png;
    await image.decode();
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const bytes = context.getImageData(0, 0, width, height).data;
    const count = width * height, range = panel.upper - panel.lower;
    const channel = (read, top) => Float64Array.from({ length: count }, (_, i) => panel.lower + (read(4 * i) / top) * range);
    const values = panel.colour
      ? [0, 1, 2].map((c) => channel((i) => bytes[i + c], 255))
      : [channel((i) => 256 * bytes[i] + bytes[i + 1], 65535)];
    const grey = values.length > 1 ? values[0].map((_, i) => (values[0][i] + values[1][i] + values[2][i]) / 3) : values[0];
    return { ...panel, width, height, values, grey };
  }

  // Panels with what they show: methods get their error where there is a truth, an error panel that of its subject.
  async function prepare(image) {
    const panels = await Promise.all(image.panels.map((panel) => (panel.png ? decode(panel) : { ...panel })));
    const truth = panels.find((panel) => panel.kind === "truth");
    for (const panel of panels)
      if (truth && isMethod(panel)) panel.error = panel.grey.map((x, i) => x - truth.grey[i]);
    return panels.map((panel) => (panel.kind === "error" ? { ...panels[panel.of], note: "", ...panel } : panel));
  }

  const isMethod = (panel) => panel.kind === "baseline" || panel.kind === "estimate";
  const isError = (panel) => panel.kind === "error" || (state.all && isMethod(panel) && panel.error);
  const isLinked = (panel) => panel.kind !== "measurement";
  const visible = (panel) => (isError(panel) ? panel.error : panel.grey);

  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  function ends(panel) {
    if (panel.kind === "deviation") return [0, state.scale];
    if (panel.kind === "measurement") return [panel.lower, panel.upper];
    return [state.level - state.width / 2, state.level + state.width / 2];
  }

  function paint(panel) {
    const context = panel.canvas.getContext("2d");
    const image = context.createImageData(panel.width, panel.height), out = image.data;
    const [low, high] = ends(panel), error = isError(panel);
    for (let i = 0, k = 0; k < out.length; i++, k += 4) {
      if (error) {
        const share = clamp(panel.error[i] / state.scale, -1, 1), end = share < 0 ? BLUE : ORANGE;
        for (let c = 0; c < 3; c++) out[k + c] = Math.round(WHITE[c] + Math.abs(share) * (end[c] - WHITE[c]));
      } else {
        for (let c = 0; c < 3; c++) {
          const share = (panel.values[panel.values.length > 1 ? c : 0][i] - low) / (high - low);
          out[k + c] = Math.round(255 * clamp(share, 0, 1));
        }
      }
      out[k + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    legend(panel, error);
  }

  const said = (x, signed) => (signed && x > 0 ? "+" : "") + x.toFixed(digits).replace("-", "\u2212");
  const short = (x) => String(Number(x.toPrecision(3))).replace("-", "\u2212");
  const unit = (panel) => (panel.kind === "measurement" || !data.units ? "" : " " + data.units);

  function element(tag, name, ...children) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.append(...children);
    return made;
  }

  function legend(panel, error) {
    const scale = short(state.scale) + unit(panel), ramp = element("i", "ramp " + (error ? "diverging" : "plain"));
    if (error) panel.legend.replaceChildren("\u2212" + short(state.scale), ramp, "+" + scale);
    else if (panel.kind === "deviation") panel.legend.replaceChildren("0", ramp, scale);
    else if (panel.kind === "measurement")
      panel.legend.replaceChildren(short(panel.lower), ramp, `${short(panel.upper)}, ${panel.height} \u00d7 ${panel.width}`);
    else panel.legend.replaceChildren();
  }

  function figure(panel, name) {
    panel.canvas = Object.assign(document.createElement("canvas"), { width: panel.width, height: panel.height });
    panel.canvas.setAttribute("role", "img");
    panel.canvas.setAttribute("aria-label", `${panel.title} of image ${name}`);
    panel.frame = element("div", isLinked(panel) ? "frame linked" : "frame", panel.canvas, element("i", "mark"));
    panel.legend = element("span");
    panel.read = element("span", "read");
    const caption = element("figcaption", "", panel.title, element("span", "", panel.note || ""));
    return element("figure", panel.kind, caption, panel.frame, element("div", "below", panel.legend, panel.read));
  }

  function repaint() {
    shown.forEach(paint);
    readAgain();
  }

  // Images: by the list, the table and the keyboard.
  async function choose(index) {
    if (index < 0 || index >= data.images.length || index === state.current) return;
    state.current = list.selectedIndex = index;
    const image = data.images[index];
    const prepared = await prepare(image);
    if (state.current !== index) return; // another was chosen meanwhile
    shown = prepared;
    const whole = shown.find(isLinked);
    const figures = shown.map((panel) => figure(panel, image.name));
    for (const panel of shown) panel.frame.style.aspectRatio = `${whole.width} / ${whole.height}`;
    const errors = figures.filter((f) => f.className === "error");
    if (errors.length) errors[0].classList.add("first");
    grid.classList.toggle("columns", errors.length > 1 && errors.length < 5); // each error under its estimate
    grid.style.setProperty("--columns", errors.length + 1);
    grid.replaceChildren(...figures);
    repaint();
    grid.dataset.image = image.name;
    find("position").textContent = `${index + 1} of ${data.images.length}`;
    for (const row of document.querySelectorAll("#scores tbody tr"))
      row.dataset.name === image.name ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
  }

  const place = Object.fromEntries(data.images.map((image, k) => [image.name, k]));
  list.addEventListener("change", () => choose(list.selectedIndex));
  find("previous").addEventListener("click", () => choose(state.current - 1));
  find("next").addEventListener("click", () => choose(state.current + 1));
  for (const row of document.querySelectorAll("#scores tbody tr")) {
    if (!(row.dataset.name in place)) continue;
    row.classList.add("pictured");
    row.addEventListener("click", () => choose(place[row.dataset.name]));
  }

  // Window and level.
  const inputs = (key) => [find(key), find(key).nextElementSibling];
  function setWindow(level, width) {
    if (!Number.isFinite(level) || !Number.isFinite(width)) return;
    Object.assign(state, { level, width: Math.max(width, step) });
    for (const key of ["level", "width"])
      for (const input of inputs(key))
        if (input !== document.activeElement || input.type === "range") input.value = Number(state[key].toPrecision(6)); // typing goes on
    for (const button of find("presets").children)
      button.setAttribute("aria-pressed", String(button.dataset.window === String([state.level, state.width])));
    repaint();
  }
  for (const key of ["level", "width"])
    for (const input of inputs(key)) {
      Object.assign(input, input.type === "range" ? { min: limits[key][0], max: limits[key][1], step } : { step });
      input.addEventListener("input", () => {
        if (input.value !== "") setWindow(...["level", "width"].map((k) => (k === key ? input.valueAsNumber : state[k])));
      });
    }
  for (const [name, preset] of Object.entries(data.presets)) {
    const button = element("button", "", name);
    button.type = "button";
    button.dataset.window = String(preset);
    button.addEventListener("click", () => setWindow(...preset));
    find("presets").append(button);
  }
  for (const label of document.querySelectorAll(".units")) label.textContent = data.units ? `(${data.units})` : "";

  // Errors.
  find("scale").value = Number(state.scale.toPrecision(6));
  find("scale").step = step;
  find("scale").addEventListener("input", (event) => {
    if (event.target.valueAsNumber > 0) state.scale = event.target.valueAsNumber;
    repaint();
  });
  find("all").addEventListener("change", (event) => {
    state.all = event.target.checked;
    repaint();
  });

  // Zoom: one part of the field is visible in all panels, given by its left and top as shares of the whole.
  function look(zoom, left, top) {
    state.zoom = clamp(zoom, 1, LARGEST);
    const most = 1 - 1 / state.zoom;
    Object.assign(state, { left: clamp(left, 0, most), top: clamp(top, 0, most) });
    grid.style.setProperty("--zoom", state.zoom);
    grid.style.setProperty("--x", `${-100 * state.left * state.zoom}%`);
    grid.style.setProperty("--y", `${-100 * state.top * state.zoom}%`);
    grid.classList.toggle("zoomed", state.zoom > 1);
    find("zoom").textContent = `${Math.round(100 * state.zoom)}\u2009%`;
    readAgain();
  }
  // The point at shares (across, down) of a panel stays where it is.
  function zoomAt(factor, across = 0.5, down = 0.5) {
    const zoom = clamp(state.zoom * factor, 1, LARGEST), change = 1 / state.zoom - 1 / zoom;
    look(zoom, state.left + across * change, state.top + down * change);
  }
  const pan = (across, down) => look(state.zoom, state.left + across / state.zoom, state.top + down / state.zoom);
  find("in").addEventListener("click", () => zoomAt(2));
  find("out").addEventListener("click", () => zoomAt(0.5));
  find("whole").addEventListener("click", () => look(1, 0, 0));

  const shares = (event, frame) => {
    const box = frame.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const linkedFrame = (event) => event.target.closest && event.target.closest(".linked");
  grid.addEventListener("wheel", (event) => {
    const frame = linkedFrame(event);
    if (!frame || (event.deltaY > 0 && state.zoom === 1)) return; // at the end of zooming out the page scrolls
    event.preventDefault();
    zoomAt(Math.exp(-clamp(event.deltaY, -120, 120) / 300), ...shares(event, frame));
  }, { passive: false });

  let dragged = null;
  grid.addEventListener("pointerdown", (event) => {
    const frame = linkedFrame(event);
    if (!frame || state.zoom === 1 || event.button !== 0) return;
    dragged = { frame, from: shares(event, frame) };
    frame.setPointerCapture(event.pointerId);
  });
  for (const kind of ["pointerup", "pointercancel"]) grid.addEventListener(kind, () => { dragged = null; });
  grid.addEventListener("pointermove", (event) => {
    if (dragged) {
      const to = shares(event, dragged.frame);
      pan(dragged.from[0] - to[0], dragged.from[1] - to[1]);
      dragged.from = to;
    }
    const panel = shown.find((p) => p.frame.contains(event.target));
    if (panel) read(panel, ...shares(event, panel.frame)); else unread();
  });
  grid.addEventListener("pointerleave", unread);

  // Values under the pointer, in all panels that show the same place.
  function readAgain() {
    const [over, ...place] = pointed || [];
    if (shown[over]) read(shown[over], ...place);
  }
  function unread() {
    pointed = null;
    grid.classList.remove("pointing");
    for (const panel of shown) panel.read.textContent = "";
    find("pointer").textContent = "";
  }
  function read(over, across, down) {
    unread();
    pointed = [shown.indexOf(over), across, down];
    const linked = isLinked(over);
    const [right, low] = linked ? [state.left + across / state.zoom, state.top + down / state.zoom] : [across, down];
    if (!(right >= 0 && right < 1 && low >= 0 && low < 1)) return;
    const pixel = (panel) => [Math.floor(low * panel.height), Math.floor(right * panel.width)];
    for (const panel of linked ? shown.filter(isLinked) : [over]) {
      const [row, column] = pixel(panel), i = row * panel.width + column;
      const x = visible(panel)[i];
      panel.read.textContent = isLinked(panel) ? said(x, isError(panel)) + unit(panel) : x.toPrecision(3);
    }
    const [row, column] = pixel(over);
    find("pointer").textContent = `row ${row}, column ${column}`;
    grid.classList.toggle("pointing", linked);
    grid.style.setProperty("--across", `${100 * across}%`);
    grid.style.setProperty("--down", `${100 * down}%`);
  }

  // The table.
  for (const header of document.querySelectorAll("#scores thead th")) {
    header.firstChild.addEventListener("click", () => {
      const body = header.closest("table").tBodies[0], down = header.getAttribute("aria-sort") === "ascending";
      for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[header.cellIndex], number = cell.dataset.key;
        return number === undefined ? cell.textContent : Number(number);
      };
      const order = (a, b) => {
        if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // what is missing stays at the end
        return (a > b ? 1 : a < b ? -1 : 0) * (down ? -1 : 1);
      };
      body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
    });
  }

  document.addEventListener("keydown", (event) => {
    const on = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || on.type === "number") return;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (arrow && (on === list || on.type === "range")) return; // they move there
    if (arrow && event.shiftKey && state.zoom > 1) pan(arrow[0] / 8, arrow[1] / 8);
    else if (arrow && !event.shiftKey && arrow[0]) choose(state.current + arrow[0]);
    else if (event.key === "+" || event.key === "=") zoomAt(2);
    else if (event.key === "-") zoomAt(0.5);
    else if (event.key === "0") look(1, 0, 0);
    else if (event.key === "e") find("all").click();
    else return;
    event.preventDefault();
  });

  setWindow((data.window[0] + data.window[1]) / 2, data.window[1] - data.window[0]);
  find("viewer").hidden = data.images.length === 0;
  const scaled = (image) => image.panels.some((panel) => panel.kind === "error" || panel.kind === "deviation");
  find("errors").hidden = !data.images.some(scaled);
  choose(0);
})();
