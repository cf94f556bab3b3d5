"""`onward api`: what stands in `[api]` for those who may use it."""

import secrets
import sys
from getpass import getpass

from cyclopts import App

from appliance.cli.help import HelpFormatter, with_object
from appliance.cli.output import Exit, complain
from appliance.passwords import LONGEST, SALT_BYTES, TOKEN_BYTES, hashed, token_digest

SHORTEST = 8
app = App(
    name="api",
    help="See and change how the API is configured; make what stands there for those who may use it.",
    help_formatter=HelpFormatter(),
)
with_object(app, "api")


@app.command
def hash_password() -> int:
    """Ask for a password, and print what stands for it in the configuration: password_hash of an [[api.user]].

    Where nobody can be asked, it is the first line of standard input.
    """
    if sys.stdin.isatty():
        password = getpass("Password: ")
        if getpass("Again: ") != password:
            complain("these are two different ones")
            return Exit.FAILED
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not SHORTEST <= len(password.encode()) <= LONGEST:
        complain(f"a password has {SHORTEST} to {LONGEST} bytes")
        return Exit.USAGE
    print(hashed(password, secrets.token_bytes(SALT_BYTES)))
    return Exit.OK


@app.command
def new_token() -> int:
    """Print a new token, and what stands for it in the configuration: token_hash of an [[api.token]].

    Programs send the token as `Authorization: Bearer TOKEN`; it is not kept anywhere.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    print(f"token       {token}\ntoken_hash  sha256:{token_digest(token).hex()}")
    return Exit.OK
