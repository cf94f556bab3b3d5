// One stream of server-sent events for each document, shared by all who look at it.

import { useEffect, useState } from "preact/hooks";

export type Link = "connecting" | "live" | "lost";

interface Feed {
  source: EventSource;
  users: number;
  data: unknown;
  link: Link;
  tell: Set<() => void>;
}

const feeds = new Map<string, Feed>();

function open(url: string, event: string): Feed {
  const source = new EventSource(url);
  const feed: Feed = { source, users: 0, data: undefined, link: "connecting", tell: new Set() };
  const told = () => feed.tell.forEach((tell) => tell());
  source.addEventListener(event, (message) => {
    feed.data = JSON.parse((message as MessageEvent<string>).data);
    feed.link = "live";
    told();
  });
  source.addEventListener("error", () => {
    feed.link = "lost"; // the browser tries again by itself
    told();
  });
  return feed;
}

/** What a stream has told last, and whether it still does. Undefined data: nothing yet. */
export function useLive<T>(url: string, event: string): { data: T | undefined; link: Link } {
  const [, again] = useState(0);
  useEffect(() => {
    let feed = feeds.get(url);
    if (!feed) feeds.set(url, (feed = open(url, event)));
    const mine = feed;
    const tell = () => again((count) => count + 1);
    mine.users += 1;
    mine.tell.add(tell);
    tell();
    return () => {
      mine.tell.delete(tell);
      mine.users -= 1;
      if (mine.users === 0) {
        mine.source.close();
        feeds.delete(url);
      }
    };
  }, [url, event]);
  const feed = feeds.get(url);
  return { data: feed?.data as T | undefined, link: feed?.link ?? "connecting" };
}
