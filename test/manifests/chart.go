package main

import (
	"context"
	"fmt"
	"path"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
)

// packageChart writes the chart as `helm package` would, into a directory, and
// returns the file's name.
func packageChart(from, dir string) (string, error) {
	c, err := loader.LoadDir(from)
	if err != nil {
		return "", fmt.Errorf("load %s: %w", from, err)
	}
	return chartutil.Save(c, dir)
}

// renderChart returns the chart's files as `helm template` renders them, by
// name. Values that its schema refuses are an error.
func renderChart(ctx context.Context, c *chart.Chart, values map[string]any) (map[string]string, error) {
	// Where Helm keeps the release, and as what, is not to make a difference.
	release := common.ReleaseOptions{Name: "any", Namespace: "kube-system", IsInstall: true}
	all, err := util.ToRenderValues(c, values, release, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	// Strict: a value that is missing is an error, not nothing.
	rendered, err := engine.Engine{Strict: true}.RenderWithContext(ctx, c, all)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for name, text := range rendered {
		if path.Ext(name) == ".yaml" {
			files[path.Base(name)] = text
		}
	}
	return files, nil
}
