"""The members' side of direct server return: what a member's machine needs, in which form, and whether it has it."""
