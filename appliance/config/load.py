"""From the text of a configuration file to a `Config`, or to all mistakes at once."""

import gc
import hashlib
import re
import ssl
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from appliance.config import values
from appliance.config.document import Document, read_document
from appliance.config.files import IrregularFileError, as_a_whole, files_beside, opened
from appliance.config.foreign import FOREIGN
from appliance.config.merge import Merged, Part, merge
from appliance.config.monitors import Kind, settings_of, tls_of
from appliance.config.problems import (
    BadValueError,
    ConfigError,
    Finding,
    Location,
    Problem,
    did_you_mean,
    shown,
)
from appliance.config.rules import RULES
from appliance.config.schema import (
    AnnouncingTable,
    ApiTable,
    BfdTable,
    DirectorTable,
    File,
    MemberTable,
    MonitorTable,
    PeerTable,
    PoolTable,
    ProfileTable,
    ProtectionTable,
    QuicTable,
    RateTable,
    ServiceTable,
    Table,
    Tier2Table,
    spellings_of,
)
from appliance.model import (
    OUTER_TTL,
    QUIC_KEY,
    STATE_DIR,
    Announcing,
    ApiConfig,
    ApiTls,
    ApiToken,
    ApiUser,
    Bfd,
    BgpConfig,
    BgpPeer,
    Config,
    ConnectionLog,
    Delivery,
    DfPolicy,
    Director,
    DoctorConfig,
    DsrType,
    Encapsulation,
    Etcd,
    Flapping,
    Fleet,
    FleetPeer,
    Follow,
    Member,
    MonitorSpec,
    NetworkProfile,
    OuterSource,
    Pool,
    ProfileType,
    Protection,
    Proxy,
    QuicConfig,
    Rate,
    Step,
    Tier2,
    TtlPolicy,
    Vantage,
    VirtualService,
)
from appliance.passwords import digest_of, token_digest
from appliance.server_ids import collisions
from health.secure import Tls, context_of, reason_of

SECRET_BYTES = 16
"""The flow hash wants a key of 128 bits or more."""

TOKEN_LENGTH = 32
"""Characters of a token, so that nobody guesses it."""

_IDLE_TIMEOUT_S = {ProfileType.TCP_FAST_PATH: 300, ProfileType.UDP_FAST_PATH: 10, ProfileType.TCP_PROXY: 300}
_RECEIVE_TIMEOUT_S = 4.0


def load(path: Path) -> Config:
    """Read and check a configuration: the file, and the files of `conf.d` beside it. Files that they name are looked up
    from where the main one stands.

    Raises:
        ConfigError: it cannot be read or used; every mistake is in `problems`.
    """
    return load_document(read_document(path)).config


@dataclass(frozen=True)
class Loaded:
    """A configuration, and what it was made of."""

    document: Document
    config: Config
    named: Mapping[str, str]
    """Digests of the files that it names: secrets, passwords, certificates."""

    def still(self, document: Document) -> bool:
        """Whether *document*, and the files that it names, say the same as these have said."""
        if document.digest != self.document.digest:
            return False
        read = files_beside(self.document.path)
        try:
            return all(_digest(read(name)) == known for name, known in self.named.items())
        except OSError:
            return False


def load_document(document: Document) -> Loaded:
    """Check what is written.

    Raises:
        ConfigError: it cannot be used; every mistake is in `problems`.
    """
    read = files_beside(document.path)
    named: dict[str, str] = {}

    def noting(name: str) -> bytes:
        content = read(name)
        named[name] = _digest(content)
        return content

    config = parse_parts(document.parts, noting)
    for monitor in {monitor.name: monitor for pool in config.pools for monitor in pool.monitors}.values():
        for _, setting in monitor.settings:
            if isinstance(setting, Tls):
                for name in setting.files:
                    noting(name)
    for name in config.director.api.tls.files if config.director.api.tls is not None else ():
        noting(name)
    return Loaded(document, config, named)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def parse(
    text: str,
    source: str,
    read_file: Callable[[str], bytes],
    kept_from_us: Callable[[str], None] | None = None,
) -> Config:
    """Check the text of a configuration that is one file; as `parse_parts`."""
    return parse_parts((Part(source, text),), read_file, kept_from_us)


