package tracing

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

var errHeaders = errors.New("want name=value,name=value, with values as in URLs")

// setting returns what OpenTelemetry's variable says, the one for traces before
// the one for all signals.
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
func setting(getenv func(string) string, name string) string {
	if v := getenv("OTEL_EXPORTER_OTLP_TRACES_" + name); v != "" {
		return v
	}
	return getenv("OTEL_EXPORTER_OTLP_" + name)
}

// headers reads the form of the variable, W3C's baggage without properties.
// Its errors do not repeat it: a header may be secret.
func headers(list string) (http.Header, error) {
	all := http.Header{}
	for member := range strings.SplitSeq(list, ",") {
		member = strings.TrimSpace(member)
		if member == "" {
			continue
		}
		name, value, ok := strings.Cut(member, "=")
		name = strings.TrimSpace(name)
		decoded, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || name == "" || err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_HEADERS: %w", errHeaders)
		}
		all.Set(name, decoded)
	}
	return all, nil
}
