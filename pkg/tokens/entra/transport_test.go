package entra

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// selfSigned returns a server's certificate and the PEM that trusts it.
func selfSigned(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: t.Name()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func serveWith(t *testing.T, certificate tls.Certificate) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func TestCAFileIsReadAgainWhenItChanges(t *testing.T) {
	oldCertificate, oldPEM := selfSigned(t)
	newCertificate, newPEM := selfSigned(t)
	oldURL, newURL := serveWith(t, oldCertificate), serveWith(t, newCertificate)
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(oldPEM)
	var log bytes.Buffer
	transport, err := NewTransport(file, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	trusts := func(when, url string, want bool) {
		t.Helper()
		resp, err := (&http.Client{Transport: transport}).Get(url)
		if err == nil {
			_ = resp.Body.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s: %s trusted: %v, want %v (%v)", when, url, err == nil, want, err)
		}
	}
	trusts("at first", oldURL, true)
	trusts("at first", newURL, false)
	write(append(oldPEM, newPEM...))
	trusts("with both", oldURL, true)
	trusts("with both", newURL, true)
	write([]byte("-----BEGIN CERTIFICATE-----\nhalf written"))
	trusts("with a bad file", oldURL, true)
	trusts("with a bad file", newURL, true)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	trusts("without the file", newURL, true)
	trusts("without the file", newURL, true)
	write(newPEM)
	trusts("rotated", oldURL, false)
	trusts("rotated", newURL, true)
	if n := strings.Count(log.String(), "cannot be used"); n != 2 {
		t.Errorf("%d lines in the log for two bad states of the file:\n%s", n, log.String())
	}
}

func TestCAFileThatCannotBeUsedStopsTheStart(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, empty + ".not-there"} {
		if _, err := NewTransport(file, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("NewTransport with %s: error %v, want one that names the file", file, err)
		}
	}
}
