// Package metricsserver serves what anybody who reaches the node may ask for:
// the agent's metrics and whether it is well. It bounds connections, their time
// and what an answer costs, so that whoever floods the port neither costs the
// agent its memory nor keeps Prometheus from its scrape. It knows nothing of
// what the metrics are.
package metricsserver
