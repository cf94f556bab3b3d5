"""Configurations of other load balancers, read into one of ours. Pure.

An importer turns a text into a document for our configuration file and a report of all that the document does not say.
To add one, write a module with a function of that shape and name it in IMPORTERS.
"""

from collections.abc import Mapping

from appliance.importers import avi, ipvsadm, keepalived
from appliance.importers.base import Importer

IMPORTERS: Mapping[str, Importer] = {
    "avi": avi.read,
    "keepalived": keepalived.read,
    "ipvsadm": ipvsadm.read,
}
