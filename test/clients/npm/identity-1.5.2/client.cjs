// Gets tokens with @azure/identity 1.5.2.
'use strict';

const { DefaultAzureCredential, ManagedIdentityCredential } = require('@azure/identity');
const { main, unknown } = require('../main.cjs');

const open = (r) => {
  switch (`${r.mode} ${r.by}`) {
    case 'managed none':
      return new ManagedIdentityCredential();
    case 'managed client':
      return new ManagedIdentityCredential(r.id);
    case 'default none':
      return new DefaultAzureCredential();
    case 'default client':
      return new DefaultAzureCredential({ managedIdentityClientId: r.id });
    default:
      throw unknown(r);
  }
};

main((r) => {
  const credential = open(r);
  return async () => (await credential.getToken(`${r.resource}/.default`)).token;
});
