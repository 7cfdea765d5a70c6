// Gets tokens with @azure/ms-rest-nodeauth 3.1.1.
'use strict';

const { MSIVmTokenCredentials } = require('@azure/ms-rest-nodeauth');
const { main, unknown } = require('../main.cjs');

const options = (r) => {
  switch (`${r.mode} ${r.by}`) {
    case 'managed none':
      return {};
    case 'managed client':
      return { clientId: r.id };
    case 'managed object':
      return { objectId: r.id };
    case 'managed resource':
      return { identityId: r.id };
    default:
      throw unknown(r);
  }
};

main((r) => {
  const credential = new MSIVmTokenCredentials({ resource: r.resource, ...options(r) });
  return async () => (await credential.getToken()).accessToken;
});
