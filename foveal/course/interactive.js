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

  // Lets a button call `next` again and again, and pause that; returns the function that stops it.
  function player(play, told, tick, next) {
    let timer;

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
      timer = setInterval(next, tick);
    });
    return stop;
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
    let state;
    const stop = player(play, told, TICK, () => show((Number(slider.value) + 1) % (Number(slider.max) + 1), false));

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
      const none = "0 / 0, nothing is found";
      told.textContent =
        `Threshold ${number(t)}: ${tp} of ${ones.length} found, recall = TPR = ${three(recall)}; ` +
        `${fp} of ${others.length} others found too, FPR = ${three(fpr)}; ` +
        `precision = ${tp + fp ? `${tp} / ${tp + fp} = ${three(precision)}` : none}; ` +
        `accuracy = ${three((tp + tn) / scores.length)}` +
        (agrees ? "." : `, but Foveal counted ${found[slider.value].join(" and ")}.`);
      slider.setAttribute("aria-valuetext", `${number(t)}, recall ${three(recall)}, precision ${tp + fp ? three(precision) : none}`);
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

  // The picture of a race in pixels, milliseconds between two steps that are played, and by how much of the picture a key moves
  // the start.
  const [WIDE, HIGH] = [440, 300];
  const RACE_TICK = 90;
  const NUDGE = 1 / 40;
  // Signs of the racers around (0, 0), in their order.
  const SIGNS = ["M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0", "M-5-5H5V5H-5Z", "M0-6L6 5H-6Z", "M0-7L6 0L0 7L-6 0Z", "M-6-2H-2V-6H2V-2H6V2H2V6H-2V2H-6Z"];

  // The height of a surface at a place; terms: [i, j, c] for each c x^i y^j.
  const height = (terms, [x, y]) => terms.reduce((sum, [i, j, c]) => sum + c * x ** i * y ** j, 0);

  // The path [steps + 1] of one racer from a start, as long as its slopes are below the limit at which Foveal's steps end.
  function pathOf(racer, terms, start, { lr, momentum, beta2, eps, steps, limit }) {
    const slope = (place, axis) =>
      terms.reduce((sum, [i, j, c]) => {
        const [own, other] = axis ? [j, i] : [i, j];
        return sum + (own ? c * own * place[axis] ** (own - 1) * place[1 - axis] ** other : 0);
      }, 0);
    let [place, v, s] = [start, [0, 0], [0, 0]];
    const path = [place];
    for (const t of range(steps)) {
      const g = [slope(place, 0), slope(place, 1)];
      if (!g.every((one) => Math.abs(one) <= limit)) break;
      let move;
      if (racer.startsWith("Adam")) {
        v = v.map((m, k) => momentum * m + (1 - momentum) * g[k]);
        s = s.map((one, k) => beta2 * one + (1 - beta2) * g[k] * g[k]);
        const corrected = racer === "Adam" ? [1 - momentum ** (t + 1), 1 - beta2 ** (t + 1)] : [1, 1];
        move = v.map((m, k) => m / corrected[0] / (Math.sqrt(s[k] / corrected[1]) + eps));
      } else {
        v = v.map((one, k) => momentum * one + g[k]);
        move = racer === "SGD" ? g : racer === "momentum" ? v : g.map((one, k) => one + momentum * v[k]);
      }
      place = place.map((one, k) => one - lr * move[k]);
      path.push(place);
    }
    return path;
  }

  // The race. numbers: racers, rates, momenta, beta2, eps, steps, limit, and grounds: name, terms, start, x and y (lowest and highest of the
  // picture), lr, momentum, contours in the unit square, and Foveal's paths [x, y] of each racer.
  function race(figure, { grounds, racers, rates, momenta, beta2, eps, steps, limit }) {
    const ground = choice("surface", grounds.map((one) => one.name), grounds[0].name, reset);
    const rate = choice("rate η", rates, rates[0], rebuild);
    const momentum = choice("momentum μ, Adam's β₁", momenta, momenta[0], rebuild);
    const starts = ["x", "y"].map((name, axis) => {
      const input = element("input", { type: "number", step: "any" });
      input.addEventListener("change", () => {
        const [low, high] = state.ground[name];
        if (input.value !== "") state.start[axis] = Math.min(high, Math.max(low, Number(input.value)));
        rebuild();
      });
      return { input, view: element("label", {}, `start ${name} `, input) };
    });
    const again = element("button", { type: "button" }, "Reset");
    again.addEventListener("click", reset);
    const seen = racers.map((name, k) => {
      const sign = drawn("svg", { viewBox: "-8 -8 16 16", class: "sign", "aria-hidden": "true" });
      sign.append(drawn("path", { d: SIGNS[k], class: `racer${k}` }));
      const input = element("input", { type: "checkbox", checked: "" });
      input.addEventListener("change", rebuild);
      return { input, view: element("label", {}, input, " ", sign, ` ${name}`) };
    });
    const slider = element("input", { type: "range", min: 0, max: steps, value: 0, step: 1 });
    slider.addEventListener("input", () => show(Number(slider.value), true));
    const play = element("button", { type: "button" }, "Play");
    const picture = element("div", { class: "grids" });
    const told = element("p", { class: "told", "aria-live": "polite" });
    const row = (...views) => element("div", { class: "controls" }, ...views);
    figure.append(
      row(ground.view, rate.view, momentum.view),
      row(...seen.map((one) => one.view)),
      picture,
      row(...starts.map((one) => one.view), again),
      row(play, element("label", { class: "wide" }, "step ", slider)),
      told,
    );
    let state;
    const stop = player(play, told, RACE_TICK, () => show((Number(slider.value) + 1) % (steps + 1), false));

    // Another surface, as Foveal ran on it.
    function reset() {
      const found = grounds[ground.select.selectedIndex];
      rate.select.value = found.lr;
      momentum.select.value = found.momentum;
      state = { ground: found, start: [...found.start], plane: plane(found, (at) => { state.start = at; rebuild(); }, () => state.start) };
      picture.replaceChildren(state.plane.view);
      slider.value = Math.min(steps, 20);
      rebuild();
    }

    // The paths for other choices. Those that Foveal ran are Foveal's, and have to be what is computed here.
    function rebuild() {
      stop();
      const { ground: found, start } = state;
      const [lr, mu] = [Number(rate.get()), Number(momentum.get())];
      const own = racers.map((name) => pathOf(name, found.terms, start, { lr, momentum: mu, beta2, eps, steps, limit }));
      state.foveals = lr === found.lr && mu === found.momentum && start.every((one, axis) => one === found.start[axis]);
      const near = (a, b) => a.every((one, axis) => Math.abs(one - b[axis]) <= 1e-3 * Math.max(1, Math.abs(one)));
      state.agrees = own.every((path, k) => path.every((place, t) => t >= found.paths[k].length || near(place, found.paths[k][t])));
      state.paths = state.foveals ? found.paths : own;
      starts.forEach(({ input }, axis) => { input.value = number(start[axis]); });
      show(Number(slider.value), false);
    }

    // Where each stands after so many steps.
    function show(t, byHand) {
      if (byHand) stop();
      slider.value = t;
      slider.setAttribute("aria-valuetext", `${t} of ${steps}`);
      const { ground: found, paths, start } = state;
      const three = (value) => String(Number(value.toPrecision(3))).replace("-", "−");
      const racing = racers.map((_, k) => k).filter((k) => seen[k].input.checked);
      const words = racing.map((k) => {
        const place = paths[k][t];
        if (!place) return `${racers[k]} has left all numbers in step ${paths[k].length}`;
        const inside = place.every((one, axis) => one >= found["xy"[axis]][0] && one <= found["xy"[axis]][1]);
        return `${racers[k]} (${place.map(three).join(", ")}), height ${three(height(found.terms, place))}${inside ? "" : ", outside of the picture"}`;
      });
      told.textContent =
        `From (${start.map(three).join(", ")}), after ${t} steps: ${words.join("; ") || "nobody races"}.` +
        (!state.foveals ? "" : state.agrees ? " These are Foveal's paths." : " These are Foveal's paths, but this page computes others.");
      state.plane.draw(start, racing.map((k) => [k, paths[k].slice(0, t + 1), paths[k].length > t]));
      figure.dataset.at = JSON.stringify(paths.map((path) => path[t] || null));
    }

    reset();
  }

  // The picture of a surface, whose start the pointer and arrow keys move: moved([x, y]); from() is where it is.
  function plane({ name, x, y, contours }, moved, from) {
    const svg = drawn("svg", { viewBox: `0 0 ${LEFT + WIDE + 12} ${HIGH + BOTTOM}`, class: "chart race", tabindex: "0" });
    svg.style.width = `${LEFT + WIDE + 12}px`;
    svg.setAttribute("role", "application");
    svg.setAttribute("aria-label", `contours of ${name}: arrow keys move the start`);
    const inside = drawn("svg", { x: LEFT, y: 6, width: WIDE, height: HIGH, viewBox: `0 0 ${WIDE} ${HIGH}` });
    const paper = drawn("rect", { width: WIDE, height: HIGH, class: "paper" });
    inside.append(paper);
    for (const outlines of contours) {
      const d = outlines.map((flat) => `M${flat.map((value, i) => (i % 2 ? (1 - value) * HIGH : value * WIDE).toFixed(1)).join(" ")}Z`).join("");
      inside.append(drawn("path", { d, class: "height" }));
    }
    const paths = drawn("g");
    inside.append(paths);
    svg.append(inside);
    for (const share of [0, 0.5, 1]) {
      const at = ([low, high]) => number(low + share * (high - low));
      svg.append(drawn("text", { x: LEFT + share * WIDE, y: 6 + HIGH + 12 }, at(x)));
      svg.append(drawn("text", { x: LEFT - 18, y: 6 + (1 - share) * HIGH + (share === 1 ? 5 : 0) }, at(y)));
    }
    const within = (value, [low, high]) => Math.min(high, Math.max(low, Number(value.toPrecision(4))));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      moved([x, y].map((limits, axis) => within(from()[axis] + step[axis] * NUDGE * (limits[1] - limits[0]), limits)));
    });
    function point(event) {
      const box = paper.getBoundingClientRect();
      const [across, up] = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
      moved([within(x[0] + across * (x[1] - x[0]), x), within(y[0] + up * (y[1] - y[0]), y)]);
    }
    svg.addEventListener("click", point);
    // A finger that moves scrolls the page.
    svg.addEventListener("pointermove", (event) => event.buttons === 1 && event.pointerType !== "touch" && point(event));
    // What lies far outside is drawn at the border of what a browser can draw.
    const far = (value) => Math.min(1e5, Math.max(-1e5, value)).toFixed(1);
    const pixels = (place) => [far(((place[0] - x[0]) / (x[1] - x[0])) * WIDE), far((1 - (place[1] - y[0]) / (y[1] - y[0])) * HIGH)];
    return {
      view: element("figure", {}, element("figcaption", {}, "the fainter, the lower; click to move the start"), svg),
      draw(start, racing) {
        paths.replaceChildren(drawn("path", { d: "M-8 0H8M0-8V8", transform: `translate(${pixels(start)})`, class: "start" }));
        for (const [k, path] of racing) paths.append(drawn("polyline", { points: path.map(pixels).join(" "), class: `track racer${k}` }));
        for (const [k, path, runs] of racing) {
          if (runs) paths.append(drawn("path", { d: SIGNS[k], transform: `translate(${pixels(path[path.length - 1])})`, class: `racer${k}` }));
        }
      },
    };
  }

  const FIGURES = { window: slidingWindow, field: receptiveFields, threshold, race };

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
