package tracing

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/protobuf/proto"
)

// tracesPath is where a collector takes spans.
// https://opentelemetry.io/docs/specs/otlp/#otlphttp-request
const tracesPath = "/v1/traces"

const (
	// requestLimit is that of OTLP's exporters.
	requestLimit = 10 * time.Second
	firstPause   = time.Second
	maxAnswer    = 64 << 10
)

// later are the answers after which the same may be sent again.
// https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes
var later = []int{
	http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

var (
	errEndpoint    = errors.New("want http://host:port or https://host:port, and no user in it")
	errCertificate = errors.New("no certificate in it")
)

// exporter is the SDK's way to a collector.
type exporter struct {
	url    string
	header http.Header
	client *http.Client
}

func newExporter(endpoint string, getenv func(string) string) (*exporter, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("trace endpoint: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("trace endpoint %s: %w", u.Redacted(), errEndpoint)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = tracesPath
	}
	header, err := headers(setting(getenv, "HEADERS"))
	if err != nil {
		return nil, err
	}
	header.Set("Content-Type", "application/x-protobuf")
	header.Set("User-Agent", "sidestep-agent")
	trusted, err := roots(setting(getenv, "CERTIFICATE"))
	if err != nil {
		return nil, err
	}
	return &exporter{
		url: u.String(), header: header,
		client: &http.Client{
			Timeout: requestLimit,
			Transport: &http.Transport{
				Proxy:           http.ProxyFromEnvironment,
				TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12},
			},
			// The headers, which may be secret, are for this host alone.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// roots returns the system's certificates with those of a file; nil, which
// means the system's, for no file.
func roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("the system's CAs: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE %s: %w", file, errCertificate)
	}
	return pool, nil
}

// ExportSpans implements sdktrace.SpanExporter. It tries until ctx ends while
// the collector asks to try again, or cannot be reached.
func (x *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	body, err := proto.Marshal(request(spans))
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	for pause := firstPause; ; pause *= 2 {
		again, err := x.send(ctx, body)
		if again < 0 || err == nil {
			return err
		}
		timer := time.NewTimer(max(again, pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// Shutdown implements sdktrace.SpanExporter.
func (x *exporter) Shutdown(context.Context) error {
	x.client.CloseIdleConnections()
	return nil
}

// send posts the body once. again is how long to wait before it may be tried
// again, -1 for never.
func (x *exporter) send(ctx context.Context, body []byte) (again time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, x.url, bytes.NewReader(body))
	if err != nil {
		return -1, err
	}
	r.Header = x.header
	answer, err := x.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	// Read to its end, so that the connection can be used again. What a
	// collector says of spans that it did not want cannot be fixed here.
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer))
	switch {
	case answer.StatusCode/100 == 2:
		return 0, nil
	case !slices.Contains(later, answer.StatusCode):
		return -1, fmt.Errorf("the collector answered with status %d", answer.StatusCode)
	}
	seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After")) // else the usual pause
	return time.Duration(max(seconds, 0)) * time.Second, fmt.Errorf("the collector answered with status %d", answer.StatusCode)
}
