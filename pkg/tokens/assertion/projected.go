package assertion

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/sidestep-agent/sidestep/pkg/tokens/podfile"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// read returns the token that the kubelet projects into the pod. It reads the
// file at each call, since the kubelet renews it.
func (s Source) read(_ context.Context, w workload.Workload) (string, error) {
	if w.Projected == nil {
		return "", refused("the pod has no projected service account token for the audience %s: "+
			"let the azure-workload-identity webhook add it (install the webhook, then recreate the pod), add the volume to the pod's spec, "+
			"or start the agent with the --token-audience of the pod's own token", s.Audience)
	}
	raw, err := s.Pods.Read(w.PodUID, workload.VolumeFile{
		Plugin: "kubernetes.io~projected", Volume: w.Projected.Volume, Path: w.Projected.Path,
	})
	if err != nil {
		return "", readError(err)
	}
	return strings.TrimSpace(string(raw)), nil
}

func readError(err error) *workload.TokenError {
	var e *workload.TokenError
	switch {
	case errors.Is(err, podfile.ErrPath):
		e = refused("the pod's projected service account token has a path that cannot be used")
	case errors.Is(err, podfile.ErrTooLong):
		e = refused("the pod's projected service account token is too long to be one")
	case errors.Is(err, podfile.ErrElsewhere):
		e = refused("the pod's projected service account token is not a file in the pod's own directory")
	case errors.Is(err, fs.ErrNotExist):
		e = unavailable("the kubelet has not written the pod's projected service account token yet")
	default:
		e = unavailable("the pod's projected service account token cannot be read")
	}
	e.Err = err
	return e
}
