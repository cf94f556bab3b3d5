import { useState } from "preact/hooks";
import { useAsked } from "../api";
import { clock } from "../format";

interface Finding {
  check: string;
  service: string | null;
  member: string | null;
  outcome: "pass" | "fail" | "unknown";
  required: boolean;
  text: string;
  evidence: string[];
  fix: { where: string; text: string; commands: string[] } | null;
}

interface Report {
  time: number;
  members: { service: string; member: string; dsr_capable: string; reasons: string[] }[];
  findings: Finding[];
}

/** What the doctor has found; a director without one says so. */
export function Doctor() {
  const { data, error } = useAsked<Report>("/doctor", 5000);
  if (!data) return <><h1>Doctor</h1><p class="quiet">{error.startsWith("nothing is at") ? "This director has no doctor." : error || "Waiting for the director …"}</p></>;
  const order = { fail: 0, unknown: 1, pass: 2 };
  const findings = [...(data.findings ?? [])].sort((a, b) => order[a.outcome] - order[b.outcome]);
  return (
    <>
      <h1>Doctor</h1>
      <p class="quiet">{data.time ? `Looked last at ${clock(data.time)}.` : "It has not looked yet."}</p>
      {findings.map((one) => (
        <section class={`card finding ${one.outcome}`} aria-label={[one.check, one.service, one.member].filter(Boolean).join(" ")}>
          <h2>
            <span class={`dot ${one.outcome === "fail" ? "red" : one.outcome === "pass" ? "green" : "none"}`} /> {one.check.replaceAll("_", " ")} <span class="quiet">{[one.service, one.member].filter(Boolean).join(", ")}</span>
          </h2>
          <p>{one.text}</p>
          {one.evidence.length > 0 && <ul>{one.evidence.map((text) => <li>{text}</li>)}</ul>}
          {one.fix && (
            <>
              <p>On {one.fix.where}: {one.fix.text}</p>
              <pre class="diff" tabIndex={0} aria-label="The fix">{one.fix.commands.join("\n")}</pre>
              {one.fix.commands.length > 0 && <Copy text={one.fix.commands.join("\n")} />}
            </>
          )}
        </section>
      ))}
      {findings.length === 0 && <p>Nothing was found.</p>}
    </>
  );
}

function Copy({ text }: { text: string }) {
  const [done, set] = useState("");
  return (
    <p class="buttons">
      <button type="button" onClick={() => void copy(text).then((well) => set(well ? "Copied." : "The browser does not let us copy: select it, and copy it by hand."))}>Copy</button>
      <span role="status">{done}</span>
    </p>
  );
}

/** Whether it is in the clipboard. Browsers have its API only where the page came by TLS or from the machine itself. */
async function copy(text: string): Promise<boolean> {
  try {
    await (navigator.clipboard as Clipboard | undefined)?.writeText(text);
    if (navigator.clipboard as Clipboard | undefined) return true;
  } catch {
    // asked for a permission that was not given: by selection, then
  }
  const box = document.createElement("textarea");
  box.value = text;
  document.body.append(box);
  box.select();
  const well = document.execCommand("copy");
  box.remove();
  return well;
}
