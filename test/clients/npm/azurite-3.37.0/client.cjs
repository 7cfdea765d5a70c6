// Gets tokens with @azure/identity 4.14.1, and writes, reads and deletes a blob
// with @azure/storage-blob 12.34.0 where LAB_BLOB_URL says that an account is.
'use strict';

const { ManagedIdentityCredential } = require('@azure/identity');
const { BlobServiceClient } = require('@azure/storage-blob');
const { randomUUID } = require('crypto');
const { main, unknown } = require('../main.cjs');

const open = (r) => {
  switch (`${r.mode} ${r.by}`) {
    case 'managed none':
      return new ManagedIdentityCredential();
    case 'managed client':
      return new ManagedIdentityCredential({ clientId: r.id });
    default:
      throw unknown(r);
  }
};

async function roundtrip(credential) {
  const container = new BlobServiceClient(process.env.LAB_BLOB_URL, credential).getContainerClient(randomUUID());
  const text = randomUUID();
  await container.create();
  const blob = container.getBlockBlobClient('blob');
  await blob.upload(text, text.length);
  const got = (await blob.downloadToBuffer()).toString();
  await container.delete();
  return got === text ? 'ok' : 'another content than was written';
}

main((r) => {
  const credential = open(r);
  const scope = `${r.resource}/.default`;
  return async (result) => {
    if (process.env.LAB_BLOB_URL && !result.blob) {
      result.blob = await roundtrip(credential);
    }
    return (await credential.getToken(scope)).token;
  };
});
