import type { ComponentChildren } from "preact";
import { useLive } from "./live";
import { Dashboard } from "./pages/dashboard";
import { href, usePlace } from "./router";
import type { Summary } from "./summary";

const PAGES: { path: string; title: string }[] = [
  { path: "", title: "Dashboard" },
  { path: "pools", title: "Pools" },
  { path: "health-monitors", title: "Health monitors" },
  { path: "network-profiles", title: "TCP/UDP profiles" },
  { path: "bgp", title: "BGP" },
  { path: "events", title: "Events" },
  { path: "explain", title: "Explain" },
  { path: "doctor", title: "Doctor" },
  { path: "configuration", title: "Configuration" },
];

export function App() {
  const place = usePlace();
  const { data, link } = useLive<Summary>("/api/v1/summary/stream", "summary");
  const at = place.path[0] ?? "";
  return (
    <>
      <a class="skip" href="#content">
        To the content
      </a>
      <header>
        <a class="brand" href={href()} aria-label="Onward, dashboard">
          <img src="/favicon.svg" alt="" width="20" height="20" /> onward
        </a>
        <nav aria-label="Pages">
          {PAGES.map(({ path, title }) => (
            <a href={href(path)} aria-current={at === path ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        {data && (
          <span class={`state ${data.health.state}`} role="status">
            {data.director.name}: {data.health.state}
            {link !== "live" && ", connection lost"}
          </span>
        )}
      </header>
      <main id="content" tabIndex={-1}>
        {page(at, data)}
      </main>
    </>
  );
}

function page(at: string, data: Summary | undefined): ComponentChildren {
  if (!data) return <p class="quiet">Waiting for the director …</p>;
  if (at === "") return <Dashboard summary={data} />;
  return <p>There is no such page.</p>;
}
