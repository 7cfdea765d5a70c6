// Package monitoring holds manifests/monitoring to what the agent exposes: its
// tests know every metric from docs/metrics.md, which a test of cmd/agent
// compares with the agent's registry, and read every expression with
// Prometheus' own parser. What the alert rules do is tested by promtool, in
// rules_test.yaml. It is a module of its own so that neither Prometheus nor its
// operator is among the agent's dependencies.
package monitoring
