// What scrolls by itself must be reachable without a mouse.
function reachable() {
  document.querySelectorAll(".bd-article table, .bd-article pre, .routes, mjx-container").forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1 && !box.hasAttribute("tabindex")) box.tabIndex = 0;
  });
}
// The small arrows beside chapters have no name of their own.
function named() {
  document.querySelectorAll(".bd-sidenav summary").forEach((arrow) => {
    const chapter = arrow.closest("li")?.querySelector("a")?.textContent.trim();
    arrow.setAttribute("aria-label", `Pages of ${chapter}`);
  });
}
document.addEventListener("DOMContentLoaded", named);
window.addEventListener("load", () => setTimeout(reachable, 500));
window.addEventListener("resize", reachable);
