"""`onward member add|set|remove`: members of pools, as they are configured."""

from appliance.cli.nouns import creating, deleting, setting
from appliance.cli.options import options_of
from appliance.objects.kinds import MEMBERS

OPTIONS = options_of(MEMBERS.table, without=("name",))

add = creating(MEMBERS, OPTIONS, "Add a member to a pool. NAME is POOL/MEMBER.", "added")
set_keys = setting(MEMBERS, OPTIONS, "Change some keys of a member, as configured. NAME is POOL/MEMBER.")
remove = deleting(MEMBERS, "Remove a member from a pool; the flows that it has go on. NAME is POOL/MEMBER.")
