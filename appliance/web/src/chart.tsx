import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { span } from "./format";
import { changes, colourOf } from "./scheme";

export interface Line {
  label: string;
  values: (number | null)[];
}

export interface Mark {
  at: number;
  text: string;
  bad: boolean;
}

interface Props {
  title: string;
  at: number[];
  lines: Line[];
  marks: Mark[];
  format: (value: number) => string;
}

const COLOURS = ["line-1", "line-2", "line-3", "line-4", "line-5", "line-6"];
const SPAN_S = 300;
const HEIGHT = 130;

/** Lines over the last five minutes, with events as upright marks. */
export function Chart({ title, at, lines, marks, format }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>();
  const shown = useRef(marks);
  shown.current = marks;
  const names = lines.map(({ label }) => label).join("|");
  useEffect(() => {
    const box = place.current;
    if (!box) return undefined;
    const draw = () => {
      plot.current?.destroy();
      const [text, grid, red, mark] = [colourOf("quiet"), colourOf("line"), colourOf("red"), colourOf("mark")];
      const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      plot.current = new uPlot(
        {
          width: box.clientWidth,
          height: HEIGHT,
          cursor: { y: false },
          legend: { show: lines.length > 1 },
          scales: { x: { range: (_, __, last) => [last - SPAN_S, last] }, y: { range: (_, __, top) => [0, top > 0 ? top * 1.1 : 1] } },
          axes: [{ ...axis, size: 26, values: (_, ticks) => ticks.map(minute) }, { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => format(tick)) }],
          series: [
            { value: (_, value) => (value === null ? "–" : new Date(value * 1000).toLocaleTimeString([], { hour12: false })) },
            ...lines.map(({ label }, i) => {
              const stroke = colourOf(COLOURS[i % COLOURS.length] ?? "text");
              const one: uPlot.Series = { label, stroke, width: 1.5, points: { show: false }, value: (_, value) => (value === null ? "–" : format(value)) };
              if (lines.length === 1) one.fill = stroke.replace("rgb(", "rgba(").replace(")", ", 0.12)");
              return one;
            }),
          ],
          hooks: {
            draw: [
              (u) => {
                u.ctx.save();
                u.ctx.lineWidth = 1;
                for (const one of shown.current) {
                  const x = Math.round(u.valToPos(one.at, "x", true)) + 0.5;
                  if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
                  u.ctx.strokeStyle = one.bad ? red : mark;
                  u.ctx.setLineDash([4, 3]);
                  u.ctx.beginPath();
                  u.ctx.moveTo(x, u.bbox.top);
                  u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
                  u.ctx.stroke();
                }
                u.ctx.restore();
              },
            ],
          },
        },
        [at, ...lines.map(({ values }) => values)] as uPlot.AlignedData,
        box,
      );
    };
    draw();
    const resize = new ResizeObserver(() => plot.current?.setSize({ width: box.clientWidth, height: HEIGHT }));
    resize.observe(box);
    changes.addEventListener("change", draw);
    return () => {
      resize.disconnect();
      changes.removeEventListener("change", draw);
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, [names]);
  const last = at[at.length - 1];
  useEffect(() => {
    plot.current?.setData([at, ...lines.map(({ values }) => values)] as uPlot.AlignedData);
  }, [last, at.length, names]);
  const now = lines.map(({ label, values }) => `${label}: ${format(values[values.length - 1] ?? 0)}`).join(", ");
  return (
    <figure class="card chart" aria-label={`${title}, the last ${span(Math.min(SPAN_S, (last ?? 0) - (at[0] ?? 0)))}, now ${now}`}>
      <figcaption>{title}</figcaption>
      <div ref={place} />
    </figure>
  );
}

function minute(at: number): string {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
}

/** What the latest marks of the charts are. */
export function Marks({ marks, now }: { marks: Mark[]; now: number }) {
  const recent = marks.filter((mark) => mark.at > now - SPAN_S);
  return (
    <p class="marks" aria-label="Events in the charts">
      {recent.slice(-4).map((mark) => (
        <span class={mark.bad ? "bad" : ""}>┆ {mark.text}</span>
      ))}
    </p>
  );
}
