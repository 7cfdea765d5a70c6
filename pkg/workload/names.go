package workload

// Names that azure-workload-identity gave, and that pods, its webhook and this
// agent must agree on.
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
)
