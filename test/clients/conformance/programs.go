package main

import (
	"path/filepath"
	"runtime"

	"github.com/sidestep-agent/sidestep/test/standins/imds"
)

// aksServer is the API servers of AKS, as a resource of Entra.
const aksServer = "6dae42f8-4368-4678-94ff-3960e28e3630"

// programs are whole programs that use a managed identity, and not a library of
// Microsoft's alone.
func programs(dir string) []client {
	all := []client{
		{
			name: "HashiCorp Vault api 1.23.0, auth/azure 0.10.0", short: "vault-1.23.0",
			waits:   "10 s",
			retries: "never",
			command: []string{filepath.Join(dir, "go/vault-1.23.0")},
			// Each login asks for the instance as well, and nothing is cached.
			cases: managed(budget{probes: 2, tokens: 2}, "none"),
		},
		{
			name: "kubelogin 0.2.10", short: "kubelogin-0.2.10", resource: aksServer,
			waits:   "1 min for each try",
			retries: "5 times after 404, 410, 429 and 5xx, 2 s to 1 min apart (azidentity)",
			command: []string{filepath.Join(dir, "kubelogin/client.sh"), filepath.Join(dir, "go/kubelogin-0.2.10")},
			cases:   managed(uncached, "none", "client", "resource"), // a process for each token
		},
		{
			name: "@azure/storage-blob 12.34.0, to Azurite 3.37.0", short: "storage-blob-12.34.0", resource: "https://storage.azure.com", blobs: true,
			waits:   "no limit of its own",
			retries: "as @azure/identity 4.14.1",
			command: nodeClient(dir, "azurite-3.37.0"),
			cases:   managed(cached, "none", "client"),
		},
		{
			name: "rclone 1.60.1, to Azurite 3.37.0", short: "rclone-1.60.1", resource: "https://storage.azure.com", blobs: true,
			waits:   "1 min to connect, 5 min for an answer",
			retries: "never",
			command: []string{filepath.Join(dir, "rclone/client.sh")},
			// Two processes, neither of which keeps its first token.
			cases: managed(budget{tokens: 4}, "resource"),
		},
		{
			name: "Java 17's HttpClient", short: "java-httpclient-17",
			waits:   "no limit of its own",
			retries: "once after a connection that was reset",
			command: []string{filepath.Join(dir, "java/java"), "-cp", filepath.Join(dir, "java"), "Client"},
			cases:   managed(uncached, "client"),
		},
		{
			name: "lego 5.4.1, to Azure DNS", short: "lego-5.4.1", resource: "https://management.core.windows.net/", zone: true, silent: true,
			waits:   "2 s for its first token, 1 s for the default chain's probe",
			retries: "6 times after 404, 410, 429 and 5xx, within those 2 s; the probe never",
			command: []string{filepath.Join(dir, "go/lego-5.4.1")},
			cases:   both(managed(cached, "none"), chain(probing, "none", "client")),
		},
	}
	if runtime.GOARCH == "amd64" { // it is published for no other
		all = append(all, client{
			name: "azcopy 10.32.2, to Azurite 3.37.0", short: "azcopy-10.32.2", resource: "https://storage.azure.com", blobs: true, silent: true,
			waits:   "1 min for each try",
			retries: "5 times after 404, 410, 429 and 5xx, 2 s to 1 min apart (azidentity)",
			command: []string{filepath.Join(dir, "azcopy/client.sh"),
				filepath.Join(dir, "npm/azcopy-10.32.2/node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64")},
			cases: managed(budget{tokens: 3}, "none", "client", "resource"), // a process for each step
		})
	}
	for i := range all {
		all[i].program = true
	}
	return all
}

// detectors are what looks for the cloud that it runs in, and asks for no token.
// The paths of other clouds are none of IMDS's.
func detectors(dir string) []client {
	return []client{
		{
			name: "cloud detectors (Go)", short: "cloud-detectors",
			waits:   "AWS 0.5 s, Google Cloud 5 s, OpenTelemetry's for Azure no limit of its own",
			retries: "AWS 3 tries after 5xx, Google Cloud after 5xx, OpenTelemetry's for Azure never",
			command: []string{filepath.Join(dir, "go/cloud-detectors")},
			cases: []testCase{
				detect("aws", noCloud, 2), detect("gce", noCloud, 1),
				detect("otel-azure", thisVM, 1), detect("otel-aws", noCloud, 2), detect("otel-gcp", noCloud, 1),
			},
		},
		{
			name: "Kubernetes' cloud provider for Azure 0.29.15", short: "cloud-provider-0.29.15",
			waits:   "no limit of its own",
			retries: "never",
			command: []string{filepath.Join(dir, "go/cloud-provider-0.29.15")},
			// The load balancer too, where the instance has no public address.
			cases: []testCase{detect("instance", "azure "+imds.DefaultInstance.Name+" 10.224.0.4", 2)},
		},
		{
			name: "Elastic APM (elastic-apm-node) 4.18.0", short: "elastic-apm-4.18.0",
			waits:   "100 ms to connect, 1 s for an answer",
			retries: "never",
			command: nodeClient(dir, "elastic-apm-4.18.0"),
			cases:   []testCase{detect("auto", thisVM, 3)},
		},
		{
			name: "New Relic 14.5.1", short: "newrelic-14.5.1",
			waits:   "1 s",
			retries: "never",
			command: nodeClient(dir, "newrelic-14.5.1"),
			cases:   []testCase{detect("all", thisVM, 2)},
		},
	}
}
