package entra

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Site serves a Server over TLS at a port of its own, and can be without a
// listener for a while. Close it after use.
type Site struct {
	server  *Server
	secure  *tls.Config
	address netip.AddrPort
	// reserved is bound to the port and never listens: the port stays the
	// site's while connections to it are refused.
	reserved int

	mu   sync.Mutex
	http *http.Server // nil: no listener
}

// OpenSite serves the server at a free port of the address.
func OpenSite(at netip.Addr, server *Server, certificate tls.Certificate) (*Site, error) {
	fd, address, err := reserve(at)
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	s := &Site{server: server, secure: server.TLS(certificate), address: address, reserved: fd}
	if err := s.listen(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// reserve binds a socket to a free port of the address.
func reserve(at netip.Addr) (int, netip.AddrPort, error) {
	family, name := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: at.As16()})
	if at.Is4() {
		family, name = unix.AF_INET, &unix.SockaddrInet4{Addr: at.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, netip.AddrPort{}, err
	}
	// Go's listeners set SO_REUSEADDR as well: both may be bound then, as long
	// as only one listens.
	bound, err := func() (unix.Sockaddr, error) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return nil, err
		}
		if err := unix.Bind(fd, name); err != nil {
			return nil, err
		}
		return unix.Getsockname(fd)
	}()
	if err != nil {
		_ = unix.Close(fd)
		return -1, netip.AddrPort{}, err
	}
	port := 0
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		port = b.Port
	case *unix.SockaddrInet6:
		port = b.Port
	}
	return fd, netip.AddrPortFrom(at, uint16(port)), nil
}

func (s *Site) listen() error {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	l, err := plain.Listen(context.Background(), "tcp", s.address.String())
	if err != nil {
		return fmt.Errorf("listen for Entra: %w", err)
	}
	server := &http.Server{
		Handler: s.server, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: log.New(io.Discard, "", 0), // of handshakes that are meant to fail
	}
	s.http = server
	go func() {
		if err := server.Serve(tls.NewListener(l, s.secure)); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // a stand-in that is silently gone would pass for a fault
		}
	}()
	return nil
}

// URL returns the authority, "https://host:port".
func (s *Site) URL() string { return "https://" + s.address.String() }

// Address returns where the site is reached.
func (s *Site) Address() netip.AddrPort { return s.address }

// SetFault breaks the site and its server, or with the zero Fault repairs them.
// Connections that are open are closed before the listener is.
func (s *Site) SetFault(fault Fault) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server.SetFault(fault)
	switch {
	case fault.Refuse && s.http != nil:
		err := s.http.Close()
		s.http = nil
		return err
	case !fault.Refuse && s.http == nil:
		return s.listen()
	}
	return nil
}

// Close ends the site.
func (s *Site) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		_ = s.http.Close()
		s.http = nil
	}
	_ = unix.Close(s.reserved)
}