def parse_parts(
    parts: Sequence[Part],
    read_file: Callable[[str], bytes],
    kept_from_us: Callable[[str], None] | None = None,
) -> Config:
    """Check the texts of a configuration.

    Args:
        parts: TOML; the main file first.
        read_file: gives the content of a file by the name that stands in a text; raises OSError.
        kept_from_us: told the names of monitors' certificates and keys that this user may not read, for who only
            checks; None: that is a mistake like others.

    Raises:
        ConfigError: it cannot be used; every mistake is in `problems`.
    """
    with _without_collection():
        return _parse(parts, read_file, kept_from_us)


@contextmanager
def _without_collection() -> Iterator[None]:
    """A large file becomes a million objects that all stay: to look for garbage among them meanwhile takes a third of
    the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _parse(
    parts: Sequence[Part], read_file: Callable[[str], bytes], kept_from_us: Callable[[str], None] | None
) -> Config:
    merged = merge(parts, _contents(parts))
    data = merged.data
    file, findings = _shape(data)
    if isinstance(data.get("schema_version"), int) and data["schema_version"] != 1:
        # Another version's keys would all be wrong here: that is one mistake, not fifty.
        raise _with_lines([found for found in findings if found.location == ("schema_version",)], merged)
    others = {other for words in _OTHERS.values() for other in words}
    spelled = any("\\u" in part.text.lower() or other in part.text for part in parts for other in others)
    plain = _plain_keys(data, File) if spelled else data
    findings += (_as_written(finding, data) for rule in RULES for finding in rule(plain))
    secret = b""
    try:
        secret = _secret(data, read_file)
    except BadValueError as error:
        findings.append(Finding(("fleet", "secret_file"), error.message, error.remedy))
    agent_secret = b""
    try:
        agent_secret = _secret(data, read_file, "doctor", "agent_secret_file")
        if agent_secret and agent_secret == secret:
            raise BadValueError(
                "the same secret as the fleet's, which members must not know: who does can choose a flow's member",
                "make another one with `head -c 32 /dev/urandom | base64`",
            )
    except BadValueError as error:
        findings.append(Finding(("doctor", "agent_secret_file"), error.message, error.remedy))
    findings += _bad_certificates(file.health_monitor if file is not None else (), kept_from_us)
    findings += _bad_own_certificate(file.api if file is not None else ApiTable(), kept_from_us)
    if findings or merged.findings or file is None:
        raise _with_lines(findings, merged)
    quic_keys = {}
    for i, pool in enumerate(file.pool):
        for j, quic in enumerate(pool.quic):
            try:
                if quic.key_file is not None:
                    quic_keys[i, j] = _quic_key(quic.key_file, read_file)
            except BadValueError as error:
                findings.append(Finding(("pool", i, "quic", j, "key_file"), error.message, error.remedy))
    text = "\0".join(part.text for part in parts)
    digest = _digest(b"\0".join((text.encode(), secret, *filter(None, [agent_secret]), *quic_keys.values())))
    password = ""
    try:
        password = _password(file.fleet.etcd.password_file if file.fleet.etcd is not None else None, read_file) or ""
    except BadValueError as error:
        findings.append(Finding(("fleet", "etcd", "password_file"), error.message, error.remedy))
    peer_passwords = {}
    for i, peer in enumerate(file.bgp.peer if file.bgp is not None else ()):
        try:
            if (found := _password(peer.password_file, read_file)) is not None:
                peer_passwords[i] = values.password(found)
        except BadValueError as error:
            findings.append(Finding(("bgp", "peer", i, "password_file"), error.message, error.remedy))
    tokens = {}
    for i, token in enumerate(file.api.token):
        try:
            if (found := _password(token.token_file, read_file)) is not None:
                tokens[i] = _long_enough(found)
        except BadValueError as error:
            findings.append(Finding(("api", "token", i, "token_file"), error.message, error.remedy))
    if findings:
        raise _with_lines(findings, merged)
    config = _resolve(file, secret, password, peer_passwords, tokens, quic_keys, parts[0].source, digest)
    config = replace(config, doctor=replace(config.doctor, agent_secret=agent_secret or None))
    if findings := list(_same_server_ids(file, config)):
        raise _with_lines(findings, merged)
    return config


def _same_server_ids(file: File, config: Config) -> Iterator[Finding]:
    """Members with the same server ID, mostly since it has few bytes."""
    used = {pool.name: pool for pool in config.pools}
    for i, table in enumerate(file.pool):
        pool = used.get(table.name)
        for j, quic in enumerate(pool.quic if pool is not None else ()):
            for name, other in collisions(used[table.name], quic, config.secret):
                yield Finding(
                    ("pool", i, "quic", j),
                    f"{name} and {other} have the same server ID of {quic.server_id_length} bytes",
                    "use more of them, or give members a server_id",
                )


def _quic_key(name: str, read_file: Callable[[str], bytes]) -> bytes:
    """The key in a file: 32 hexadecimal digits; white space and colons may stand between bytes.

    Raises:
        BadValueError: the file cannot be read, or has no key.
    """
    make_one = "make one with `head -c 16 /dev/urandom | xxd -p`, the same on every director and member"
    try:
        text = read_file(name)
    except OSError as error:
        why = error.strerror.lower() if error.strerror else "it cannot be read"
        raise BadValueError(f"{shown(name)}: {why}", make_one) from None
    try:
        key = bytes.fromhex(text.decode("ascii").replace(":", ""))
    except ValueError:
        raise BadValueError(f"{shown(name)} is not hexadecimal", make_one) from None
    if len(key) != QUIC_KEY:
        raise BadValueError(f"{shown(name)} has {len(key)} bytes, a key has {QUIC_KEY}", make_one)
    return key


def _contents(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """
    Raises:
        ConfigError: some of the texts are not TOML.
    """
    contents, problems = [], []
    for part in parts:
        try:
            contents.append(tomllib.loads(part.text))
        except ValueError as error:  # TOMLDecodeError is one; numbers of thousands of digits give a plain one
            problems.append(_syntax_problem(error, part.text, part.source))
        except RecursionError:
            problems += as_a_whole(
                part.source, "lists or tables are nested too deeply", "no key needs more than three"
            ).problems
    if problems:
        raise ConfigError(problems)
    return contents


def _with_lines(findings: Sequence[Finding], merged: Merged) -> ConfigError:
    return ConfigError(merged.problems(findings))


def _syntax_problem(error: ValueError, text: str, source: str) -> Problem:
    """`tomllib` says what is wrong and appends the place."""
    message, _, place = str(error).partition(" (at ")
    message = message[:1].lower() + message[1:]
    remedy = "correct this line first; nothing below it was checked"
    if match := re.match(r"line (\d+), column (\d+)", place):
        return Problem(source, int(match[1]), "", f"not TOML: {message} at column {match[2]}", remedy)
    if place:
        last = text.rstrip().count("\n") + 1
        return Problem(source, last, "", f"not TOML: {message} at the end of the file", "complete this line")
    return Problem(source, None, "", f"not TOML: {message}", "correct the file first; nothing in it was checked")


def _secret(
    data: Mapping[str, Any], read_file: Callable[[str], bytes], table: str = "fleet", key: str = "secret_file"
) -> bytes:
    """A secret, the fleet's hash key or another: the content of its file without white space around it; empty where
    none is named.

    Raises:
        BadValueError: the file cannot be read or is too short.
    """
    given = data.get(table)
    name = given.get(key) if isinstance(given, dict) else None
    if not isinstance(name, str) or not name or "\0" in name:
        return b""
    make_one = "make one with `head -c 32 /dev/urandom | base64`, the same on every director"
    try:
        secret = read_file(name).strip()
    except FileNotFoundError:
        raise BadValueError(f"{shown(name)}: no such file", make_one) from None
    except PermissionError:
        raise BadValueError(f"{shown(name)}: permission denied", "make it readable for this user") from None
    except IrregularFileError:
        raise BadValueError(f"{shown(name)}: not a regular file", f"keep the key in a file; {make_one}") from None
    except OSError as error:
        raise BadValueError(f"{shown(name)}: cannot be read: {error.strerror}", "name a readable file") from None
    if len(secret) < SECRET_BYTES:
        raise BadValueError(f"{shown(name)} has {len(secret)} bytes, {SECRET_BYTES} are needed", make_one)
    return secret


def _bad_certificates(
    monitors: Iterable[MonitorTable], kept_from_us: Callable[[str], None] | None
) -> Iterator[Finding]:
    """What is wrong with the files that health monitors need: a running director must not stumble over them."""
    for i, table in enumerate(monitors):
        tls = tls_of(table)
        if tls is None or not tls.files:
            continue
        unread = _unreadable({key: getattr(table, key) for key in ("ca_file", "cert_file", "key_file")})
        yield from _cannot_be_read(unread, ("health_monitor", i), kept_from_us)
        if unread:
            continue
        for key, part in (("ca_file", replace(tls, cert_file=None, key_file=None)), ("cert_file", tls)):
            try:
                context_of(part)
            except OSError as error:
                why = reason_of(error) if isinstance(error, ssl.SSLError) else str(error)
                message = f"{shown(getattr(table, key))} cannot be used: {why}"
                yield Finding(("health_monitor", i, key), message, "use PEM files, the key without a password")
                break


def _bad_own_certificate(table: ApiTable, kept_from_us: Callable[[str], None] | None) -> Iterator[Finding]:
    """What is wrong with the API's certificate."""
    keys = ("tls_cert_file", "tls_key_file", "client_ca_file")
    unread = _unreadable({key: getattr(table, key) for key in keys})
    yield from _cannot_be_read(unread, ("api",), kept_from_us)
    if unread or table.tls_cert_file is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = "tls_cert_file"
    try:
        context.load_cert_chain(table.tls_cert_file, table.tls_key_file, password=_no_password)
        key = "client_ca_file"
        if table.client_ca_file is not None:
            context.load_verify_locations(table.client_ca_file)
    except (OSError, ValueError) as error:
        why = reason_of(error) if isinstance(error, ssl.SSLError) else str(error)
        remedy = "use PEM files, the key without a password"
        yield Finding(("api", key), f"{shown(getattr(table, key))} cannot be used: {why}", remedy)


