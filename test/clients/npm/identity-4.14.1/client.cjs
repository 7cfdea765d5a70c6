// Gets tokens with @azure/identity 4.14.1.
'use strict';

const { DefaultAzureCredential, ManagedIdentityCredential } = require('@azure/identity');
const { main, unknown } = require('../main.cjs');

const options = (r) => {
  switch (`${r.mode} ${r.by}`) {
    case 'managed none':
    case 'default none':
      return {};
    case 'managed client':
      return { clientId: r.id };
    case 'managed object':
      return { objectId: r.id };
    case 'managed resource':
      return { resourceId: r.id };
    case 'default client':
      return { managedIdentityClientId: r.id };
    case 'default resource':
      return { managedIdentityResourceId: r.id };
    default:
      throw unknown(r);
  }
};

main((r) => {
  const Credential = r.mode === 'default' ? DefaultAzureCredential : ManagedIdentityCredential;
  const credential = new Credential(options(r));
  return async () => (await credential.getToken(`${r.resource}/.default`)).token;
});
