"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const grid = find("panels"), list = find("list");
  const [BLUE, WHITE, ORANGE] = [[0, 90, 181], [255, 255, 255], [220, 90, 0]];
  const LARGEST = 32; // zoom
  const DARK = 0.25; // share of the window below which phases are dimmed
  const VIEWS = { axial: [0, 1, 2], coronal: [1, 0, 2], sagittal: [2, 0, 1] }; // axes: of the plane's number, down, across
  const names = Object.keys(VIEWS);
  const isVolume = (panel) => "extent" in panel;
  const span = data.upper - data.lower;
  const step = 10 ** Math.floor(Math.log10(span / 500));
  const coarse = data.images.some((image) => image.panels.some(isVolume)); // in 256 steps
  const digits = Math.max(0, coarse ? Math.ceil(-Math.log10(span / 255)) : 1 - Math.round(Math.log10(step))); // of a value
  const limits = { level: [data.lower, data.upper], width: [step, 2 * span] };
  const state = {
    current: -1, level: 0, width: 1, scale: data.error_scale, all: false, zoom: 1,
    corner: [0, 0, 0], // what is visible begins at these shares of the axes, from the last slice on
    planes: [0, 0, 0], size: [1, 1, 1], view: "all",
  };
  let shown = []; // what is drawn: planes of the panels of the current image
  let pointed = null; // where the pointer is: a number in shown and shares of its width and height

  // A panel with its codes, channel by channel: those of 16 bits lie in red and green, slices of a volume in rows.
  async function decode(panel) {
    const image = new Image();
    image.src = panel.png;
    await image.decode();
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const bytes = context.getImageData(0, 0, width, height).data;
    const size = panel.shape || [1, height, width], [depth, rows, columns] = size;
    const fine = !panel.colour && !panel.shape, beside = width / columns;
    const channels = (panel.colour ? [0, 1, 2] : [0]).map((c) => {
      const codes = new (fine ? Uint16Array : Uint8Array)(depth * rows * columns);
      for (let z = 0, k = 0; z < depth; z++)
        for (let y = 0; y < rows; y++) {
          let i = 4 * ((Math.floor(z / beside) * rows + y) * width + (z % beside) * columns);
          for (let x = 0; x < columns; x++, i += 4) codes[k++] = fine ? 256 * bytes[i] + bytes[i + 1] : bytes[i + c];
        }
      return codes;
    });
    return { ...panel, size, channels, top: fine ? 65535 : 255, extent: panel.extent || size };
  }

  // A plane of a panel, channel by channel and their mean; the last slice is on top.
  function cut(panel, view) {
    const { size, lower, top } = panel, range = panel.upper - lower;
    const [fixed, down, across] = VIEWS[view], steps = [size[1] * size[2], size[2], 1];
    const first = Math.min(state.planes[fixed], size[fixed] - 1) * steps[fixed];
    const values = panel.channels.map((codes) => {
      const out = new Float64Array(size[down] * size[across]);
      for (let row = 0, k = 0; row < size[down]; row++) {
        const start = first + flipped(size, down, row) * steps[down];
        for (let column = 0; column < size[across]; column++)
          out[k++] = lower + (codes[start + column * steps[across]] / top) * range;
      }
      return out;
    });
    const grey = values.length > 1 ? values[0].map((_, i) => (values[0][i] + values[1][i] + values[2][i]) / 3) : values[0];
    return { values, grey };
  }
  const flipped = (size, axis, place) => (axis === 0 ? size[0] - 1 - place : place);

  // Cut what is drawn out of its volume: methods get their error where there is a truth.
  function refresh(tile) {
    Object.assign(tile, cut(tile, tile.view));
    if (tile.magnitude) tile.sizes = cut(tile.magnitude, tile.view).grey;
    if (!tile.truth) return;
    const truth = cut(tile.truth, tile.view).grey;
    tile.error = tile.grey.map((x, i) => x - truth[i]);
  }

  // What is drawn of an image: a plane of each panel, of volumes three; an error panel is drawn from its subject.
  async function prepare(image) {
    const panels = await Promise.all(image.panels.map((panel) => (panel.png ? decode(panel) : panel)));
    const truth = panels.find((panel) => panel.kind === "truth");
    return panels.map((panel) => {
      const full = panel.kind === "error" ? { ...panels[panel.of], note: "", ...panel } : panel;
      const views = full.shape ? names : names.slice(0, 1);
      return views.map((view) => {
        const [, down, across] = VIEWS[view];
        const compared = truth && (isMethod(full) || full.kind === "error") ? { truth } : {};
        const dimmed = full.kind === "phase" ? { magnitude: panels[full.of] } : {};
        return { ...full, ...compared, ...dimmed, view, height: full.size[down], width: full.size[across] };
      });
    });
  }

  const isMethod = (panel) => ["baseline", "estimate", "sample"].includes(panel.kind);
  const isPicture = (panel) => isMethod(panel) || panel.kind === "truth" || panel.kind === "degraded";
  const isError = (panel) => panel.kind === "error" || (state.all && isMethod(panel) && panel.error);
  const isLinked = (panel) => panel.kind !== "measurement";
  const hue = (phase, c) => 0.5 + 0.5 * Math.cos(phase - (2 * Math.PI * c) / 3); // red, green or blue, the same a turn later
  const visible = (panel) => (isError(panel) ? panel.error : panel.grey);

  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  function ends(panel) {
    if (panel.kind === "deviation" || panel.kind === "interval") return [0, state.scale];
    if (panel.kind === "risk") return [0, 100];
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
      } else if (panel.sizes) {
        const light = clamp((panel.sizes[i] - low) / (high - low) / DARK, 0, 1);
        for (let c = 0; c < 3; c++) out[k + c] = Math.round(255 * light * hue(panel.grey[i], c));
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

  const said = (x, signed, places) => (signed && x > 0 ? "+" : "") + x.toFixed(places).replace("-", "\u2212");
  const short = (x) => String(Number(x.toPrecision(3))).replace("-", "\u2212");
  const unit = (panel) =>
    ({ risk: " %", phase: " rad", measurement: "" })[panel.kind] ?? (data.units ? " " + data.units : "");

  const inputs = (key) => [find(key), find(key).nextElementSibling]; // a slider and its number
  function element(tag, name, ...children) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.append(...children);
    return made;
  }

  function legend(panel, error) {
    const scale = short(state.scale) + unit(panel), ramp = element("i", "ramp " + (error ? "diverging" : "plain"));
    if (error) panel.legend.replaceChildren("\u2212" + short(state.scale), ramp, "+" + scale);
    else if (panel.kind === "deviation" || panel.kind === "interval") panel.legend.replaceChildren("0", ramp, scale);
    else if (panel.sizes) panel.legend.replaceChildren("\u2212\u03c0", element("i", "ramp cyclic"), "\u03c0");
    else if (panel.kind === "risk") panel.legend.replaceChildren("0", ramp, "100 %");
    else if (panel.kind === "measurement")
      panel.legend.replaceChildren(short(panel.lower), ramp, `${short(panel.upper)}, ${panel.height} \u00d7 ${panel.width}`);
    else panel.legend.replaceChildren();
  }

  function figure(tiles, name) {
    const [{ kind, title, note }] = tiles, legend = element("span"), read = element("span", "read");
    for (const tile of tiles) {
      tile.canvas = Object.assign(document.createElement("canvas"), { width: tile.width, height: tile.height });
      tile.canvas.setAttribute("role", "img");
      tile.canvas.setAttribute("aria-label", `${title} of image ${name}${tile.shape ? ", " + tile.view : ""}`);
      const kinds = isLinked(tile) ? `frame linked ${tile.view}` : "frame";
      Object.assign(tile, { legend, read, frame: element("div", kinds, tile.canvas, element("i", "mark")) });
      if (tile.shape) tile.frame.append(element("span", "view", tile.view));
    }
    const caption = element("figcaption", "", title, element("span", "", note || ""));
    return element("figure", kind, caption, ...tiles.map((tile) => tile.frame), element("div", "below", legend, read));
  }

  const slider = makeSlider(element);
  function slide() {
    if (find("sliding").checked && !find("comparing").hidden) grid.prepend(slider.figure);
    else slider.figure.remove();
    slider.paint();
  }
  find("sliding").checked = data.images.some((image) => image.panels.some((panel) => panel.colour));
  find("sliding").addEventListener("change", slide);

  function repaint() {
    shown.forEach(paint);
    slider.paint();
    readAgain();
  }

  // Images: by the list, the table and the keyboard.
  async function choose(index) {
    if (index < 0 || index >= data.images.length || index === state.current) return;
    state.current = list.selectedIndex = index;
    const image = data.images[index];
    const prepared = await prepare(image);
    if (state.current !== index) return; // another was chosen meanwhile
    shown = prepared.flat();
    const whole = shown.find(isLinked);
    begin(whole.size);
    const figures = prepared.map((tiles) => figure(tiles, image.name));
    for (const tile of shown) {
      const [, down, across] = VIEWS[tile.view];
      tile.frame.style.aspectRatio = `${whole.extent[across]} / ${whole.extent[down]}`;
    }
    const errors = figures.filter((f) => f.className === "error");
    if (errors.length) errors[0].classList.add("first");
    grid.style.setProperty("--columns", errors.length + 1);
    grid.replaceChildren(...figures);
    arrange();
    shown.forEach(refresh);
    const pictures = shown.filter(isPicture);
    find("comparing").hidden = pictures.length < 2 || Boolean(whole.shape);
    slider.offer(pictures, whole.extent[2] / whole.extent[1]);
    slide();
    repaint();
    grid.dataset.image = image.name;
    find("position").textContent = `${index + 1} of ${data.images.length}`;
    for (const row of document.querySelectorAll("#scores tbody tr"))
      row.dataset.name === image.name ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
  }

  // Volumes: every plane of a view in all panels, and the views beside each other or one of them.
  function begin(size) {
    const other = String(size) !== String(state.size);
    Object.assign(state, { size, planes: other ? size.map((n) => Math.floor(n / 2)) : state.planes });
    names.forEach((view, axis) => {
      for (const input of inputs(view)) Object.assign(input, { min: 0, max: size[axis] - 1, step: 1, value: state.planes[axis] });
    });
  }
  function arrange() {
    const whole = shown.find(isLinked), volume = Boolean(whole.shape), stacked = volume && state.view === "all";
    const errors = grid.querySelectorAll("figure.error").length;
    const widths = names.map((view) => whole.extent[VIEWS[view][2]]), narrow = Math.min(...widths);
    grid.classList.toggle("stacked", stacked);
    grid.classList.toggle("columns", !stacked && errors > 1 && errors < 5); // each error under its estimate
    grid.style.setProperty("--views", widths.map((width) => `minmax(0, ${width / narrow}fr)`).join(" "));
    for (const tile of shown) tile.frame.hidden = volume && !stacked && isLinked(tile) && tile.view !== state.view;
    for (const button of find("views").children)
      button.setAttribute("aria-pressed", String(button.textContent === state.view));
    find("planes").hidden = !volume;
  }
  for (const view of ["all", ...names]) {
    const button = element("button", "", view);
    button.type = "button";
    button.addEventListener("click", () => {
      state.view = view;
      arrange();
      readAgain();
    });
    find("views").append(button);
  }
  function turn(view, number) {
    const axis = VIEWS[view][0];
    if (!Number.isFinite(number)) return;
    state.planes[axis] = clamp(Math.round(number), 0, state.size[axis] - 1);
    for (const input of inputs(view))
      if (input !== document.activeElement || input.type === "range") input.value = state.planes[axis]; // typing goes on
    for (const tile of shown.filter((tile) => tile.view === view && tile.shape)) {
      refresh(tile);
      paint(tile);
    }
    readAgain();
  }
  for (const view of names)
    for (const input of inputs(view)) input.addEventListener("input", () => turn(view, input.valueAsNumber));

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

  // Zoom: one part of the field is visible in all panels and views, given by its corner in shares of the axes.
  function look(zoom, corner) {
    state.zoom = clamp(zoom, 1, LARGEST);
    state.corner = corner.map((share) => clamp(share, 0, 1 - 1 / state.zoom));
    grid.style.setProperty("--zoom", state.zoom);
    state.corner.forEach((share, axis) => grid.style.setProperty(`--axis${axis}`, `${-100 * share * state.zoom}%`));
    grid.classList.toggle("zoomed", state.zoom > 1);
    find("zoom").textContent = `${Math.round(100 * state.zoom)}\u2009%`;
    readAgain();
  }
  // Shares across and down a view as shares of the axes; of the third a given one.
  function along(view, [right, low], other) {
    const [, down, across] = VIEWS[view];
    return state.size.map((_, axis) => ({ [down]: low, [across]: right })[axis] ?? other);
  }
  // What is at these shares of the visible part stays where it is.
  function zoomAt(factor, shares = [0.5, 0.5, 0.5]) {
    const zoom = clamp(state.zoom * factor, 1, LARGEST), change = 1 / state.zoom - 1 / zoom;
    look(zoom, state.corner.map((share, axis) => share + shares[axis] * change));
  }
  function pan(view, by) {
    const moved = along(view, by, 0);
    look(state.zoom, state.corner.map((share, axis) => share + moved[axis] / state.zoom));
  }
  find("in").addEventListener("click", () => zoomAt(2));
  find("out").addEventListener("click", () => zoomAt(0.5));
  find("whole").addEventListener("click", () => look(1, [0, 0, 0]));

  const shares = (event, frame) => {
    const box = frame.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const under = (event) => {
    if (slider.frame.contains(event.target)) return { ...shown.find(isLinked), frame: slider.frame };
    return shown.find((tile) => tile.frame.contains(event.target));
  };
  grid.addEventListener("wheel", (event) => {
    const tile = under(event);
    if (!tile || !isLinked(tile) || (event.deltaY > 0 && state.zoom === 1)) return; // at the end of zooming out the page scrolls
    event.preventDefault();
    zoomAt(Math.exp(-clamp(event.deltaY, -120, 120) / 300), along(tile.view, shares(event, tile.frame), 0.5));
  }, { passive: false });

  let dragged = null;
  grid.addEventListener("pointerdown", (event) => {
    const tile = under(event);
    if (!tile || !isLinked(tile) || state.zoom === 1 || event.button !== 0 || event.target.type === "range") return;
    dragged = { tile, from: shares(event, tile.frame) };
    tile.frame.setPointerCapture(event.pointerId);
  });
  for (const kind of ["pointerup", "pointercancel"]) grid.addEventListener(kind, () => { dragged = null; });
  grid.addEventListener("pointermove", (event) => {
    if (dragged) {
      const to = shares(event, dragged.tile.frame);
      pan(dragged.tile.view, [dragged.from[0] - to[0], dragged.from[1] - to[1]]);
      dragged.from = to;
    }
    const tile = under(event);
    if (tile) read(tile, ...shares(event, tile.frame)); else unread();
  });
  grid.addEventListener("pointerleave", unread);

  // Values under the pointer, in all panels that show the same place.
  function readAgain() {
    const [over, ...place] = pointed || [];
    if (shown[over] && !shown[over].frame.hidden) read(shown[over], ...place);
  }
  function unread() {
    pointed = null;
    for (const tile of shown) {
      tile.frame.classList.remove("pointed");
      tile.read.textContent = "";
    }
    find("pointer").textContent = "";
  }
  function read(over, right, low) {
    unread();
    pointed = [shown.indexOf(over), right, low];
    const linked = isLinked(over), [fixed, down, across] = VIEWS[over.view];
    const seen = (share, axis) => (linked ? state.corner[axis] + share / state.zoom : share);
    const [x, y] = [seen(right, across), seen(low, down)];
    if (!(x >= 0 && x < 1 && y >= 0 && y < 1)) return;
    const pixel = (tile) => [Math.floor(y * tile.height), Math.floor(x * tile.width)];
    for (const tile of linked ? shown.filter((one) => isLinked(one) && one.view === over.view) : [over]) {
      const [row, column] = pixel(tile), value = visible(tile)[row * tile.width + column];
      const text = isLinked(tile) ? said(value, isError(tile), tile.sizes ? 2 : digits) : value.toPrecision(3);
      tile.read.textContent = text + unit(tile);
      tile.frame.classList.toggle("pointed", linked);
    }
    const [row, column] = pixel(over), at = { [fixed]: state.planes[fixed], [down]: flipped(over.size, down, row), [across]: column };
    find("pointer").textContent = `${over.shape ? `slice ${at[0]}, ` : ""}row ${at[1]}, column ${at[2]}`;
    grid.style.setProperty("--across", `${100 * right}%`);
    grid.style.setProperty("--down", `${100 * low}%`);
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
    if (arrow && (on.tagName === "SELECT" || on.type === "range")) return; // they move there
    if (arrow && event.shiftKey && state.zoom > 1) pan(state.view in VIEWS ? state.view : "axial", arrow.map((x) => x / 8));
    else if (arrow && !event.shiftKey && arrow[0]) choose(state.current + arrow[0]);
    else if (event.key === "+" || event.key === "=") zoomAt(2);
    else if (event.key === "-") zoomAt(0.5);
    else if (event.key === "0") look(1, [0, 0, 0]);
    else if (event.key === "e") find("all").click();
    else return;
    event.preventDefault();
  });

  setWindow((data.window[0] + data.window[1]) / 2, data.window[1] - data.window[0]);
  find("viewer").hidden = data.images.length === 0;
  const scaled = (image) => image.panels.some((panel) => ["error", "deviation", "interval"].includes(panel.kind));
  find("errors").hidden = !data.images.some(scaled);
  choose(0);
})();
