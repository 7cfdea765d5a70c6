package workload

// Names that azure-workload-identity and AKS gave, and that pods, the webhook
// and this agent must agree on.
const (
	// UseLabel selects a pod where its value is "true".
	UseLabel = "azure.workload.identity/use"
	// ClientIDAnnotation and TenantIDAnnotation are of service accounts.
	ClientIDAnnotation = "azure.workload.identity/client-id"
	TenantIDAnnotation = "azure.workload.identity/tenant-id"
	// SkipContainersAnnotation of a pod names containers, with semicolons
	// between them, that are not steered.
	SkipContainersAnnotation = "azure.workload.identity/skip-containers"
	// TokenAudience is the audience that Entra wants in a service account token
	// for workload identity federation.
	TokenAudience = "api://AzureADTokenExchange"
	// BindingAudience is the audience of the service account token of a pod with
	// an AKS identity binding: its proxy takes it, and Entra does not.
	BindingAudience = "api://AKSIdentityBinding"
	// TokenProxyVariable is the environment variable that names that proxy.
	TokenProxyVariable = "AZURE_KUBERNETES_TOKEN_PROXY"
)

// IdentitiesAnnotation of a service account maps identities to client ids: a
// JSON list of MappedIdentity. It is Sidestep's own.
const IdentitiesAnnotation = "sidestep.dev/identities"
