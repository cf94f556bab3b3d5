// The summary as it goes on: the first one comes whole, then what has changed. What has not stays the very same object, so
// that nothing is drawn for it.

import type { ServiceRow, Summary, SummaryChange } from "./api.gen";
import type { Changes } from "./live";

const RATES = ["packets_per_s", "bytes_per_s", "new_flows_per_s"] as const;

export const CHANGES: Changes<Summary> = { event: "change", apply };

function apply(before: Summary, { head, rows, rates }: SummaryChange): Summary {
  const services = before.services.map((row, place) => {
    const next = rows[place];
    if (next) return next;
    if (RATES.every((key) => row[key] === rates[key][place])) return row;
    const [packets_per_s = null, bytes_per_s = null, new_flows_per_s = null] = RATES.map((key) => rates[key][place]);
    return { ...row, packets_per_s, bytes_per_s, new_flows_per_s };
  });
  return { ...head, services };
}

/** Whether two rows show the same but for their rates. */
export function areAlike(one: ServiceRow, other: ServiceRow): boolean {
  if (one === other) return true;
  return (Object.keys(one) as (keyof ServiceRow)[]).every((key) => one[key] === other[key] || (RATES as readonly string[]).includes(key));
}
