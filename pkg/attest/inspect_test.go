package attest

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// connect returns both ends of a loopback connection.
func connect(t *testing.T, network, listen, dial string) (client, accepted *net.TCPConn) {
	t.Helper()
	l, err := net.Listen(network, listen)
	if err != nil {
		t.Skipf("no %s here: %v", network, err)
	}
	t.Cleanup(func() { _ = l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", net.JoinHostPort(dial, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func TestInspect(t *testing.T) {
	for name, network := range map[string][2]string{"v4": {"tcp4", "127.0.0.1:0"}, "v4-mapped": {"tcp", "[::]:0"}} {
		t.Run(name, func(t *testing.T) {
			client, accepted := connect(t, network[0], network[1], "127.0.0.1")
			got, err := inspect(accepted, 7)
			want := workload.Connection{
				NetnsCookie: 7,
				Client:      netip.MustParseAddrPort(client.LocalAddr().String()),
				Server:      netip.MustParseAddrPort(client.RemoteAddr().String()),
			}
			if err != nil || got != want {
				t.Errorf("inspect = %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func TestInspectOfAConnectionThatEnds(t *testing.T) {
	client, accepted := connect(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(accepted); err != nil { // until the FIN is here
		t.Fatal(err)
	}
	if got, err := inspect(accepted, 7); err != nil {
		t.Errorf("half closed: inspect = %+v, %v", got, err)
	}
	if err := accepted.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := inspect(accepted, 7); !errors.Is(err, ErrNotEstablished) {
		t.Errorf("closed: inspect = %+v, %v, want ErrNotEstablished", got, err)
	}
}
