"""Gets tokens with azure-identity, and uses a vault with azure-keyvault-secrets."""

import uuid

from azure.identity import DefaultAzureCredential, ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient

import asking


def use_vault(url, credential):
    """Sets, reads and deletes a secret under a new name."""
    # The vault has an address for a name, and not one below vault.azure.net.
    secrets = SecretClient(url, credential, verify_challenge_resource=False)
    name, value = f"python-{uuid.uuid4()}", str(uuid.uuid4())
    secrets.set_secret(name, value)
    if secrets.get_secret(name).value != value:
        raise ValueError("the vault returned another value than was set")
    secrets.begin_delete_secret(name)
    return "ok"


def run():
    asked, tokens, vault = asking.request(), [], ""
    try:
        kind = DefaultAzureCredential if asked.mode == "default" else ManagedIdentityCredential
        credential = kind(**asking.credential_arguments(asked))
        for _ in range(2):
            tokens.append(credential.get_token(asked.resource + "/.default").token)
        if asked.vault:
            vault = use_vault(asked.vault, credential)
    except Exception as error:  # whatever it is, it is the answer
        asking.answer(tokens, repr(error), vault)
    else:
        asking.answer(tokens, "", vault)


run()
