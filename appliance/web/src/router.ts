// Pages are named by the fragment (#/virtual-services/www), so the director serves one file for all of them.

import { useEffect, useState } from "preact/hooks";

export interface Place {
  /** Parts of the path, decoded: ["virtual-services", "www"]. */
  path: string[];
  query: URLSearchParams;
}

function here(): Place {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

/** Somebody may have typed it: what is no encoding stands for itself. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The place that is shown, and again whenever it changes. */
export function usePlace(): Place {
  const [place, set] = useState(here);
  useEffect(() => {
    const change = () => set(here());
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  return place;
}

export function href(...path: string[]): string {
  return `#/${path.map(encodeURIComponent).join("/")}`;
}

export function go(...path: string[]): void {
  location.hash = href(...path);
}
