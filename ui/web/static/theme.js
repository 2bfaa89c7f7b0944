// Before anything is drawn: the theme somebody chose here, and that there is script at all.
"use strict";
document.documentElement.classList.add("script");
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that keeps nothing for us follows the system.
}
