// One stream of server-sent events for each document, shared by all who look at it. A page that nobody sees has none:
// browsers keep six connections for a director, whatever the number of tabs.

import { useEffect, useState } from "preact/hooks";

export type Link = "connecting" | "live" | "lost";

/** How to make the next document of the one before and of what has changed, by the name of the event that says so. */
export interface Changes<T> {
  event: string;
  apply: (before: T, change: never) => T;
}

interface Feed {
  url: string;
  event: string;
  changes: Changes<unknown> | undefined;
  source: EventSource | undefined;
  users: number;
  data: unknown;
  link: Link;
  /** When something came last, by the clock of the page. */
  heard: number;
  tell: Set<() => void>;
}

/** Every stream has news once a second: one that is silent for so long has ended, whatever the browser knows of it. */
const SILENT_MS = 5000;

const feeds = new Map<string, Feed>();

function open(feed: Feed): void {
  const source = new EventSource(feed.url);
  feed.source = source;
  feed.heard = performance.now();
  const heard = (data: unknown) => {
    feed.data = data;
    feed.link = "live";
    feed.heard = performance.now();
    feed.tell.forEach((tell) => tell());
  };
  const said = (message: Event): unknown => JSON.parse((message as MessageEvent<string>).data);
  source.addEventListener(feed.event, (message) => heard(said(message)));
  const { changes } = feed;
  if (changes) source.addEventListener(changes.event, (message) => heard(changes.apply(feed.data, said(message) as never)));
  source.addEventListener("error", () => {
    feed.link = "lost"; // the browser tries again by itself, but not after an answer that is no stream
    if (source.readyState === EventSource.CLOSED && feed.source === source) {
      feed.source = undefined;
      setTimeout(() => feed.users > 0 && feed.source === undefined && !document.hidden && open(feed), 2000);
    }
    feed.tell.forEach((tell) => tell());
  });
}

function close(feed: Feed): void {
  feed.source?.close();
  feed.source = undefined;
}

setInterval(() => {
  for (const feed of feeds.values()) {
    if (document.hidden || !feed.source || performance.now() - feed.heard < SILENT_MS) continue;
    close(feed); // a director that hangs, a cable that is cut: nobody closes the connection
    feed.link = "lost";
    open(feed);
    feed.tell.forEach((tell) => tell());
  }
}, 1000);

document.addEventListener("visibilitychange", () => {
  for (const feed of feeds.values()) {
    if (document.hidden) close(feed);
    else if (!feed.source) open(feed);
  }
});

/** Hear every document of a stream; returns how to end that. */
export function listen<T>(url: string, event: string, told: (data: T | undefined, link: Link) => void, changes?: Changes<T>): () => void {
  let feed = feeds.get(url);
  if (!feed) {
    feed = { url, event, changes: changes as Changes<unknown> | undefined, source: undefined, users: 0, data: undefined, link: "connecting", heard: 0, tell: new Set() };
    feeds.set(url, feed);
    open(feed);
  }
  const mine = feed;
  const tell = () => told(mine.data as T | undefined, mine.link);
  mine.users += 1;
  mine.tell.add(tell);
  tell();
  return () => {
    mine.tell.delete(tell);
    mine.users -= 1;
    if (mine.users === 0) {
      close(mine);
      feeds.delete(url);
    }
  };
}

/** What a stream has told last, and whether it still does. Undefined data: nothing yet. */
export function useLive<T>(url: string, event: string): { data: T | undefined; link: Link } {
  const [state, set] = useState<{ url: string; data: T | undefined; link: Link }>({ url, data: undefined, link: "connecting" });
  useEffect(() => listen<T>(url, event, (data, link) => set({ url, data, link })), [url, event]);
  return state.url === url ? state : { data: undefined, link: "connecting" };
}
