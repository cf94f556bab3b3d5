"""Live figures of services and members: a small part of the status document, for those who look every second. Pure."""

from collections.abc import Mapping
from typing import Any

Document = dict[str, Any]


def figures_document(status: Mapping[str, Any]) -> Document:
    """
    Args:
        status: `views.status_document`.
    """
    counters = status["counters"]
    return {
        "apiVersion": status["apiVersion"],
        "time": status["time"],
        "health": status["health"]["state"],
        "services": {
            service["name"]: {
                "state": service["state"],
                "in_rotation": service["in_rotation"],
                "vips": {vip["vip"]: {"announced": vip["announced"], **vip["traffic"]} for vip in service["vips"]},
            }
            for service in status["services"]
        },
        "members": {
            member["id"]: {
                "state": member["state"],
                "share": member["share"],
                "flows_remembered": member["flows_remembered"],
                **member["traffic"],
            }
            for pool in status["pools"].values()
            for member in pool["members"]
        },
        "drops": counters["drops"] if counters is not None else None,
        "pins": status["pins"],
        "loop_lag": status["loop_lag"],
    }
