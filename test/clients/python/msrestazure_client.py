"""Gets tokens with msrestazure, which the libraries before azure-identity use."""

from msrestazure.azure_active_directory import MSIAuthentication

import asking

ARGUMENTS = {"none": None, "client": "client_id", "object": "object_id", "resource": "msi_res_id"}


def run():
    asked, tokens = asking.request(), []
    try:
        if asked.mode != "managed":
            raise asking.Unknown(f"no mode {asked.mode!r}")
        name = ARGUMENTS[asked.by]
        credential = MSIAuthentication(resource=asked.resource, **({name: asked.id} if name else {}))
        for _ in range(2):
            credential.set_token()
            tokens.append(credential.token["access_token"])
    except Exception as error:  # whatever it is, it is the answer
        asking.answer(tokens, repr(error))
    else:
        asking.answer(tokens)


run()
