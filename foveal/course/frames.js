// Pictures of which one is seen: a slider chooses it, a button shows one after the other. A figure is a div of class
// foveal-frames that holds the pictures; what each shows is its description, told in a live region.
(() => {
  "use strict";

  // Milliseconds between two pictures that are played.
  const TICK = 700;

  function start(figure) {
    figure.dataset.started = "yes";
    const pictures = [...figure.querySelectorAll("img")];
    const [slider, button, told] = ["input", "button", ".told"].map((name) => figure.querySelector(name));
    let timer;

    function show(number) {
      pictures.forEach((picture, i) => { picture.hidden = i !== number; });
      slider.value = number;
      told.textContent = pictures[number].alt;
      slider.setAttribute("aria-valuetext", pictures[number].alt);
    }

    function stop() {
      clearInterval(timer);
      timer = undefined;
      button.textContent = "Play";
      told.setAttribute("aria-live", "polite");
    }

    slider.addEventListener("input", () => {
      stop();
      show(Number(slider.value));
    });
    button.addEventListener("click", () => {
      if (timer) return stop();
      button.textContent = "Pause";
      // What changes by itself is not read aloud.
      told.setAttribute("aria-live", "off");
      timer = setInterval(() => show((Number(slider.value) + 1) % pictures.length), TICK);
    });
    show(0);
  }

  for (const figure of document.querySelectorAll(".foveal-frames:not([data-started])")) start(figure);
})();
