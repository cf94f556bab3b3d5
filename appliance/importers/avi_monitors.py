"""Health monitors of Avi. Pure."""

import re
from collections.abc import Callable

from appliance.config import monitors as kinds
from appliance.config.problems import BadValueError
from appliance.importers.avi_objects import ANYTHING, NOTHING, Objects, Unused
from appliance.importers.base import Grade
from appliance.importers.document import Draft, Value
from appliance.importers.jsontree import Json

_UNUSED: Unused = {
    "allow_duplicate_monitors": (ANYTHING, "monitors with the same settings are asked once each", ""),
    "authentication": (
        ANYTHING,
        "checks say no passwords",
        "use a page that needs none, or a monitor of type external",
    ),
    "description": (NOTHING, "monitors have no description", ""),
}
_UNUSED_HTTP: Unused = {
    "exact_http_request": (False, "requests have the header fields of ours", "see path, host and method"),
    "http_request_body": ("", "requests have no body", ""),
    "http_request_header_path": ("", "requests have the header fields of ours", ""),
    "auth_type": (ANYTHING, "checks say no passwords", "use a page that needs none"),
}
_UNUSED_TLS: Unused = {
    "ssl_profile_ref": (ANYTHING, "the versions and ciphers of TLS are the system's", ""),
    "ssl_key_and_certificate_ref": (ANYTHING, "certificates are files here", "write cert_file and key_file"),
    "pki_profile_ref": (ANYTHING, "certificates are files here", "write ca_file, and tls_verify = true"),
}


def monitor(objects: Objects, draft: Draft, node: Json) -> str | None:
    """The name of the health monitor made of an object; None: it has no equivalent, which is told."""
    name = objects.text(node, "name") or "monitor"
    kind_node = node.get("type")
    kind_text = objects.text(node, "type") or ""
    try:
        kind = kinds.kind(kind_text)
    except BadValueError as error:
        objects.report.lost(node, f"health monitor {name}: {error.message}", error.remedy)
        return None
    if kind is kinds.Kind.EXTERNAL:
        objects.report.lost(
            node,
            f"health monitor {name}: its script is in the controller",
            'save it as a file and write a [[health_monitor]] with type = "external" and command',
        )
        return None
    make = _KINDS.get(kind)
    if make is None:
        objects.report.lost(kind_node or node, f"health monitor {name}: nothing is made of this type here")
        return None
    values: dict[str, Value] = {"type": str(kind)}
    _timing(objects, node, values)
    inner = node.get(f"{kind}_monitor")
    if inner is not None:
        make(objects, inner, values)
        objects.tell_rest(inner, _UNUSED_HTTP if kind in (kinds.Kind.HTTP, kinds.Kind.HTTPS) else {})
        if not inner.parts:
            inner.use()
    elif kind is kinds.Kind.DNS:
        objects.bad(node, "a monitor of type DNS without dns_monitor.query_name", "add the name to ask for")
    if kind is kinds.Kind.HTTPS and "tls_verify" not in values:
        values["tls_verify"] = False  # without a PKI profile no certificate is looked at
    objects.tell_rest(node, _UNUSED)
    return draft.monitor(name, values, f"From {node.place}: {name}")


def _timing(objects: Objects, node: Json, values: dict[str, Value]) -> None:
    interval = objects.whole(node, 10, 1, 3600, "send_interval")
    timeout = objects.whole(node, 4, 1, 2400, "receive_timeout")
    values["send_interval"] = interval
    if timeout >= interval:
        shorter: Value = round(0.8 * interval, 1)
        objects.report.about(
            Grade.CHANGED,
            node.get("receive_timeout") or node.get("send_interval") or node,
            f"a check has to end before the next one begins: receive_timeout is {shorter} s",
        )
        values["receive_timeout"] = shorter
    else:
        values["receive_timeout"] = timeout
    values["successful_checks"] = objects.whole(node, 2, 1, 50, "successful_checks")
    values["failed_checks"] = objects.whole(node, 2, 1, 50, "failed_checks")
    port = objects.whole(node, 0, 0, 65535, "monitor_port")
    if port and values["type"] == "ping":
        objects.report.left_out(node.keys["monitor_port"], "a ping has no port")
    elif port:
        values["monitor_port"] = port
    if objects.flag(node, False, "disable_quickstart"):
        values["quick_start"] = False


def _conversation(objects: Objects, node: Json, values: dict[str, Value], kind: str) -> None:
    for key, ours in ((f"{kind}_request", "request"), (f"{kind}_response", "response")):
        if (text := objects.text(node, key)) is not None:
            values[ours] = text
    maintenance = objects.text(node, "maintenance_response")
    if maintenance is not None and (kind == "udp" or "response" in values):
        values["maintenance_response"] = maintenance
    elif maintenance is not None:
        objects.report.lost(node.keys["maintenance_response"], "nothing is read without a response", "add a response")


def _tcp(objects: Objects, node: Json, values: dict[str, Value]) -> None:
    if objects.flag(node, False, "tcp_half_open"):
        values["half_open"] = True
        for key in ("tcp_request", "tcp_response", "maintenance_response"):
            if (found := node.get(key)) is not None and found.value:
                objects.report.lost(found, "nothing is said over a half-open connection", "leave half_open out")
        return
    _conversation(objects, node, values, "tcp")


