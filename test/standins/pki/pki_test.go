package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"testing"
)

func TestIssuedCertificateHoldsForItsHostsOnly(t *testing.T) {
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	issued, err := a.Issue("vault.test", "10.1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(issued.CertificatePEM)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for host, good := range map[string]bool{
		"vault.test": true, "10.1.2.3": true, "127.0.0.1": true, "localhost": true,
		"other.test": false, "10.1.2.4": false,
	} {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), DNSName: host})
		if (err == nil) != good {
			t.Errorf("%s: verified %v, want %v (%v)", host, err == nil, good, err)
		}
	}
}

func TestAuthorityOutlivesARestart(t *testing.T) {
	dir := t.TempDir()
	before, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	after, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before.PEM(), after.PEM()) || !before.key.Equal(after.key) {
		t.Error("the CA in the directory is not the one that was made")
	}
}
