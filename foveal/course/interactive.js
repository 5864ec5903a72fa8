// Figures of Foveal's course that a reader changes. The numbers come from Foveal's run, as JSON in the page; this script
// shows them in plain SVG. It has no dependencies and loads nothing. A figure is a div of class foveal-figure whose attribute
// data-figure is its kind, and a function of FIGURES by that kind, (figure, numbers) => nothing. Everything can be done with the keyboard: each choice
// is a native control, and arrow keys move over a grid of outputs; what is chosen is told in a live region.
(() => {
  "use strict";

  // Pixels of a cell of a grid, and milliseconds between two positions that are played.
  const CELL = 34;
  const TICK = 800;

  // An element of HTML with attributes and children; texts are children too.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // An element of SVG.
  function drawn(tag, attributes = {}, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  }

  const range = (count) => Array.from({ length: count }, (_, i) => i);
  const number = (value) => String(Number(value.toPrecision(6)));
  // Text of a list of places: "2 to 4" where they are neighbours, else "0, 2, 4".
  function places(list) {
    const neighbours = list.every((value, i) => i === 0 || value === list[i - 1] + 1);
    return neighbours && list.length > 2 ? `${list[0]} to ${list[list.length - 1]}` : list.join(", ");
  }

  // A labelled choice of one of several values; `changed` is called after each change.
  function choice(label, values, chosen, changed) {
    const select = element("select", {}, ...values.map((v) => element("option", { value: v }, String(v))));
    select.value = String(chosen);
    select.addEventListener("change", changed);
    return { view: element("label", {}, `${label} `, select), get: () => select.value, select };
  }

  // A grid of cells [rows][columns]. look(r, c) returns { text, shade, kind }: a shade from 0 (paper) to 1 (ink) and classes.
  // moved(r, c), where it is given, makes cells answer to the pointer and to arrow keys.
  function grid(title, rows, columns, look, moved, cell = CELL) {
    const svg = drawn("svg", { viewBox: `0 0 ${columns * cell + 2} ${rows * cell + 2}`, class: cell < 20 ? "grid small" : "grid" });
    svg.style.width = `${columns * cell + 2}px`;
    svg.setAttribute("role", moved ? "application" : "img");
    svg.setAttribute("aria-label", moved ? `${title}: arrow keys move` : title);
    const cells = range(rows).map((r) =>
      range(columns).map((c) => {
        const group = drawn("g", { transform: `translate(${c * cell + 1} ${r * cell + 1})` });
        const seen = look(r, c);
        group.append(drawn("rect", { width: cell, height: cell, class: "paper" }));
        group.append(drawn("rect", { width: cell, height: cell, class: "ink", "fill-opacity": 0.55 * seen.shade }));
        if (seen.kind === "unread") {
          group.append(drawn("path", { d: `M3 3L${cell - 3} ${cell - 3}M3 ${cell - 3}L${cell - 3} 3`, class: "cross" }));
        }
        if (seen.text !== undefined) {
          const size = cell > 2 * CELL ? 15 : seen.text.length > 4 ? 10 : 13;
          group.append(drawn("text", { x: cell / 2, y: cell / 2, "font-size": size }, seen.text));
        }
        if (seen.kind) group.classList.add(seen.kind);
        if (moved) {
          group.addEventListener("pointerenter", () => moved(r, c));
          group.addEventListener("click", () => moved(r, c));
        }
        svg.append(group);
        return group;
      }),
    );
    let at = [0, 0];
    if (moved) {
      svg.setAttribute("tabindex", "0");
      svg.addEventListener("keydown", (event) => {
        const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        if (!step) return;
        event.preventDefault();
        const inside = (value, size) => Math.min(size - 1, Math.max(0, value));
        moved(inside(at[0] + step[0], rows), inside(at[1] + step[1], columns));
      });
    }
    return {
      view: element("figure", {}, element("figcaption", {}, title), svg),
      // Frame these cells and no others; marked cells are drawn last, so that no neighbour covers their frame.
      mark(marked, first) {
        if (first) at = first;
        for (const group of svg.querySelectorAll(".marked")) group.classList.remove("marked");
        for (const [r, c] of marked) {
          const group = cells[r] && cells[r][c];
          if (group) {
            group.classList.add("marked");
            svg.append(group);
          }
        }
      },
      text: (r, c) => cells[r][c].querySelector("text").textContent,
    };
  }

  // The sliding window. numbers: x [H][H], w [R][R], choices by name, and runs by "size,kernel,stride,padding,dilation": y and
  // flipped, Foveal's outputs [P][Q] with the filter as it is and turned, and unread, rows (and columns) that nothing reads.
  function slidingWindow(figure, { x, w, choices, runs }) {
    const names = { size: "image H", kernel: "filter R", stride: "stride u", padding: "padding a", dilation: "dilation d" };
    const first = { size: Math.min(5, x.length), kernel: w.length, stride: 1, padding: 0, dilation: 1 };
    const controls = {};
    for (const [name, label] of Object.entries(names)) controls[name] = choice(label, choices[name], first[name], rebuild);
    const flip = element("input", { type: "checkbox" });
    flip.addEventListener("change", rebuild);
    const slider = element("input", { type: "range", min: 0, value: 0, step: 1 });
    slider.addEventListener("input", () => show(Number(slider.value), true));
    const play = element("button", { type: "button" }, "Play");
    const formula = element("p", { class: "formula" });
    const told = element("p", { class: "told", "aria-live": "polite" });
    const grids = element("div", { class: "grids" });
    const row = element("div", { class: "controls" }, ...Object.values(controls).map((c) => c.view));
    row.append(element("label", {}, flip, " flip the filter"));
    const run = element("div", { class: "controls" }, play, element("label", { class: "wide" }, "output ", slider));
    figure.append(row, formula, grids, run, told);
    let state, timer;

    // The figure for other choices.
    function rebuild() {
      stop();
      const [H, R, u, a, d] = Object.keys(names).map((name) => Number(controls[name].get()));
      const found = runs[[H, R, u, a, d]];
      grids.replaceChildren();
      const span = d * (R - 1) + 1;
      const sizes = `P = ⌊(H + 2a − d(R − 1) − 1) / u⌋ + 1 = ⌊(${H} + ${2 * a} − ${d * (R - 1)} − 1) / ${u}⌋ + 1`;
      slider.disabled = play.disabled = !found;
      if (!found) {
        state = undefined;
        formula.textContent = `The filter reaches over ${span} rows, and the padded image has ${H + 2 * a}: it does not fit.`;
        told.textContent = "";
        return;
      }
      const y = flip.checked ? found.flipped : found.y;
      formula.textContent = `${sizes} = ${y.length}`;
      const turned = (r, s) => (flip.checked ? w[R - 1 - r][R - 1 - s] : w[r][s]);
      const largest = Math.max(...x.flat().map(Math.abs), 1e-9);
      const unread = new Set(found.unread);
      const inside = (i) => i >= a && i < a + H;
      const image = grid(`image x, ${H}×${H}${a ? ` and ${a} of zeros around` : ""}`, H + 2 * a, H + 2 * a, (r, c) => {
        if (!inside(r) || !inside(c)) return { text: "0", shade: 0, kind: "border" };
        const value = x[r - a][c - a];
        const never = unread.has(r - a) || unread.has(c - a);
        return { text: number(value), shade: Math.abs(value) / largest, kind: never ? "unread" : "" };
      });
      const filter = grid(flip.checked ? "filter w, turned by 180°" : "filter w", R, R, (r, s) => ({
        text: number(turned(r, s)),
        shade: 0,
      }));
      const highest = Math.max(...y.flat().map(Math.abs), 1e-9);
      const output = grid(
        `output y, ${y.length}×${y.length}`,
        y.length,
        y.length,
        (p, q) => ({ text: number(y[p][q]), shade: Math.abs(y[p][q]) / highest }),
        (p, q) => show(p * y.length + q, true),
      );
      grids.append(image.view, filter.view, output.view);
      slider.max = y.length * y.length - 1;
      const never = H * H - (H - unread.size) ** 2;
      state = { H, R, u, a, d, y, turned, image, output, never };
      show(0, false);
    }

    // What one output reads, and the sum that it is, computed here and compared with Foveal's.
    function show(index, byHand) {
      if (byHand) stop();
      const { H, R, u, a, d, y, turned, image, output, never } = state;
      const [p, q] = [Math.floor(index / y.length), index % y.length];
      slider.value = index;
      slider.setAttribute("aria-valuetext", `row ${p}, column ${q}`);
      const taps = range(R * R).map((i) => [Math.floor(i / R), i % R]);
      image.mark(taps.map(([r, s]) => [p * u + r * d, q * u + s * d]));
      output.mark([[p, q]], [p, q]);
      const pixel = (i, j) => (i >= 0 && i < H && j >= 0 && j < H ? x[i][j] : 0);
      const products = taps.map(([r, s]) => [pixel(p * u + r * d - a, q * u + s * d - a), turned(r, s)]);
      const sum = products.reduce((total, [value, weight]) => total + value * weight, 0);
      const written = products.map(([value, weight]) => `${number(value)}·${weight < 0 ? `(${number(weight)})` : number(weight)}`);
      const agrees = Math.abs(sum - y[p][q]) <= 1e-4 * Math.max(1, Math.abs(sum));
      told.textContent =
        `y[${p}, ${q}] = ${written.join(" + ")} = ${number(sum)}` +
        (agrees ? "." : `, but Foveal computed ${number(y[p][q])}.`) +
        (never ? ` ${never} of ${H * H} pixels are never read; they are crossed out.` : "");
      figure.dataset.sum = number(sum);
    }

    function stop() {
      clearInterval(timer);
      timer = undefined;
      play.textContent = "Play";
      told.setAttribute("aria-live", "polite");
    }

    play.addEventListener("click", () => {
      if (timer) return stop();
      play.textContent = "Pause";
      // What changes by itself is not read aloud.
      told.setAttribute("aria-live", "off");
      timer = setInterval(() => show((Number(slider.value) + 1) % (Number(slider.max) + 1), false), TICK);
    });
    rebuild();
  }

  // Receptive fields. numbers: image [H][W] from 0 to 255, and layers: name, field as text, and for each row and column of the
  // outputs the rows and columns of the image that it reads.
  function receptiveFields(figure, { image, layers }) {
    const [H, W] = [image.length, image[0].length];
    const cell = Math.max(8, Math.min(24, Math.floor(340 / Math.max(H, W))));
    const layer = choice("layer", layers.map((one) => one.name), layers[layers.length - 1].name, rebuild);
    const grids = element("div", { class: "grids" });
    const told = element("p", { class: "told", "aria-live": "polite" });
    figure.append(element("div", { class: "controls" }, layer.view), grids, told);

    function rebuild() {
      const { name, rows, columns, field } = layers[layer.select.selectedIndex];
      const pixels = grid(`image, ${H}×${W}`, H, W, (r, c) => ({ shade: image[r][c] / 255 }), undefined, cell);
      // The output's own grid is as large on the page as the image's.
      const own = Math.max(8, Math.min(CELL, Math.floor((cell * Math.max(H, W)) / Math.max(rows.length, columns.length))));
      const show = (p, q) => {
        pixels.mark(rows[p].flatMap((r) => columns[q].map((c) => [r, c])));
        outputs.mark([[p, q]], [p, q]);
        const seen = rows[p].length * columns[q].length;
        told.textContent =
          `Output (${p}, ${q}) of ${name} reads rows ${places(rows[p])} and columns ${places(columns[q])} of the image:` +
          ` ${seen} of ${H * W} pixels. Its field, padding included, is ${field.replace("x", "×")}.`;
      };
      const size = `${rows.length}×${columns.length}`;
      const outputs = grid(`outputs of ${name}, ${size}`, rows.length, columns.length, () => ({ shade: 0 }), show, own);
      grids.replaceChildren(pixels.view, outputs.view);
      show(Math.floor(rows.length / 2), Math.floor(columns.length / 2));
    }
    rebuild();
  }

  // Axes of a chart, in pixels: the side of the square, and what is left for the numbers at its left and bottom.
  const SIDE = 190;
  const LEFT = 48;
  const BOTTOM = 38;

  // A chart of a curve in the unit square, points [x, y]. move(x, y) sets the point that is marked.
  function chart(title, xName, yName, points) {
    const svg = drawn("svg", { viewBox: `0 0 ${LEFT + SIDE + 12} ${SIDE + BOTTOM + 8}`, class: "chart", role: "img", "aria-label": title });
    svg.style.width = `${LEFT + SIDE + 12}px`;
    const [across, up] = [(x) => LEFT + x * SIDE, (y) => 6 + (1 - y) * SIDE];
    svg.append(drawn("rect", { x: LEFT, y: 6, width: SIDE, height: SIDE, class: "paper" }));
    for (const tick of [0, 0.5, 1]) {
      svg.append(drawn("text", { x: across(tick), y: 6 + SIDE + 11 }, String(tick)));
      svg.append(drawn("text", { x: LEFT - 14, y: up(tick) }, String(tick)));
    }
    svg.append(drawn("text", { x: across(0.5), y: SIDE + BOTTOM }, xName));
    svg.append(drawn("text", { transform: `translate(9 ${up(0.5)}) rotate(-90)` }, yName));
    svg.append(drawn("polyline", { points: points.map(([x, y]) => `${across(x)},${up(y)}`).join(" "), class: "curve" }));
    const point = drawn("circle", { r: 5.5, class: "point" });
    svg.append(point);
    return {
      view: element("figure", {}, element("figcaption", {}, title), svg),
      move(x, y) {
        point.setAttribute("cx", across(x));
        point.setAttribute("cy", up(y));
      },
    };
  }

  // Two histograms of numbers, one upwards and one downwards from the same line, each as high as its highest bar. move(value) sets the line of the threshold.
  function histograms(title, upper, lower, names) {
    const [width, half, bins] = [300, 90, 24];
    const all = [...upper, ...lower];
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const place = (value) => ((value - low) / (high - low || 1)) * width;
    const svg = drawn("svg", { viewBox: `-8 0 ${width + 16} ${2 * half + 20}`, class: "chart", role: "img", "aria-label": title });
    svg.style.width = `${width + 16}px`;
    [upper, lower].forEach((values, down) => {
      const counts = range(bins).map(() => 0);
      for (const value of values) counts[Math.min(bins - 1, Math.floor((place(value) / width) * bins))] += 1;
      const most = Math.max(...counts, 1);
      counts.forEach((count, i) => {
        const height = (count / most) * (half - 18);
        const box = { x: (i * width) / bins, y: down ? half : half - height, width: width / bins - 1, height };
        svg.append(drawn("rect", { ...box, class: down ? "others" : "ones" }));
      });
      svg.append(drawn("text", { x: width / 2, y: down ? 2 * half - 4 : 9 }, names[down]));
    });
    svg.append(drawn("path", { d: `M0 ${half}H${width}`, class: "axis" }));
    svg.append(drawn("text", { x: 14, y: 2 * half + 12 }, number(Number(low.toPrecision(3)))));
    svg.append(drawn("text", { x: width - 14, y: 2 * half + 12 }, number(Number(high.toPrecision(3)))));
    const line = drawn("path", { class: "cross" });
    svg.append(line);
    return {
      view: element("figure", {}, element("figcaption", {}, title), svg),
      move: (value) => line.setAttribute("d", `M${Math.min(place(value), width + 6)} 16V${2 * half - 12}`),
    };
  }

  // The threshold. numbers: name of the class, scores and labels (1 or 0) of the images, thresholds in rising order; roc and
  // precisionRecall, Foveal's curves, points [x, y]; found, Foveal's true and false positives at each threshold; auc and
  // averagePrecision.
  function threshold(figure, { name, scores, labels, thresholds, roc, precisionRecall, found, auc, averagePrecision }) {
    const [ones, others] = [1, 0].map((label) => scores.filter((_, n) => labels[n] === label));
    const spread = histograms("scores of the images, and the threshold", ones, others, [`${name}: ${ones.length}`, `others: ${others.length}`]);
    const counts = element("div", {});
    const first = chart(`ROC, area ${number(Number(auc.toPrecision(3)))}`, "FPR", "TPR = recall", roc);
    const second = chart(`average precision ${number(Number(averagePrecision.toPrecision(3)))}`, "recall", "precision", precisionRecall);
    const slider = element("input", { type: "range", min: 0, max: thresholds.length - 1, step: 1 });
    const told = element("p", { class: "told", "aria-live": "polite" });
    const run = element("div", { class: "controls" }, element("label", { class: "wide" }, "threshold ", slider));
    figure.append(run, told, element("div", { class: "grids" }, spread.view, counts, first.view, second.view));
    slider.addEventListener("input", show);

    // Everything at the slider's threshold, counted here and compared with Foveal's counts.
    function show() {
      const t = thresholds[slider.value];
      const reach = (list) => list.filter((score) => score >= t).length;
      const [tp, fp] = [reach(ones), reach(others)];
      const [fn, tn] = [ones.length - tp, others.length - fp];
      const cells = [[tp, fn], [fp, tn]];
      const words = [["TP", "FN"], ["FP", "TN"]];
      const look = (r, c) => ({ text: `${words[r][c]} ${cells[r][c]}`, shade: r === c ? 0.3 : 0 });
      const title = `rows: ${name}, others; columns: found, left`;
      counts.replaceChildren(grid(title, 2, 2, look, undefined, 72).view);
      const [recall, fpr] = [tp / ones.length, fp / others.length];
      // Where nothing is found, Foveal's curve ends at precision 1.
      const precision = tp + fp ? tp / (tp + fp) : 1;
      const agrees = found[slider.value][0] === tp && found[slider.value][1] === fp;
      const three = (value) => value.toFixed(3);
      told.textContent =
        `Threshold ${number(t)}: ${tp} of ${ones.length} found, recall = TPR = ${three(recall)}; ` +
        `${fp} of ${others.length} others found too, FPR = ${three(fpr)}; ` +
        `precision = ${tp + fp ? `${tp} / ${tp + fp} = ${three(precision)}` : "0 / 0, nothing is found"}; ` +
        `accuracy = ${three((tp + tn) / scores.length)}` +
        (agrees ? "." : `, but Foveal counted ${found[slider.value].join(" and ")}.`);
      slider.setAttribute("aria-valuetext", `${number(t)}, recall ${three(recall)}, precision ${three(precision)}`);
      spread.move(t);
      first.move(fpr, recall);
      second.move(recall, precision);
      figure.dataset.counts = [tp, fp, fn, tn].join(",");
    }
    // It begins in the middle of the scores.
    const middle = (Math.min(...scores) + Math.max(...scores)) / 2;
    slider.value = thresholds.findIndex((value) => value >= middle);
    show();
  }

  const FIGURES = { window: slidingWindow, field: receptiveFields, threshold };

  function start() {
    for (const figure of document.querySelectorAll(".foveal-figure:not([data-ready])")) {
      figure.dataset.ready = "yes";
      const numbers = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
      FIGURES[figure.dataset.figure](figure, numbers);
    }
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