def _unreadable(files: Mapping[str, str | None]) -> dict[str, tuple[str, OSError]]:
    """Which of some files cannot be read, and why, by key; None names no file."""
    found = {}
    for key, name in files.items():
        if name is not None:
            try:
                opened(Path(name)).close()
            except OSError as error:
                found[key] = name, error
    return found


def _cannot_be_read(
    files: Mapping[str, tuple[str, OSError]], place: Location, kept_from_us: Callable[[str], None] | None
) -> Iterator[Finding]:
    """Findings about files that cannot be read; *kept_from_us*, if given, is told of those that we may not read."""
    for key, (name, error) in files.items():
        if isinstance(error, PermissionError) and kept_from_us is not None:
            kept_from_us(name)
            continue
        why = (error.strerror or str(error)).lower()
        yield Finding((*place, key), f"{shown(name)}: {why}", "name a file that can be read")


def _no_password() -> str:
    """Or OpenSSL would ask whoever sits at the terminal."""
    raise ValueError("the key has a password")


def _password(name: str | None, read_file: Callable[[str], bytes]) -> str | None:
    """The password in a file, without white space around it; None where none is named.

    Raises:
        BadValueError: the file cannot be read.
    """
    if name is None:
        return None
    try:
        return read_file(name).strip().decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "not text"
        raise BadValueError(f"{shown(name)}: cannot be read: {why}", "name a readable file of text") from None


