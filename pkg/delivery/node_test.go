package delivery

import (
	"net"
	"net/netip"
	"testing"
)

func TestNodeListening(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	elsewhere := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port())
	for where, want := range map[netip.AddrPort]bool{at: true, elsewhere: false} {
		if got, err := NodeListening(where); err != nil || got != want {
			t.Errorf("%s: %t, %v, want %t", where, got, err, want)
		}
	}
	// A connection from there, or to there, is no listener.
	c, err := net.Dial("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l.Close()
	for _, where := range []netip.AddrPort{at, c.LocalAddr().(*net.TCPAddr).AddrPort()} {
		if got, err := NodeListening(where); err != nil || got {
			t.Errorf("%s: %t, %v, want no listener", where, got, err)
		}
	}
}
