// What scrolls by itself must be reachable without a mouse.
function reachable() {
  document.querySelectorAll(".bd-article table, .bd-article pre, .routes, mjx-container").forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1 && !box.hasAttribute("tabindex")) box.tabIndex = 0;
  });
}
window.addEventListener("load", () => setTimeout(reachable, 500));
window.addEventListener("resize", reachable);