# ---------------------------------------------------------------------------------------------------------------------
# Pydantic's findings in our words


def _shape(data: Mapping[str, Any]) -> tuple[File | None, list[Finding]]:
    """The typed tables, or what is wrong with single values."""
    try:
        return File.model_validate(data), []
    except ValidationError as error:
        return None, [_finding(detail) for detail in error.errors(include_url=False)]


def _finding(detail: ErrorDetails) -> Finding:
    location = detail["loc"]
    value = detail["input"]
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, BadValueError):
        return Finding(location, cause.message, cause.remedy)
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(location, value)
        case "missing":
            return Finding(location, "missing", _how_to_add(location))
        case "too_short":
            return Finding(location, "the list is empty", _how_to_add(location))
        case "too_long":
            most = detail["ctx"]["max_length"]
            return Finding(location, f"the list has more than {most} elements", f"use {most} at most")
        case "list_type":
            return Finding(location, f"{shown(value)} is not a list", _how_to_add(location))
        case "model_type" | "dict_type" | "model_attributes_type":
            return Finding(location, f"{shown(value)} is not a table", _how_to_add(location))
    return Finding(location, detail["msg"], f"it is {shown(value)}")


def _plain_keys(data: Any, table: type[BaseModel]) -> Any:
    """The same with keys as they are recommended, so that rules know one name of each; both names stay where both are
    written, which is a mistake of its own."""
    if isinstance(data, list):
        return [_plain_keys(each, table) for each in data]
    if not isinstance(data, dict):
        return data
    made = {}
    for key, value in data.items():
        name = _OTHERS.get(table, {}).get(key, key)
        inner = table_in(table, name)
        made[key if name in data else name] = _plain_keys(value, inner) if inner is not None else value
    return made


