package podcache

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

var podsDesc = prometheus.NewDesc("sidestep_pods",
	"Pods of this node that have not finished, by verdict; a pod with any steered container counts as steer.",
	[]string{"verdict"}, nil)

var staleDesc = prometheus.NewDesc("sidestep_pods_stale",
	"1 while pods are as an earlier agent knew them, since the API server has not answered this one yet; else 0.",
	nil, nil)

var unexplainedDesc = prometheus.NewDesc("sidestep_pods_unexplained",
	"Pods that have run here for 5 s and that the API server has not reported: while there are some, the agent may be blind.",
	nil, nil)

// collector counts the cache's pods when metrics are read.
type collector struct{ cache *Cache }

// Describe sends the metrics' descriptions.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- podsDesc
	ch <- staleDesc
	ch <- unexplainedDesc
}

// Collect sends the number of pods of each verdict, and whether they are stale.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	count := map[workload.Verdict]int{workload.Unknown: 0, workload.Pass: 0, workload.Steer: 0, workload.Deny: 0}
	c.cache.mu.RLock()
	for _, e := range c.cache.entries {
		if e.pod.Steered() {
			count[workload.Steer]++
		} else {
			count[e.pod.Decision.Verdict]++
		}
	}
	c.cache.mu.RUnlock()
	for v, n := range count {
		ch <- prometheus.MustNewConstMetric(podsDesc, prometheus.GaugeValue, float64(n), v.String())
	}
	stale := 0.0
	if _, is := c.cache.Stale(); is {
		stale = 1
	}
	ch <- prometheus.MustNewConstMetric(staleDesc, prometheus.GaugeValue, stale)
	ch <- prometheus.MustNewConstMetric(unexplainedDesc, prometheus.GaugeValue, float64(len(c.cache.Unexplained())))
}
