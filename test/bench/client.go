package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// client speaks just enough HTTP to ask the same again and again, on a
// blocking socket and with one system call each way: what it costs itself
// would hide what the server costs.
type client struct {
	fd     int
	buffer []byte
	answer []byte // of the last request
}

func newClient() *client { return &client{fd: -1, buffer: make([]byte, 64<<10)} }

var errNotOK = errors.New("the answer is not a token")

// dial opens a new connection.
func (c *client) dial(to netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("connect to %s: %w", to, err)
	}
	c.fd = fd
	return nil
}

func (c *client) close() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		c.fd = -1
	}
}

func (c *client) send(request []byte) error {
	_, err := unix.Write(c.fd, request)
	return err
}

// receive reads one whole answer.
func (c *client) receive() error {
	got := 0
	for {
		n, err := unix.Read(c.fd, c.buffer[got:])
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("the connection ended in an answer")
		}
		got += n
		whole, err := answerSize(c.buffer[:got])
		if err != nil {
			return err
		}
		if whole > 0 && got >= whole {
			c.answer = c.buffer[:got]
			return nil
		}
	}
}

// exchange sends and receives.
func (c *client) exchange(request []byte) error {
	if err := c.send(request); err != nil {
		return err
	}
	return c.receive()
}

var (
	statusOK      = []byte("HTTP/1.1 200 ")
	contentLength = []byte("Content-Length: ")
	endOfHeader   = []byte("\r\n\r\n")
	endOfLine     = []byte("\r\n")
)

// answerSize returns how long the answer is that begins with text; 0 if too
// little of it is there to tell.
func answerSize(text []byte) (int, error) {
	end := bytes.Index(text, endOfHeader)
	if end < 0 {
		return 0, nil
	}
	if !bytes.HasPrefix(text, statusOK) {
		return 0, fmt.Errorf("%w: %.200q", errNotOK, text)
	}
	at := bytes.Index(text[:end], contentLength)
	if at < 0 {
		return 0, fmt.Errorf("%w: no Content-Length", errNotOK)
	}
	digits, _, _ := bytes.Cut(text[at+len(contentLength):], endOfLine)
	length, err := strconv.Atoi(string(digits))
	return end + len(endOfHeader) + length, err
}
