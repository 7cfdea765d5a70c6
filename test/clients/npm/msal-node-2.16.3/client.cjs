// Gets tokens with MSAL for Node.js 2.16.3.
'use strict';

const { ManagedIdentityApplication } = require('@azure/msal-node');
const { main, unknown } = require('../main.cjs');

const options = (r) => {
  switch (`${r.mode} ${r.by}`) {
    case 'managed none':
      return {};
    case 'managed client':
      return { managedIdentityIdParams: { userAssignedClientId: r.id } };
    case 'managed object':
      return { managedIdentityIdParams: { userAssignedObjectId: r.id } };
    case 'managed resource':
      return { managedIdentityIdParams: { userAssignedResourceId: r.id } };
    default:
      throw unknown(r);
  }
};

main((r) => {
  const application = new ManagedIdentityApplication(options(r));
  return async () => (await application.acquireToken({ resource: r.resource })).accessToken;
});