_OTHERS: Mapping[type[BaseModel], Mapping[str, str]] = {
    table: {other: name for name in table.model_fields for other in spellings_of(table, name)[1:]}
    for table in Table.__subclasses__()
}
"""By table, other names of keys."""


def _as_written(finding: Finding, data: Any) -> Finding:
    """With the place as it is written."""
    location: Location = ()
    for plain in finding.location:
        step, names = plain, _OTHERS.get(_table_at(location), {})
        if isinstance(data, dict) and plain not in data:
            step = next((other for other, name in names.items() if name == plain and other in data), plain)
        location += (step,)
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            data = None
    return replace(finding, location=location)


def _unknown_key(location: Location, value: object) -> Finding:
    key = str(location[-1])
    table = _table_at(location[:-1])
    if foreign := FOREIGN.get(table, {}).get(key):
        return Finding(location, f"unknown key: {foreign[0]}", foreign[1])
    spellings = {name: spellings_of(table, name) for name in table.model_fields}
    for name, words in spellings.items():
        if key in words:  # the other spelling was there first
            return Finding(location, f"the same as `{name}`, which is there already", "leave one of the two out")
    known = ", ".join(spellings)
    return Finding(location, "unknown key", f"{did_you_mean(key, spellings)}known here: {known}")


def _how_to_add(location: Location) -> str:
    """How a missing key, or one of the wrong kind, would be written."""
    names = [part for part in location if isinstance(part, str)]
    table = _table_at(location[:-1])
    field = table.model_fields.get(str(location[-1]))
    model = _model_of(field.annotation) if field else _table_at(location)
    if model is not None:
        is_list = field is None or _is_list(field.annotation)
        header = ".".join(names)
        return f"write a [[{header}]] table" if is_list else f"write a [{header}] table"
    example = field.examples[0] if field and field.examples else None
    if isinstance(example, list):
        return f"write {location[-1]} = [{', '.join(map(shown, example))}]"
    if example is not None:
        return f"write {location[-1]} = {shown(example)}"
    return f"write {location[-1]} = [...]"


