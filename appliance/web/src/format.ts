// Figures as people read them. Null is "not known", which is never shown as a number.

const UNKNOWN = "–";

/** 1234567 -> "1.23 M"; three figures that count. */
export function short(value: number | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  const units = ["", " k", " M", " G", " T"];
  let scaled = value;
  let unit = 0;
  while (Math.abs(scaled) >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit += 1;
  }
  const digits = scaled >= 99.5 || (unit === 0 && Number.isInteger(scaled)) ? 0 : scaled >= 9.95 ? 1 : 2;
  return scaled.toFixed(digits) + (units[unit] ?? "");
}

/** Bytes a second as bits a second. */
export function bits(bytes: number | null | undefined): string {
  return bytes === null || bytes === undefined ? UNKNOWN : `${short(bytes * 8)}bit/s`.replace(/(\d)bit/, "$1 bit");
}

/** 0.1234 -> "12.3 %". */
export function percent(part: number | null | undefined): string {
  if (part === null || part === undefined) return UNKNOWN;
  return `${(part * 100).toFixed(part > 0 && part < 0.0995 ? 1 : part === 1 || part === 0 ? 0 : 1)} %`;
}

/** Seconds as "12 s", "3 min", "5 h", "2 d". */
export function span(seconds: number): string {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** A moment (seconds since 1970) as the time of day here. */
export function clock(at: number): string {
  return new Date(at * 1000).toLocaleTimeString([], { hour12: false });
}
