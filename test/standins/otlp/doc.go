// Package otlp stands in for an OpenTelemetry collector: it takes spans by
// OTLP over HTTP in protobuf, refuses what a collector would, and writes each
// span in a log that tests read.
package otlp
