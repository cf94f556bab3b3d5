import { clock } from "./format";
import { told, type Happening } from "./happened";

/** Events as rows of a table, the latest first. */
export function EventRows({ items }: { items: readonly Happening[] }) {
  return (
    <>
      {[...items].reverse().map((one) => (
        <tr key={one.id}>
          <td>{clock(one.at)}</td>
          <td class={one.level}>{one.event}</td>
          <td class="fields">{told(one)}</td>
        </tr>
      ))}
    </>
  );
}
