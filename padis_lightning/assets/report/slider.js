"use strict";
// Two panels over each other: one on the left of a line that moves, the other on its right.
function makeSlider(element) {
  const canvases = [element("canvas"), element("canvas")];
  const choices = ["left", "right"].map((side) => {
    const choice = element("select");
    choice.setAttribute("aria-label", `panel on the ${side} of the line`);
    choice.addEventListener("change", paint);
    return choice;
  });
  const line = Object.assign(element("input", "line"), { type: "range", min: 0, max: 100, value: 50 });
  line.setAttribute("aria-label", "line between the two panels");
  line.addEventListener("input", place);
  const [lower, upper] = canvases.map((canvas) => element("div", "layer", canvas));
  upper.classList.add("upper");
  const frame = element("div", "frame linked axial", lower, upper, line);
  const figure = element("figure", "slider", element("figcaption", "", ...choices), frame);
  let panels = [];

  function place() {
    frame.style.setProperty("--line", `${line.value}%`);
    line.setAttribute("aria-valuetext", `${choices[0].value} on the left ${line.value}\u2009%, ${choices[1].value} on the right`);
  }

  // Copy what two panels show, whatever their window and colours.
  function paint() {
    if (!figure.isConnected) return;
    choices.forEach((choice, k) => {
      const { canvas } = panels[choice.selectedIndex];
      Object.assign(canvases[k], { width: canvas.width, height: canvas.height });
      canvases[k].getContext("2d").drawImage(canvas, 0, 0);
      canvases[k].setAttribute("role", "img");
      canvases[k].setAttribute("aria-label", choice.value);
    });
    place();
  }

  // Take the panels of another image; what was chosen stays where they have it, else what was measured is left of the estimate.
  function offer(others, ratio) {
    panels = others;
    const named = (...kinds) => kinds.map((kind) => panels.findIndex((panel) => panel.kind === kind)).find((k) => k >= 0);
    const first = [named("degraded", "baseline", "truth", "estimate"), panels.findLastIndex((panel) => panel.kind === "estimate")];
    choices.forEach((choice, k) => {
      const kept = panels.findIndex((panel) => panel.title === choice.value);
      choice.replaceChildren(...panels.map((panel) => element("option", "", panel.title)));
      choice.selectedIndex = kept < 0 ? first[k] : kept;
    });
    figure.style.setProperty("--ratio", ratio);
  }

  return { figure, frame, offer, paint };
}
