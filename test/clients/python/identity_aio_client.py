"""Gets tokens with azure-identity, and uses a vault, all of it with asyncio."""

import asyncio
import uuid

from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential
from azure.keyvault.secrets.aio import SecretClient

import asking


async def use_vault(url, credential):
    """Sets, reads and deletes a secret under a new name."""
    # The vault has an address for a name, and not one below vault.azure.net.
    async with SecretClient(url, credential, verify_challenge_resource=False) as secrets:
        name, value = f"python-aio-{uuid.uuid4()}", str(uuid.uuid4())
        await secrets.set_secret(name, value)
        if (await secrets.get_secret(name)).value != value:
            raise ValueError("the vault returned another value than was set")
        await secrets.delete_secret(name)
    return "ok"


async def run():
    asked, tokens, vault = asking.request(), [], ""
    try:
        kind = DefaultAzureCredential if asked.mode == "default" else ManagedIdentityCredential
        async with kind(**asking.credential_arguments(asked)) as credential:
            for _ in range(2):
                tokens.append((await credential.get_token(asked.resource + "/.default")).token)
            if asked.vault:
                vault = await use_vault(asked.vault, credential)
    except Exception as error:  # whatever it is, it is the answer
        asking.answer(tokens, repr(error), vault)
    else:
        asking.answer(tokens, "", vault)


asyncio.run(run())
