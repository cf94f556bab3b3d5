// Light, dark, or as the system has it.

const KEY = "scheme";
const SCHEMES = ["light dark", "light", "dark"];
const NAMES: Record<string, string> = { "light dark": "auto", light: "light", dark: "dark" };

function chosen(): string {
  const kept = localStorage.getItem(KEY) ?? "";
  return SCHEMES.includes(kept) ? kept : "light dark";
}

export function applyScheme(): void {
  document.documentElement.style.colorScheme = chosen();
}

export function schemeName(): string {
  return NAMES[chosen()] ?? "auto";
}

export function nextScheme(): void {
  localStorage.setItem(KEY, SCHEMES[(SCHEMES.indexOf(chosen()) + 1) % SCHEMES.length] ?? "light dark");
  applyScheme();
  changes.dispatchEvent(new Event("change"));
}

/** Tells of every change, whoever has made it, for what is drawn and not styled. */
export const changes = new EventTarget();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => changes.dispatchEvent(new Event("change")));

/** What a colour of the style sheet is now. */
export function colourOf(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