def _table_at(location: Location) -> type[BaseModel]:
    """The schema of the table at *location*."""
    table: type[BaseModel] = File
    for part in location:
        name = next((name for name in table.model_fields if part in spellings_of(table, name)), None)
        if name is not None:
            table = _model_of(table.model_fields[name].annotation) or table
    return table


def _model_of(annotation: object) -> type[BaseModel] | None:
    """The table class in `T`, `T | None` or `list[T]`; None for plain values."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, list):
        return next((model for arg in get_args(annotation) if (model := _model_of(arg))), None)
    return None


def table_in(table: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The schema of the table, or of the tables of a list, at a key; None for plain values and unknown keys."""
    field = table.model_fields.get(key)
    return _model_of(field.annotation) if field is not None else None


def _is_list(annotation: object) -> bool:
    return get_origin(annotation) is list


# ---------------------------------------------------------------------------------------------------------------------
# From tables to the model


def _resolve(
    file: File,
    secret: bytes,
    password: str,
    peer_passwords: Mapping[int, str],
    tokens: Mapping[int, str],
    quic_keys: Mapping[tuple[int, int], bytes],
    source: str,
    digest: str,
) -> Config:
    """References become the things they name; the rules have made sure that they exist."""
    profiles = {table.name: profile_of(table) for table in file.network_profile}
    monitors = {table.name: monitor_of(table) for table in file.health_monitor}
    pools = {
        table.name: _pool(table, monitors, {j: key for (of, j), key in quic_keys.items() if of == i})
        for i, table in enumerate(file.pool)
    }
    return Config(
        director=Director(
            name=file.director.name,
            role=file.director.role,
            interfaces=tuple(file.director.interfaces),
            plane=file.director.plane,
            runtime_dir=file.director.runtime_dir,
            api=_api(file.api, tokens),
            pins=file.director.pins,
            state_dir=state_dir_of(file.director),
            drain_on_stop_s=float(file.director.drain_on_stop),
            least_path_mtu=file.director.least_path_mtu,
            restart_grace_s=float(file.director.restart_grace),
            outer_source_prefixes=tuple(file.director.outer_source_prefixes),
        ),
        secret=secret,
        bgp=_bgp(file, peer_passwords),
        services=tuple(
            _service(table, profiles[table.network_profile], pools[table.pool])
            for table in file.virtual_service
            if table.traffic
        ),
        proxies=tuple(
            _proxy(table, profile, pools[table.pool])
            for table in file.virtual_service
            for profile in file.network_profile
            if not table.traffic and table.enabled and profile.name == table.network_profile
        ),
        tier2=_tier2(file.tier2) if file.tier2 is not None else None,
        fleet=_fleet(file, password),
        connection_log=ConnectionLog(
            file.connection_log.one_of,
            PurePosixPath(file.connection_log.file) if file.connection_log.file is not None else None,
        ),
        doctor=DoctorConfig(float(file.doctor.interval), file.doctor.on_change, file.doctor.agent_port),
        source=source,
        digest=digest,
    )


def state_dir_of(table: DirectorTable) -> PurePosixPath:
    """An instance that has a runtime directory of its own must not share what it keeps with another one either."""
    if table.state_dir is not None:
        return table.state_dir
    usual = table.runtime_dir == DirectorTable.model_fields["runtime_dir"].default
    return STATE_DIR if usual else table.runtime_dir


def _fleet(file: File, password: str) -> Fleet:
    etcd = file.fleet.etcd
    return Fleet(
        directors=tuple(FleetPeer(peer.name, peer.address, peer.port) for peer in file.fleet.director),
        etcd=Etcd(
            endpoints=tuple(etcd.endpoints),
            prefix=etcd.prefix,
            user=etcd.user or "",
            password=password,
            ca_file=etcd.ca_file,
            cert_file=etcd.cert_file,
            key_file=etcd.key_file,
        )
        if etcd is not None
        else None,
    )


