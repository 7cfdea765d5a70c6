"""What the suite's Python clients have in common: arguments and output.

They send to 169.254.169.254 by nature; the suite runs them where that address
is its own, and nobody else should run them.
"""

import json
import sys
from collections import namedtuple

# mode is "managed" or "default", by is "none", "client", "object" or
# "resource", vault the URL of a vault, empty for no visit to one.
Request = namedtuple("Request", "mode by id resource vault")


class Unknown(Exception):
    """The client lacks what is asked for."""


def request():
    """Returns what the program's arguments ask for."""
    return Request(*sys.argv[1:6])


def answer(tokens, error="", vault=""):
    """Prints what came back, as one line."""
    print(json.dumps({"tokens": tokens, "error": error, "vault": vault}))


def credential_arguments(asked):
    """Returns the keyword arguments of azure-identity's credential."""
    known = {
        ("managed", "none"): {},
        ("managed", "client"): {"client_id": asked.id},
        ("managed", "object"): {"identity_config": {"object_id": asked.id}},
        ("managed", "resource"): {"identity_config": {"mi_res_id": asked.id}},
        ("default", "none"): {},
        ("default", "client"): {"managed_identity_client_id": asked.id},
    }
    try:
        return known[asked.mode, asked.by]
    except KeyError:
        raise Unknown(f"no mode {asked.mode!r} with an identity named by {asked.by!r}") from None
