package workload

// IdentityBinding says how a pod with an AKS identity binding gets its tokens:
// from a proxy in the cluster, and not from Entra itself. The fields are what
// the pod's environment says, unchecked.
type IdentityBinding struct {
	TokenProxy string // AZURE_KUBERNETES_TOKEN_PROXY, an https URL
	SNIName    string // AZURE_KUBERNETES_SNI_NAME; empty: the URL's host
	CAData     string // AZURE_KUBERNETES_CA_DATA, PEM; it goes before CAFile
	// CAFile is AZURE_KUBERNETES_CA_FILE, whole, for messages; empty: not set.
	CAFile string
	// CA is where that file is. Nil where it is in no volume that the kubelet
	// keeps in the pod's directory.
	CA *VolumeFile
}

// VolumeFile is a file of a volume in the pod's directory.
type VolumeFile struct {
	Plugin string // the kubelet's directory for volumes of this kind, as "kubernetes.io~projected"
	Volume string // the volume's name
	Path   string // the file's path in the volume
}
