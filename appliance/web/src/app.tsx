import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { logOut, may, useMe } from "./api";
import type { Me, Summary } from "./api.gen";
import { type Link, listen } from "./live";
import { Bgp } from "./pages/bgp";
import { Configuration } from "./pages/configuration";
import { Dashboard } from "./pages/dashboard";
import { Doctor } from "./pages/doctor";
import { EventsPage } from "./pages/events";
import { Explain } from "./pages/explain";
import { Login } from "./pages/login";
import { ObjectForm } from "./pages/object";
import { ObjectList } from "./pages/objects";
import { Service } from "./pages/service";
import { href, usePlace } from "./router";
import { nextScheme, schemeName } from "./scheme";
import { CHANGES } from "./summary";

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
  const me = useMe();
  const place = usePlace();
  const [[summary, link], set] = useState<[Summary | undefined, Link]>([undefined, "connecting"]);
  const looks = may(me, "viewer");
  useEffect(() => {
    if (!looks) return undefined;
    return listen<Summary>("/api/v1/summary", "summary", (data, how) => set([data, how]), CHANGES);
  }, [looks]);
  const at = place.path[0] ?? "";
  const title = PAGES.find(({ path }) => path === at)?.title ?? place.path[1] ?? "Onward";
  useEffect(() => {
    document.title = `${title} · ${summary?.director.name ?? "Onward"}${summary && summary.health.state !== "healthy" ? ` · ${summary.health.state}` : ""}`;
  }, [title, summary?.director.name, summary?.health.state]);
  useEffect(() => document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }), [at, looks]);
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => { event.preventDefault(); document.getElementById("content")?.focus(); }}>
        To the content
      </a>
      <header>
        <a class="brand" href={href()} aria-label="Onward, to the dashboard">
          <img src="/favicon.svg" alt="" width="20" height="20" /> onward
        </a>
        <nav aria-label="Pages">
          {looks && PAGES.map(({ path, title: name }) => (
            <a key={path} href={href(path)} aria-current={at === path ? "page" : undefined}>
              {name}
            </a>
          ))}
        </nav>
        {summary && (
          <span class={`state ${link === "live" ? summary.health.state : "lost"}`} role="status">
            {summary.director.name}: {link === "live" ? summary.health.state : "connection lost"}
          </span>
        )}
        <Scheme />
        <Who me={me} />
      </header>
      <main id="content" tabIndex={-1}>
        {page(place.path, place.query, me, summary, looks)}
      </main>
    </>
  );
}

function page(path: string[], query: URLSearchParams, me: Me | undefined, summary: Summary | undefined, looks: boolean): ComponentChildren {
  const [at = "", name = "", more = ""] = path;
  if (!me) return <p class="quiet">Waiting for the director …</p>;
  if (at === "login" || !looks) return <Login />;
  if (!summary) return <p class="quiet">Waiting for the director …</p>;
  switch (at) {
    case "":
      return <Dashboard summary={summary} me={me} />;
    case "virtual-services":
      return <Service key={name} name={name} summary={summary} me={me} />;
    case "pools":
    case "health-monitors":
    case "network-profiles":
      return <ObjectList key={at} kind={at} me={me} />;
    case "edit":
      return <ObjectForm key={`${name}/${more}`} kind={name} name={more} me={me} />;
    case "new":
      return <ObjectForm key={`${name}/`} kind={name} name="" me={me} />;
    case "bgp":
      return <Bgp />;
    case "events":
      return <EventsPage />;
    case "explain":
      return <Explain query={query} />;
    case "doctor":
      return <Doctor />;
    case "configuration":
      return <Configuration me={me} />;
    default:
      return <p>There is no such page. <a href={href()}>To the dashboard</a></p>;
  }
}

function Scheme() {
  const [name, set] = useState(schemeName);
  return (
    <button type="button" class="plain" aria-label={`Colours: ${name}. Change`} onClick={() => { nextScheme(); set(schemeName()); }}>
      ◐ {name}
    </button>
  );
}

function Who({ me }: { me: Me | undefined }) {
  if (!me) return null;
  if (me.via !== "session") return <a href={href("login")}>Log in</a>;
  return (
    <span class="who">
      {me.name} <span class="quiet">{me.role}</span>{" "}
      <button type="button" class="plain" onClick={() => void logOut()}>
        Log out
      </button>
    </span>
  );
}
