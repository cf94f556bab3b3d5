"""`onward quic`: what members must know to name themselves in connection IDs, and whose a connection ID is."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter
from appliance.cli.listing import DEFAULTS, Column, ListOptions, View
from appliance.cli.listing import show as show_list
from appliance.cli.output import Exit, complain, print_json, print_problems
from appliance.config.load import load
from appliance.config.problems import ConfigError, did_you_mean
from appliance.model import Config, Pool, QuicConfig
from appliance.packet.quic import server_id_of
from appliance.server_ids import server_ids

app = App(
    name="quic",
    help="Show what members need to make connection IDs of QUIC, and whose a connection ID is.",
    help_formatter=HelpFormatter(),
    help_format="plaintext",
)

Only = Annotated[str, Parameter(help="Only this one.")]
AsJson = Annotated[bool, Parameter(name=["--json"], negative="", help="Print JSON.")]


class _NotFoundError(Exception):
    pass


@app.command
def config(file: Path, /, *, pool: Only = "", member: Only = "", options: ListOptions = DEFAULTS) -> int:
    """Print each member's configuration: its server ID, of how many bytes a nonce is, and where the key comes from.

    New connection IDs are made by the first configuration of the pool; the others are still understood, until no
    connection has an ID of theirs any more. To change a key: add a configuration with another config ID behind the
    first on all directors, then put it first and configure members by it, and take the old one out when connections
    from before are over. It is the same on every director; the key itself is never printed.

    Exit codes: 0 done; 4 the configuration is invalid; 5 nobody of that name, or no pool carries QUIC.

    Parameters
    ----------
    file
        The configuration file.
    """

    def show(checked: Config) -> int:
        rows = list(_rows(checked, pool, member))
        if not rows:
            raise _NotFoundError(f"no member {member} in pools that carry QUIC" if member else "no pool carries QUIC")
        return show_list(MEMBERS, options, lambda: {"members": rows})

    return _with(file, show)


@app.command
def whose(file: Path, cid: str, /, *, pool: Only = "", as_json: AsJson = False) -> int:
    """Say which member a connection ID names, if any.

    Exit codes: 0 it names a member; 2 it is not hexadecimal; 4 the configuration is invalid; 5 it names nobody.

    Parameters
    ----------
    file
        The configuration file.
    cid
        The connection ID, hexadecimal.
    """
    try:
        name = bytes.fromhex(cid.replace(":", ""))
    except ValueError:
        complain(f"{cid} is not hexadecimal")
        return Exit.USAGE

    def show(checked: Config) -> int:
        found = [
            {"pool": one.name, "member": owner, "config_id": quic.config_id, "server_id": server_id.hex()}
            for one, quic in _configs(checked, pool)
            if (server_id := server_id_of(name, quic)) is not None
            for owner, known in server_ids(one, quic, checked.secret).items()
            if known == server_id
        ]
        if not found:
            raise _NotFoundError(f"{cid} names nobody: it goes by the hash of addresses and ports")
        if as_json:
            print_json({"members": found})
        else:
            print("\n".join(f"{one['pool']}/{one['member']}" for one in found))
        return Exit.OK

    return _with(file, show)


def _with(file: Path, show: Callable[[Config], int]) -> int:
    try:
        return show(load(file))
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
    except _NotFoundError as error:
        complain(str(error))
        return Exit.NOT_FOUND


def _configs(checked: Config, only: str) -> Iterator[tuple[Pool, QuicConfig]]:
    names = [pool.name for pool in checked.pools if pool.quic]
    if only and only not in names:
        there = f"pools that do: {', '.join(names)}" if names else "none does"
        raise _NotFoundError(f"no pool {only} carries QUIC; {did_you_mean(only, names)}{there}")
    for pool in checked.pools:
        if not only or pool.name == only:
            yield from ((pool, quic) for quic in pool.quic)


def _rows(checked: Config, only_pool: str, only_member: str) -> Iterator[dict[str, Any]]:
    for pool, quic in _configs(checked, only_pool):
        for name, server_id in server_ids(pool, quic, checked.secret).items():
            if not only_member or name == only_member:
                yield {
                    "pool": pool.name,
                    "member": name,
                    "config_id": quic.config_id,
                    "server_id": server_id.hex(),
                    "nonce_length": quic.nonce_length,
                    "encode_length": quic.encode_length,
                    "key_file": quic.key_file,
                    "new_ids": quic is pool.quic[0],
                }


MEMBERS = View(
    columns=(
        Column("POOL", lambda row: row["pool"]),
        Column("MEMBER", lambda row: row["member"]),
        Column("CONFIG", lambda row: row["config_id"], right=True),
        Column("SERVER ID", lambda row: row["server_id"]),
        Column("NONCE", lambda row: row["nonce_length"], right=True),
        Column("LENGTH", lambda row: "encoded" if row["encode_length"] else "random"),
        Column("KEY FILE", lambda row: row["key_file"] or "none: readable"),
        Column("NEW IDS", lambda row: "yes" if row["new_ids"] else "no"),
    ),
    rows=lambda document: document["members"],
    name=lambda row: f"{row['pool']}/{row['member']}",
)