def _long_enough(token: str) -> str:
    """
    Raises:
        BadValueError: this token can be guessed.
    """
    if len(token) < TOKEN_LENGTH:
        remedy = "make one with `onward api new-token`"
        raise BadValueError(f"the token has {len(token)} characters, {TOKEN_LENGTH} are needed", remedy)
    return token


def _api(table: ApiTable, tokens: Mapping[int, str]) -> ApiConfig:
    return ApiConfig(
        table.address,
        table.port,
        tls=ApiTls(table.tls_cert_file, table.tls_key_file, table.client_ca_file)
        if table.tls_cert_file is not None
        else None,
        users=tuple(ApiUser(user.name, user.role, user.password_hash) for user in table.user),
        tokens=tuple(
            ApiToken(
                token.name, token.role, token_digest(tokens[i]) if i in tokens else digest_of(token.token_hash or "")
            )
            for i, token in enumerate(table.token)
        ),
    )


def _bgp(file: File, passwords: Mapping[int, str]) -> BgpConfig | None:
    if file.bgp is None:
        return None
    return BgpConfig(
        local_as=file.bgp.local_as,
        router_id=file.bgp.router_id,
        peers=tuple(_peer(peer, passwords.get(i, peer.password)) for i, peer in enumerate(file.bgp.peer)),
        next_hop_v4=file.bgp.next_hop_v4,
        next_hop_v6=file.bgp.next_hop_v6,
        hold_down_s=float(file.bgp.hold_down),
    )


def _peer(table: PeerTable, password: str | None) -> BgpPeer:
    return BgpPeer(
        address=table.address,
        remote_as=table.remote_as,
        hold_time_s=table.hold_time,
        local_address=table.local_address,
        password=password,
        bfd=_bfd(table.bfd),
        labels=frozenset(table.labels),
        multihop=table.multihop,
        ttl_security=table.ttl_security,
        passive=table.passive,
        port=table.port,
        next_hop_v4=table.next_hop_v4,
        next_hop_v6=table.next_hop_v6,
        next_hop_self=table.next_hop_self,
    )


def _announcing(table: AnnouncingTable) -> Announcing:
    return Announcing(
        peer_labels=frozenset(table.peer_labels),
        med=table.med,
        local_preference=table.local_preference,
        prepend=table.prepend,
        communities=tuple(table.communities),
        large_communities=tuple(table.large_communities),
        standby_communities=tuple(table.standby_communities),
        step=Step(table.step.med, table.step.local_preference, table.step.prepend),
    )


def _bfd(table: BfdTable | None) -> Bfd | None:
    return None if table is None else Bfd(table.interval, table.multiplier, table.multihop, table.passive)


def profile_of(table: ProfileTable) -> NetworkProfile:
    if table.dsr.type is DsrType.L2:
        delivery = Delivery(DsrType.L2, None, TtlPolicy.TRANSPARENT)
    else:
        encapsulation = table.dsr.encapsulation or Encapsulation.IPIP
        delivery = Delivery(
            DsrType.L3,
            encapsulation,
            table.ttl or TtlPolicy.ROUTER,
            table.dsr.outer_df or DfPolicy.COPY_INNER,
            table.dsr.outer_ttl or OUTER_TTL,
            table.dsr.outer_source or OuterSource.INTERFACE,
        )
    timeout = table.session_idle_timeout
    timeout = _IDLE_TIMEOUT_S[table.type] if timeout is None else timeout
    return NetworkProfile(table.name, table.type, delivery, timeout, table.per_packet)


