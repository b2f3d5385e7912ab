// What a test asks of a page: sizes, parts, and what is wrong with it.
(() => {
  const all = (what) => [...document.querySelectorAll(what)];
  const named = (e) => e.getAttribute("aria-label") || e.getAttribute("aria-labelledby");
  // Colours as the browser paints them, [red, green, blue, alpha] of 0 to 1.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (css) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = css;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255);
  };
  const back = (e) => {
    if (!e) return [1, 1, 1];
    const [r, g, b, a] = rgba(getComputedStyle(e).backgroundColor);
    if (a === 1) return [r, g, b];
    const under = back(e.parentElement);
    return [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
  };
  // WCAG 2.2: relative luminance, contrast ratio.
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const contrast = (e) => {
    const ink = getComputedStyle(e)[e instanceof SVGElement ? "fill" : "color"];
    const [a, b] = [luminance(rgba(ink)), luminance(back(e.closest("svg") || e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const texts = all("body *").filter((e) => own(e) && !["SCRIPT", "title"].includes(e.tagName));
  return {
    width: innerWidth,
    content: document.documentElement.scrollWidth,
    sections: all("section").map((e) => e.id),
    tensors: all("#tensors tbody tr").length,
    scripts: all("script").map((e) => e.textContent),
    loaded: performance.getEntriesByType("resource").map((e) => e.name),
    unnamed: [
      ...all("svg").filter((e) => e.getAttribute("role") !== "img" || !named(e)),
      ...all("table").filter((e) => !e.caption),
      ...all("th").filter((e) => !e.scope),
      ...all("[tabindex]").filter((e) => !named(e)),
    ].map((e) => e.outerHTML.slice(0, 80)),
    faint: texts.filter((e) => contrast(e) < 4.5).map((e) => `${contrast(e).toFixed(2)} ${e.outerHTML.slice(0, 80)}`),
  };
})();
