package podcache

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// identityBinding returns the identity binding that the webhook injected, and
// the token for it; nil and nil if the pod has none. The audience decides:
// with a token for Entra a pod is served by Entra, whatever else is set.
func identityBinding(s *corev1.PodSpec) (*workload.IdentityBinding, *workload.ProjectedToken) {
	token := projectedToken(s, workload.BindingAudience)
	if token == nil {
		return nil, nil
	}
	for _, c := range allContainers(s) {
		proxy := ownValue(c, workload.TokenProxyVariable)
		if proxy == "" {
			continue
		}
		file := ownValue(c, "AZURE_KUBERNETES_CA_FILE")
		return &workload.IdentityBinding{
			TokenProxy: proxy,
			SNIName:    ownValue(c, "AZURE_KUBERNETES_SNI_NAME"),
			CAData:     ownValue(c, "AZURE_KUBERNETES_CA_DATA"),
			CAFile:     file,
			CA:         volumeFile(s, c, file),
		}, token
	}
	return nil, nil
}

// volumeFile finds the volume in which a container sees a file, and the file
// in it; nil if that is no volume that the kubelet writes for this pod alone.
func volumeFile(s *corev1.PodSpec, c corev1.Container, file string) *workload.VolumeFile {
	if !path.IsAbs(file) {
		return nil
	}
	file = path.Clean(file)
	var mount *corev1.VolumeMount
	for i, m := range c.VolumeMounts {
		at := path.Clean(m.MountPath)
		if strings.HasPrefix(file, at+"/") && (mount == nil || len(at) > len(path.Clean(mount.MountPath))) {
			mount = &c.VolumeMounts[i]
		}
	}
	if mount == nil || mount.SubPath != "" || mount.SubPathExpr != "" {
		return nil
	}
	plugin := volumePlugin(s, mount.Name)
	if plugin == "" {
		return nil
	}
	return &workload.VolumeFile{
		Plugin: plugin, Volume: mount.Name,
		Path: strings.TrimPrefix(file, path.Clean(mount.MountPath)+"/"),
	}
}

// volumePlugin returns the kubelet's name for the plugin of a volume from
// which a certificate may be read, or "".
func volumePlugin(s *corev1.PodSpec, name string) string {
	for _, v := range s.Volumes {
		switch {
		case v.Name != name:
		case v.Projected != nil:
			return "kubernetes.io~projected"
		case v.ConfigMap != nil:
			return "kubernetes.io~configmap"
		}
	}
	return ""
}