def monitor_of(table: MonitorTable) -> MonitorSpec:
    timeout = table.receive_timeout
    if timeout is None:
        timeout = min(_RECEIVE_TIMEOUT_S, 0.8 * table.send_interval)
    return MonitorSpec(
        name=table.name,
        kind=table.type.value,
        send_interval_s=table.send_interval,
        receive_timeout_s=timeout,
        rise=table.successful_checks,
        fall=table.failed_checks,
        monitor_port=table.monitor_port,
        settings=settings_of(table),
        quick_start=table.quick_start,
        vantage=Vantage.DIRECT if table.type is Kind.EXTERNAL else table.vantage,
    )


def _pool(table: PoolTable, monitors: Mapping[str, MonitorSpec], quic_keys: Mapping[int, bytes]) -> Pool:
    return Pool(
        name=table.name,
        algorithm=table.algorithm,
        hash_mode=table.hash,
        members=tuple(_member(member) for member in table.member),
        monitors=tuple(monitors[name] for name in table.health_monitors),
        window_s=float(table.transition_window),
        quiet_s=float(min(table.transition_quiet, table.transition_window)),
        drain_timeout_s=float(table.drain_timeout) or None,
        slow_start_s=float(table.slow_start),
        panic_percent=table.panic_percent,
        min_monitors_up=table.min_monitors_up,
        flapping=Flapping(float(table.flap_half_life), float(table.flap_suppress), float(table.flap_reuse))
        if table.flap_half_life
        else None,
        passive_share=table.passive_share if table.passive else 0.0,
        passive_weight=table.passive_weight,
        quic=tuple(_quic(quic, quic_keys.get(j)) for j, quic in enumerate(table.quic)),
        follow=Follow(
            table.follow.folder, table.follow.dns, table.follow.store, table.follow.version, table.follow.interval
        )
        if table.follow is not None
        else None,
    )


def _quic(table: QuicTable, key: bytes | None) -> QuicConfig:
    return QuicConfig(
        table.config_id, table.server_id_length, table.nonce_length, key, table.key_file, table.encode_length
    )


def _member(table: MemberTable) -> Member:
    return Member(
        table.name or str(table.address),
        table.address,
        table.ratio,
        table.enabled,
        max_connections=table.max_connections,
        load_port=table.load_port,
        server_id=table.server_id,
    )


def _service(table: ServiceTable, profile: NetworkProfile, pool: Pool) -> VirtualService:
    return VirtualService(
        name=table.name,
        vips=tuple(table.vips),
        ports=tuple(table.ports),
        profile=profile,
        pool=pool,
        enabled=table.enabled,
        ha=table.ha,
        prefer=tuple(table.prefer),
        primaries=table.primaries or 1,
        min_members=table.min_members,
        advertise_down=table.advertise_down,
        needs_all=table.needs_all,
        announcing=_announcing(table.bgp),
        arp=table.arp,
        reject_other_ports=table.reject_other_ports,
        protection=_protection(table.protection) if table.protection is not None else None,
    )


def _proxy(table: ServiceTable, profile: ProfileTable, pool: Pool) -> Proxy:
    return Proxy(
        name=table.name,
        vips=tuple(table.vips),
        ports=tuple(table.ports),
        pool=pool,
        http=profile.http,
        server_port=table.server_port,
        certificate=table.certificate,
        idle_timeout_s=profile.session_idle_timeout or _IDLE_TIMEOUT_S[ProfileType.TCP_PROXY],
    )


def _tier2(table: Tier2Table) -> Tier2:
    return Tier2(
        addresses=tuple(table.addresses),
        sources=tuple(table.sources),
        decapsulator=table.decapsulator,
        mtu=table.mtu,
        drain_timeout_s=float(table.drain_timeout),
        haproxy=table.haproxy,
    )


def _protection(table: ProtectionTable) -> Protection:
    def rate(limit: RateTable | None) -> Rate | None:
        return None if limit is None else Rate(limit.rate, limit.burst or limit.rate)

    return Protection(
        deny=tuple(table.deny),
        allow=tuple(table.allow),
        per_source=rate(table.per_source),
        per_vip=rate(table.per_vip),
        per_service=rate(table.per_service),
    )