def _udp(objects: Objects, node: Json, values: dict[str, Value]) -> None:
    _conversation(objects, node, values, "udp")


def _http(objects: Objects, node: Json, values: dict[str, Value]) -> None:
    request = node.get("http_request")
    if request is not None:
        _request(objects, request, objects.text(node, "http_request") or "", values)
    codes = [code for each in _each(node, "http_response_code") if (code := _class(objects, each)) is not None]
    if codes:
        values["response_codes"] = codes
    maintenance: list[Value] = []
    for each in _each(node, "maintenance_code"):
        each.use()
        wanted = each.value
        if isinstance(wanted, bool) or not isinstance(wanted, int) or not 101 <= wanted <= 599:
            objects.bad(each, f"{each.text} is not a status code", "use 101..599")
        else:
            maintenance.append(wanted)
    if maintenance:
        values["maintenance_codes"] = maintenance[:4]
    for key, ours in (("http_response", "response"), ("maintenance_response", "maintenance_response")):
        text = objects.text(node, key)
        if text is not None and values.get("method") == "HEAD":
            objects.report.lost(node.keys[key], "answers to HEAD have no body", "use GET")
        elif text is not None:
            values[ours] = text
    size = node.get("response_size")
    if size is not None and size.value is not None:
        values["response_size"] = objects.whole(node, 2048, 2048, 16384, "response_size")
    tls = node.get("ssl_attributes")
    if tls is not None:
        if (name := objects.word(tls, kinds.server_name, "server_name")) is not None:
            values["server_name"] = name
        objects.tell_rest(tls, _UNUSED_TLS)
        if not tls.parts:
            tls.use()
        if values["type"] == "http" and "server_name" in values:
            del values["server_name"]
            objects.report.lost(tls, "there is no TLS in http", "use type https")


def _each(node: Json, key: str) -> list[Json]:
    found = node.get(key)
    if found is None:
        return []
    if not found.parts:
        found.use()
    return found.items


def _class(objects: Objects, node: Json) -> Value | None:
    """`HTTP_2XX` as `2xx`."""
    word = node.value if isinstance(node.value, str) else ""
    node.use()
    if match := re.fullmatch(r"HTTP_([1-5]XX|ANY)", word):
        return match[1].lower()
    objects.bad(node, f"{node.text} is not a class of status codes", "use HTTP_ANY, HTTP_1XX to HTTP_5XX")
    return None


def _request(objects: Objects, node: Json, text: str, values: dict[str, Value]) -> None:
    """Method, path and host of a request as it is sent."""
    lines = text.replace("\\r", "\r").replace("\\n", "\n").split("\n")
    match = re.fullmatch(r"([A-Za-z]+) +(\S+)(?: +HTTP/[0-9.]+)?\s*", lines[0])
    if match is None:
        objects.report.lost(node, "this is no request of HTTP; GET / is sent", "write method, path and host")
        return
    _put(objects, node, kinds.method, match[1], values, "method", "GET")
    _put(objects, node, kinds.http_path, match[2], values, "path", "/")
    for line in lines[1:]:
        field, colon, value = line.partition(":")
        if field.strip().lower() == "host" and colon:
            _put(objects, node, kinds.host, value.strip(), values, "host", None)
        elif line.strip():
            objects.report.lost(node, f"the header field `{line.strip()[:60]}` is not sent", "")


def _put(
    objects: Objects,
    node: Json,
    parse: Callable[[object], str],
    text: str,
    values: dict[str, Value],
    key: str,
    default: str | None,
) -> None:
    try:
        if parse(text) != default:
            values[key] = text
    except BadValueError as error:
        objects.report.lost(node, error.message, error.remedy)


def _dns(objects: Objects, node: Json, values: dict[str, Value]) -> None:
    name = objects.text(node, "query_name")
    try:
        values["query_name"] = kinds.dns_name(name)
    except BadValueError as error:
        objects.bad(node.get("query_name") or node, error.message, error.remedy)
    kind = objects.text(node, "record_type")
    if kind is not None:
        _put(objects, node.keys["record_type"], kinds.record_type, kind.removeprefix("DNS_RECORD_"), values,
             "record_type", None)  # fmt: skip
    rcode = objects.text(node, "rcode")
    if rcode == "RCODE_ANYTHING":
        values["rcode"] = kinds.ANY
    elif rcode not in (None, "RCODE_NO_ERROR"):
        objects.report.lost(node.keys["rcode"], "this is no rcode that is known", "write rcode")
    wanted = objects.word(node, kinds.wanted, "qtype")
    if wanted is not None:
        values["qtype"] = str(wanted)
    if (text := objects.text(node, "response_string")) is not None:
        values["response"] = text


def _ping(_objects: Objects, _node: Json, _values: dict[str, Value]) -> None:
    """It has no settings."""


_KINDS: dict[kinds.Kind, Callable[[Objects, Json, dict[str, Value]], None]] = {
    kinds.Kind.TCP: _tcp,
    kinds.Kind.UDP: _udp,
    kinds.Kind.HTTP: _http,
    kinds.Kind.HTTPS: _http,
    kinds.Kind.DNS: _dns,
    kinds.Kind.PING: _ping,
}
