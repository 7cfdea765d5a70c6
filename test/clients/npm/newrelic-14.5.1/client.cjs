// Has New Relic's agent look for the cloud that it runs in, as it does before it
// connects, and prints what it found. It sends to 169.254.169.254 by nature; the
// suite runs it where that address is its own, and nobody else should run it.
'use strict';

const Agent = require('newrelic/lib/agent');
const Config = require('newrelic/lib/config');
const utilization = require('newrelic/lib/utilization');

async function detect() {
  const agent = new Agent(
    Config.initialize({
      app_name: ['client'],
      license_key: 'x'.repeat(40),
      logging: { enabled: false },
      utilization: { detect_docker: false, detect_kubernetes: false },
    })
  );
  const found = await utilization.getVendors(agent);
  const clouds = Object.keys(found || {}).filter((vendor) => ['aws', 'azure', 'gcp'].includes(vendor));
  return clouds.map((vendor) => `${vendor} ${found[vendor].vmId || found[vendor].id}`).join(', ') || 'none';
}

detect()
  .then((cloud) => ({ tokens: [], error: '', cloud }))
  .catch((error) => ({ tokens: [], error: String(error) }))
  .then((result) => process.stdout.write(JSON.stringify(result) + '\n', () => process.exit()));
